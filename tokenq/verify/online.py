"""Where rounds of writing and learning end: with a fixed reference, with a moving one, with one's own rewards."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import log_softmax
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.core.steerlm import attribute_logps, target_weights
from tokenq.verify.claim import SMALL, Case, Claim, broken, largest
from tokenq.verify.learning import all_pairs, fitted_to
from tokenq.worlds.draws import normal
from tokenq.worlds.soft_q import bradley_terry, response_logps, softmax_policy, solve, token_logps
from tokenq.worlds.tabular import TabularLM, fit, minimise

ROUNDS = 2
"""Rounds of every claim."""


def own_pairs(case: Case, logps: Tensor, wins: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return every ordered pair of responses, and its share among pairs that a policy writes and somebody labels.

    Args:
        case: the case.
        logps: [S, V] log π of the writer, which writes both.
        wins: of each prompt [n, n] p(y ≻ y') of its responses.
    """
    chances, pairs, weights = response_logps(case.sequences, logps).exp(), [], []
    for rows, chance in zip(case.rows, wins, strict=True):
        i, j = torch.nonzero(~torch.eye(len(rows), dtype=torch.bool), as_tuple=True)
        pairs.append(torch.stack((rows[i], rows[j]), 1))
        weights.append((chances[rows][:, None] * chances[rows][None] * chance)[i, j])
    together = torch.cat(weights)
    return torch.cat(pairs), together / together.sum()


def moved(case: Case) -> Tensor:
    """Return log π after some rounds of DPO on all pairs, each against the policy of the round before."""
    policy = case.world.reference_logps
    pairs, weights = all_pairs(case, case.returns)
    for _ in range(ROUNDS):
        policy = fit(TabularLM(replace(case.world, reference_logps=policy)), case.sequences, pairs, weights)
    return policy


def distance(case: Case, logps: Tensor, other: Tensor) -> float:
    """Return the largest total variation of two policies' responses over prompts."""
    gap = response_logps(case.sequences, logps).exp() - response_logps(case.sequences, other).exp()
    return largest(torch.stack([gap[case.sequences.of_prompt(p)].abs().sum() / 2 for p in case.prompts()]))


def fixed_reference(case: Case) -> float:
    """Total variation of the last of some rounds and π* = π_ref exp(r/β)/Z, the reference being the first policy.

    Each round learns from pairs that the policy of the round before writes.
    """
    policy, wins = case.world.reference_logps, [bradley_terry(case.returns[rows]) for rows in case.rows]
    for _ in range(ROUNDS):
        pairs, weights = own_pairs(case, policy, wins)
        policy = fit(TabularLM(case.world, policy), case.sequences, pairs, weights)
    return distance(case, policy, case.optimum.logps)


def moving_reference(case: Case) -> float:
    """Total variation of π_ref exp(t r/β)/Z and the policy after t rounds, each against the round before."""
    return distance(case, moved(case), solve(replace(case.world, rewards=ROUNDS * case.world.rewards)).logps)


def moving_reference_at_the_optimum(case: Case) -> float:
    """The same of π*."""
    return distance(case, moved(case), case.optimum.logps)


def own_rewards_sharpen(case: Case) -> float:
    """Total variation of DICE's next policy and π (π/π_before)/Z: rewards β log π/π_before, reference π, no noise."""
    before, policy = case.world.reference_logps, case.optimum.logps
    scores = case.world.beta * (response_logps(case.sequences, policy) - response_logps(case.sequences, before))
    pairs, weights = all_pairs(case, scores)
    found = fit(TabularLM(replace(case.world, reference_logps=policy)), case.sequences, pairs, weights)
    return distance(case, found, solve(replace(case.world, rewards=2 * case.world.rewards)).logps)


