"""A hybrid world: words are written, then a picture is drawn from noise, and both are one decision process.

The words are a tabular token MDP with temperature β; behind each of its responses z stands a chain of T denoising steps
over K states with a temperature γ of its own (Appendix D of arXiv 2404.12358). The first state of the chain, the noise
y_T, is nobody's decision: it is drawn. With V_y(y_t, z) the soft value before a step and V(x) that of the prompt,

    r(x, y) = β Σ log π*/π_ref + γ Σ_t log p*/p_ref + V(x) + [V_y(y_T, z) − E V_y(·, z)],

whose last term, the luck of the noise, is missing in Eq. 17 of the paper.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.errors import UserError
from tokenq.worlds.draws import normal
from tokenq.worlds.mdp import MAX_STATES, Sequences, TokenMDP
from tokenq.worlds.soft_q import SoftOptimum, evaluate, log_ratios
from tokenq.worlds.soft_q import solve as solve_words


@dataclass(frozen=True, eq=False)
class HybridWorld:
    """A world of N responses in words, each of which is drawn in T steps among K states; in float64.

    Attributes:
        words: the token MDP of the words, β its temperature, without an environment.
        gamma: γ, KL temperature of drawing.
        noise_logps: [K] log probability of each noise y_T; −inf where none begins.
        step_logps: [N, T, K, K] log p_ref(y_{t−1} | y_t, z), the first step of drawing first; −inf for none.
        rewards: [N, K] r of a picture y_0 that is drawn for words z.
    """

    words: TokenMDP
    gamma: float
    noise_logps: Float[Tensor, " K"]
    step_logps: Float[Tensor, "N T K K"]
    rewards: Float[Tensor, "N K"]

    @cached_property
    def sequences(self) -> Sequences:
        """All responses in words: row n is what `step_logps[n]` draws."""
        return self.words.sequences()

    @property
    def n_steps(self) -> int:
        """T."""
        return self.step_logps.shape[1]

    def with_values(self, values: Float[Tensor, " N"]) -> TokenMDP:
        """Return the words with what the drawing is worth added to the reward of their last token."""
        rows, last = torch.arange(len(values)), self.sequences.valid.sum(-1) - 1
        rewards = self.words.rewards.clone()
        rewards[self.sequences.states[rows, last], self.sequences.tokens[rows, last]] += values
        return replace(self.words, rewards=rewards)

    def drawings(self) -> "Drawings":
        """Return every episode that can come: words, noise and path.

        Raises:
            UserError: there are more than are enumerated.
        """
        states, steps = len(self.noise_logps), self.n_steps
        count = len(self.sequences) * states ** (steps + 1)
        if count > MAX_STATES:
            raise UserError(
                f"{len(self.sequences)} responses drawn in {steps} steps among {states} states are {count:,} episodes, "
                f"and {MAX_STATES:,} are enumerated.",
                "Take fewer words, steps or states.",
            )
        path = torch.cartesian_prod(*[torch.arange(states)] * (steps + 1)).reshape(-1, steps + 1)
        responses = torch.arange(len(self.sequences)).repeat_interleave(len(path))
        every = Drawings(responses, path.repeat(len(self.sequences), 1))
        chances = self.noise_logps[every.path[:, 0]] + every.taken(self.step_logps).sum(-1)
        possible = torch.isfinite(chances)
        return Drawings(every.responses[possible], every.path[possible])


class Drawings(NamedTuple):
    """D episodes: words, and the states that the picture went through.

    Attributes:
        responses: [D] the words, as rows of the world's sequences.
        path: [D, T+1] y_T, …, y_0.
    """

    responses: Int[Tensor, " D"]
    path: Int[Tensor, "D T+1"]

    def taken(self, table: Float[Tensor, "N T K K"]) -> Float[Tensor, "D T"]:
        """Return the table's entry of every step."""
        steps = torch.arange(table.shape[1])
        return table[self.responses[:, None], steps, self.path[:, :-1], self.path[:, 1:]]


class HybridOptimum(NamedTuple):
    """The solution of max E r − β KL(π‖π_ref) − γ E KL(p‖p_ref).

    Attributes:
        words: the optimum of the words: V(x) at the prompts, log π*.
        values: [N, T+1, K] V_y before each step, the picture's reward last.
        noise_values: [N] E V_y(y_T, z) over the noise: what words are worth to the refiner.
        step_logps: [N, T, K, K] log p*.
    """

    words: SoftOptimum
    values: Float[Tensor, "N T+1 K"]
    noise_values: Float[Tensor, " N"]
    step_logps: Float[Tensor, "N T K K"]