def ipo_stays_at_the_equilibrium(case: Case) -> float:
    """Total variation of the equilibrium of preferences with cycles and a round of `ipo_sum` on pairs that it writes.

    The equilibrium of P(π ≻ π') − β KL(π‖π_ref) + β KL(π'‖π_ref) is its own best answer: π = π_ref exp(p(y ≻ π)/β)/Z.
    A root finder has it, which knows neither rounds nor pairs; the round begins and has its reference at π_ref.
    """
    noise = [normal((len(rows), len(rows)), case.dice()) for rows in case.rows]
    wins = [torch.sigmoid(2 * (one - one.T)) for one in noise]
    chances = response_logps(case.sequences, case.world.reference_logps)
    for rows, chance in zip(case.rows, wins, strict=True):
        chances[rows] = _equilibrium(chances[rows].numpy(), chance.numpy() / case.world.beta)
    equal = fitted_to(case.world, case, chances).reference_logps
    found = fit(TabularLM(case.world), case.sequences, *own_pairs(case, equal, wins), loss="ipo_sum")
    return distance(case, found, equal)


def _equilibrium(base: NDArray[np.float64], payoff: NDArray[np.float64]) -> Tensor:
    """Return log π = log softmax(log π_ref + payoff · π)."""

    def gap(logits: NDArray[np.float64]) -> Any:
        return log_softmax(base + payoff @ np.exp(log_softmax(logits))) - logits

    return torch.from_numpy(root(gap, base, tol=1e-13).x)


DRAWS = 100
"""Responses that stand for a writer's: each as often as it writes it, at least once."""


SURENESS = 3.0
"""α + β of the ratings here: with the paper's 24 some responses weigh e^−60, and no minimiser finds their digits."""


class Wanted:
    """What is wanted of a world's responses: two attributes at drawn levels, ratings being drawn too.

    Args:
        case: the case; its reference is P(y|x).
    """

    def __init__(self, case: Case) -> None:
        dice = case.dice()
        count = len(case.sequences.prompts)
        ratings = 1 + 2 * torch.rand(count, 2, generator=dice, dtype=torch.float64)
        wanted = torch.randint(0, 5, (len(case.rows), 2), generator=dice)
        self.case = case
        self.attributes = attribute_logps(ratings, wanted[case.sequences.prompts], concentration=SURENESS)
        self.prior = response_logps(case.sequences, case.world.reference_logps)

    def target(self) -> Tensor:
        """Return log P(y|a, x) ∝ P(a|x, y) P(y|x) of every response."""
        joint = self.attributes + self.prior
        found = torch.empty_like(joint)
        for rows in self.case.rows:
            found[rows] = joint[rows].log_softmax(0)
        return found

    def divergence(self, logps: Tensor) -> Tensor:
        """Return Σ_x KL(P(y|a, x)‖Q) of a policy's [S, V] log-probs."""
        target = self.target()
        return (target.exp() * (target - response_logps(self.case.sequences, logps))).sum()


def written(case: Case, logps: Tensor) -> tuple[Tensor, Tensor]:
    """Return responses as often as a policy writes them, [B, K] and −1 behind the last, and log Q' of each response.

    Q' is the policy rounded to whole draws, so that sums over what it writes are expectations to the last digit.
    """
    chances = response_logps(case.sequences, logps).exp()
    counts = (DRAWS * chances).round().clamp(min=1)
    drawn = [rows.repeat_interleave(counts[rows].long()) for rows in case.rows]
    proposal = torch.cat([(counts[rows] / counts[rows].sum()).log() for rows in case.rows])
    order = torch.cat(list(case.rows)).argsort()
    return torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=-1), proposal[order]


def weighed(wanted: Wanted, candidates: Tensor, proposal: Tensor, *, divided: bool = True) -> Tensor:
    """Return the weight of every response when these are what was drawn, over Q' or not."""
    found = torch.zeros_like(proposal)
    for drawn in candidates:
        some = drawn[drawn >= 0]
        other = proposal[some] if divided else torch.zeros(len(some), dtype=torch.float64)
        found[some] = target_weights(wanted.attributes[some], wanted.prior[some], other)
    return found


class Drawn(NamedTuple):
    """What a round learns from.

    Attributes:
        candidates: [B, K] the responses that were drawn for each prompt.
        proposal: log Q' of every response.
        weights: of every response.
    """

    candidates: Tensor
    proposal: Tensor
    weights: Tensor