def hybrid(
    words: TokenMDP,
    gamma: float,
    noise: Float[Tensor, " K"],
    steps: Float[Tensor, "N T K K"],
    rewards: Float[Tensor, "N K"],
) -> HybridWorld:
    """Return a hybrid world from probabilities, checked.

    Args:
        words: the words, without an environment.
        gamma: KL temperature of drawing.
        noise: [K] probability of each noise.
        steps: [N, T, K, K] probability of each state after each; N responses in the order of `words.sequences()`.
        rewards: [N, K] reward of each picture for each words.

    Raises:
        UserError: temperatures that are not positive, tables that do not fit or are no distributions, a chain in which
            every step is certain.
    """
    if not (words.beta > 0 and gamma > 0):
        raise UserError(
            f"beta = {words.beta} and gamma = {gamma}: a temperature of 0 or below has no soft optimum.",
            "Both must be above 0. To keep one of the two models as it is, leave its actions out of the loss.",
        )
    if words.environment.any():
        raise UserError("These words have an environment.", "Take words that are all the policy's.")
    responses, states = len(words.sequences()), len(noise)
    shape = tuple(steps.shape)
    if len(shape) != 4 or shape[0] != responses or shape[2:] != (states, states) or not shape[1]:
        raise UserError(
            f"The steps are a table of {shape}, and there are {responses} responses and {states} noises.",
            f"It takes [{responses}, T, {states}, {states}] with at least one step.",
        )
    if tuple(rewards.shape) != (responses, states) or not torch.isfinite(rewards).all():
        raise UserError(
            f"The rewards are a table of {tuple(rewards.shape)}, finite: {bool(torch.isfinite(rewards).all())}.",
            f"It takes a number for each of {responses} responses and {states} pictures.",
        )
    for what, table in (("noise", noise), ("steps", steps)):
        wrong = (table < 0).any(-1) | ~torch.isclose(table.sum(-1), table.new_ones(()))
        if wrong.any():
            raise UserError(
                f"The {what} hold {int(wrong.sum())} rows that are no distribution.",
                "Each row is probabilities that sum to 1.",
            )
    if (steps.amax(-1) == 1).all():
        raise UserError(
            "Every step of this chain is certain, as in a sampler without noise (eta 0): nothing is decided here.",
            "Take a sampler with noise in its steps (eta above 0): only where several pictures can come is one chosen.",
        )
    return HybridWorld(words, gamma, noise.log(), steps.log(), rewards)


def random_chains(
    words: TokenMDP,
    dice: torch.Generator,
    noise: Float[Tensor, " K"],
    steps: int,
    *,
    gamma: float,
    share: float = 1.0,
    spread: float = 1.0,
    scale: float = 1.0,
) -> HybridWorld:
    """Return these words with a random chain and random rewards behind each response.

    Args:
        words: the words.
        dice: what draws.
        noise: [K] probability of each noise.
        steps: T.
        gamma: KL temperature of drawing.
        share: how much of a step moves; the rest stays where it is.
        spread: standard deviation of the logits of a step.
        scale: standard deviation of the rewards.
    """
    responses, states = len(words.sequences()), len(noise)
    moved = (spread * normal((responses, steps, states, states), dice)).softmax(-1)
    chances = share * moved + (1 - share) * torch.eye(states, dtype=torch.float64)
    return hybrid(words, gamma, noise, chances, scale * normal((responses, states), dice))


def solve(world: HybridWorld) -> HybridOptimum:
    """Return the soft optimum by backward induction: γ through the steps, the noise in expectation, β through words."""
    gamma, after = world.gamma, world.rewards
    values, optimal = [after], list[Tensor]()
    for step in reversed(range(world.n_steps)):
        gains = world.step_logps[:, step] + after[:, None] / gamma
        after = gamma * gains.logsumexp(-1)
        optimal.insert(0, gains - after[..., None] / gamma)
        values.insert(0, after)
    expected = after @ world.noise_logps.exp()
    words = solve_words(world.with_values(expected))
    return HybridOptimum(words, torch.stack(values, 1), expected, torch.stack(optimal, 1))


def objective(
    world: HybridWorld, word_logps: Float[Tensor, "S V"], step_logps: Float[Tensor, "N T K K"]
) -> Float[Tensor, " prompts"]:
    """Return J = E r − β KL(π‖π_ref) − γ E KL(p‖p_ref) at each prompt."""
    after = world.rewards
    price = world.gamma * log_ratios(step_logps, world.step_logps)
    for step in reversed(range(world.n_steps)):
        after = (step_logps[:, step].exp() * (after[:, None] - price[:, step])).sum(-1)
    worth = world.with_values(after @ world.noise_logps.exp())
    return evaluate(worth, word_logps)[: world.words.n_prompts]


def luck(world: HybridWorld, optimum: HybridOptimum) -> Float[Tensor, "N K"]:
    """Return V_y(y_T, z) − E V_y(·, z): by how much a noise suits words better than the others do."""
    return optimum.values[:, 0] - optimum.noise_values[:, None]