def steering_loss(case: Case, drawn: Drawn, logps: Tensor) -> Tensor:
    """Return the sum of the loss `steerlm` over prompts, of a policy's [S, V] log-probs."""
    policy = token_logps(case.sequences, logps)
    one = torch.zeros_like(policy.logps)
    first = policy.mask & (policy.mask.cumsum(1) == 1)
    old = one.masked_scatter(first, drawn.proposal)
    return find_loss("steerlm").function(policy, old, drawn.weights[:, None] * policy.mask, drawn.candidates).sum()


def first_writer(case: Case) -> Tensor:
    """Return [S, V] log-probs of a policy that is neither the prior nor what is wanted."""
    logits = case.world.reference_logps + normal(case.world.reference_logps.shape, case.dice())
    return softmax_policy(torch.where(torch.isinf(logits), 0.0, logits), case.world)


def gradient_is_of_the_divergence(case: Case) -> float:
    """Largest difference of the loss and of its gradient in the logits from KL(P(y|a, x)‖Q) and its own."""
    wanted, model = Wanted(case), TabularLM(case.world, normal(case.world.reference_logps.shape, case.dice()))
    candidates, proposal = written(case, first_writer(case))
    drawn = Drawn(candidates, proposal, weighed(wanted, candidates, proposal))
    both = [steering_loss(case, drawn, model.table()), wanted.divergence(model.table())]
    own, exact = (torch.autograd.grad(value, model.logits)[0] for value in both)
    return largest(own - exact, (both[0] - both[1]).detach())


def steered(case: Case, *, divided: bool = True) -> Tensor:
    """Return log π after some rounds, each of which learns from what the policy before it writes."""
    wanted, policy = Wanted(case), first_writer(case)
    for _ in range(ROUNDS):
        candidates, proposal = written(case, policy)
        drawn = Drawn(candidates, proposal, weighed(wanted, candidates, proposal, divided=divided))
        policy = minimise(TabularLM(case.world, policy), partial(steering_loss, case, drawn))
    return policy


def rounds_end_at_the_wanted(case: Case, *, divided: bool = True) -> float:
    """Total variation of P(y|a, x) ∝ P(a|x, y) P(y|x) and the policy after two rounds."""
    wanted = fitted_to(case.world, case, Wanted(case).target()).reference_logps
    return distance(case, steered(case, divided=divided), wanted)


def weights_without_the_proposal(case: Case) -> float:
    """The same where the weights are not divided by Q'."""
    return rounds_end_at_the_wanted(case, divided=False)


_TOPIC = "rounds"
_STEERING = "steering"

CLAIMS = (
    Claim(_TOPIC, "rounds of DPO against a fixed reference end at π*", "2405.07863", fixed_reference, SMALL, 1e-4),
    Claim(
        _TOPIC, "… against the round before: at π_ref exp(t r/β) after t", "2409.02392", moving_reference, SMALL, 1e-4
    ),
    broken(_TOPIC, "… also at π*", "2405.19332 Alg. 1", moving_reference_at_the_optimum, SMALL),
    Claim(
        _TOPIC,
        "one's own rewards without noise only sharpen: π (π/π_before)",
        "2406.09760",
        own_rewards_sharpen,
        SMALL,
        1e-4,
    ),
    Claim(
        _TOPIC,
        "online IPO stays at the equilibrium of preferences, with cycles too",
        "2403.08635",
        ipo_stays_at_the_equilibrium,
        SMALL,
        1e-4,
    ),
    Claim(
        _STEERING,
        "SteerLM 2's loss and gradient are those of KL(P(y|a,x)‖Q), whoever wrote",
        "2406.08673",
        gradient_is_of_the_divergence,
        SMALL,
    ),
    Claim(
        _STEERING, "its rounds end at P(y|a,x) ∝ P(a|x,y) P(y|x)", "2406.08673", rounds_end_at_the_wanted, SMALL, 1e-4
    ),
    broken(_STEERING, "… also where weights leave out Q'", "2406.08673", weights_without_the_proposal, SMALL),
)
