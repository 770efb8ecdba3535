"""Claims about decoding: likelihood search as value search, our searches, a small pair over a large model."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenq.core.qfunction import prefix_values
from tokenq.search.beam import beam_search
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES
from tokenq.search.mcts import Aim, mcts
from tokenq.search.settings import Beams, Tree
from tokenq.verify.claim import PAPER, Case, Claim, broken, largest
from tokenq.worlds.draws import normal, random_policy
from tokenq.worlds.mdp import EOS, TokenMDP
from tokenq.worlds.soft_q import log_ratios, response_logps, softmax_policy, solve
from tokenq.worlds.tabular import TabularStepper


def _search_gap(case: Case, sign: float) -> float:
    """Σ r + β Σ log π_ref + V*(s) − (sign · V*(s_1) + β Σ log π*), every prefix of every response."""
    world = case.world
    conservative = case.sequences.taken(world.rewards + world.beta * world.reference_logps)
    guided = prefix_values(conservative) + case.sequences.visited(case.optimum.values)
    likelihood = prefix_values(world.beta * case.sequences.taken(case.optimum.logps))
    return largest(guided - likelihood - sign * case.start_values[:, None])


def search_is_likelihood(case: Case) -> float:
    """Σ r + β Σ log π_ref + V*(s) − (V*(s_1) + β Σ log π*), every prefix: one ranking, whatever the width or depth."""
    return _search_gap(case, 1.0)


def search_as_printed(case: Case) -> float:
    """The same with −V*(s_1), as Eq. 13 prints it: off by a constant, so the ranking is the same."""
    return _search_gap(case, -1.0)


def _lost(case: Case, objective: Tensor) -> float:
    """By how much the most likely response under π* falls short of the best under an objective, over prompts."""
    likelihood, lost = response_logps(case.sequences, case.optimum.logps), []
    for rows in case.rows:
        lost.append(objective[rows].max() - objective[rows[likelihood[rows].argmax()]])
    return largest(torch.stack(lost))


def finds_conservative_reward(case: Case) -> float:
    """What the most likely response under π* lacks of the largest R + β log π_ref."""
    reference = response_logps(case.sequences, case.world.reference_logps)
    return _lost(case, case.returns + case.world.beta * reference)


def finds_reward(case: Case) -> float:
    """What the most likely response under π* lacks of the largest R."""
    return _lost(case, case.returns)


def _beams(case: Case, width: int) -> list[Branch]:
    """Return the best response of likelihood beams over the true π* of the world, for every prompt."""
    world = case.world
    stepper = TabularStepper(world, solve(world).logps, world.reference_logps)
    prompts = [world.prompt_ids(prompt) for prompt in case.prompts()]
    beams = Beams(width, length_penalty=0.0, early_stopping="never")
    return [found[0] for found in beam_search(Walk(stepper, prompts, Limits((EOS,), world.horizon)), beams)]


def _falls_short(case: Case, found: list[Branch], exact: torch.Tensor) -> float:
    """Return by how much the worst of the found scores differs from the best of all responses to its prompt."""
    best = [float(exact[rows].max()) for rows in case.rows]
    return max(abs(branch.score - value) for branch, value in zip(found, best, strict=True))


def full_width_beams(case: Case) -> float:
    """Score of the best beam at full width − max Σ log π*, by enumeration."""
    width = int(torch.bincount(case.sequences.prompts).max())
    return _falls_short(case, _beams(case, width), response_logps(case.sequences, case.optimum.logps))


def one_beam(case: Case) -> float:
    """The same with a single beam."""
    return _falls_short(case, _beams(case, 1), response_logps(case.sequences, case.optimum.logps))


def beams_find_value(case: Case) -> float:
    """β times the best beam's score + V*(s_1) − max (R + β log π_ref), by enumeration."""
    world, width = case.world, int(torch.bincount(case.sequences.prompts).max())
    conservative = case.returns + world.beta * response_logps(case.sequences, world.reference_logps)
    found = [world.beta * branch.score for branch in _beams(case, width)]
    best = [float(conservative[rows].max()) for rows in case.rows]
    starts = [float(case.optimum.values[prompt]) for prompt in case.prompts()]
    return max(abs(a + v - b) for a, v, b in zip(found, starts, best, strict=True))


def tree_search(case: Case) -> float:
    """Score of the best response of a tree that is searched to its end − max Σ β log π*/π_ref, by enumeration."""
    world = case.world
    logps = solve(world).logps
    stepper = TabularStepper(world, logps, world.reference_logps)
    prompts = [world.prompt_ids(prompt) for prompt in case.prompts()]
    tree = Tree(simulations=world.n_states, children=0, rollouts=0)
    found = mcts(Walk(stepper, prompts, Limits((EOS,), world.horizon)), tree, Aim(OBJECTIVES["reward"], world.beta))
    ratios = world.beta * log_ratios(case.optimum.logps, world.reference_logps)
    return _falls_short(case, [branches[0] for branches, _ in found], case.sequences.taken(ratios).sum(-1))


@dataclass(frozen=True, eq=False)
class _Proxy:
    """A large model, and a small pair (tuned, untuned) whose log-ratio is added to it with weight w."""

    large: Tensor
    tuned: Tensor
    untuned: Tensor
    weight: float = 1.5

    def combined(self, world: TokenMDP) -> Tensor:
        """[S, V] log π ∝ log π_large + w (log π_tuned − log π_untuned), normalised in each state."""
        return softmax_policy(self.large + self.weight * log_ratios(self.tuned, self.untuned), world)

    def implied(self, world: TokenMDP) -> TokenMDP:
        """Return the world of the soft-optimal policy that is asked for.

        Reference: the large model. Reward: the small pair's β log-ratio. Temperature: β/w.
        """
        rewards = torch.where(world.choice[:, None], world.beta * log_ratios(self.tuned, self.untuned), 0.0)
        return replace(world, rewards=rewards, reference_logps=self.large, beta=world.beta / self.weight)

    def log_normaliser(self) -> Tensor:
        """[S] log Σ_a π_large (π_tuned/π_untuned)^w."""
        return torch.logsumexp(self.large + self.weight * log_ratios(self.tuned, self.untuned), -1)


def _random_proxy(case: Case) -> _Proxy:
    dice = case.dice()
    return _Proxy(case.optimum.logps, random_policy(case.world, dice), random_policy(case.world, dice))


def _apart(world: TokenMDP, one: Tensor, other: Tensor) -> float:
    return largest((one - other)[world.choice].nan_to_num(0.0))


def proxy_is_optimal(case: Case) -> float:
    """Combined logits − the soft optimum of the implied reward under the large model, which looks ahead."""
    proxy = _random_proxy(case)
    return _apart(case.world, proxy.combined(case.world), solve(proxy.implied(case.world)).logps)


def proxy_is_shaped_optimum(case: Case) -> float:
    """Combined logits − the soft optimum of the implied reward less (β/w) log Z(s) a token; and its V*, which is 0."""
    proxy = _random_proxy(case)
    asked = proxy.implied(case.world)
    price = torch.where(case.world.next_states < 0, 0.0, (asked.beta * proxy.log_normaliser())[:, None])
    optimum = solve(replace(asked, rewards=asked.rewards - price))
    return max(_apart(case.world, proxy.combined(case.world), optimum.logps), largest(optimum.values))


def proxy_is_greedy_optimum(case: Case) -> float:
    """Combined logits − argmax_π E_π[A] − (β/w) KL(π‖π_large) of each state by itself, the future left out."""
    proxy = _random_proxy(case)
    asked, errors = proxy.implied(case.world), []
    possible = case.world.next_states >= 0
    for state in torch.nonzero(case.world.choice).squeeze(-1).tolist():
        tokens = torch.nonzero(possible[state]).squeeze(-1)
        tilted = proxy.large[state, tokens].exp() * (asked.rewards[state, tokens] / asked.beta).exp()
        errors.append(proxy.combined(case.world)[state, tokens].exp() - tilted / tilted.sum())
    return largest(torch.cat(errors))


def proxy_of_own_reference(case: Case) -> float:
    """Combined logits at w = 1 over the small reference itself − the tuned model, and − the implied optimum."""
    dice = case.dice()
    untuned, tuned = random_policy(case.world, dice), random_policy(case.world, dice)
    proxy = _Proxy(untuned, tuned, untuned, 1.0)
    combined = proxy.combined(case.world)
    optimum = solve(proxy.implied(case.world)).logps
    return max(_apart(case.world, combined, tuned), _apart(case.world, combined, optimum))


def proxy_by_step(case: Case) -> float:
    """Combined logits − the implied optimum, all three models depending on the step and the token alone."""
    world = case.world
    by_step = normal((3, world.horizon, world.vocab_size), case.dice())[:, world.depths.clamp(max=world.horizon - 1)]
    large, tuned, untuned = (softmax_policy(logits, world) for logits in by_step)
    proxy = _Proxy(large, tuned, untuned)
    return _apart(world, proxy.combined(world), solve(proxy.implied(world)).logps)


def _exponent(case: Case, factor: float) -> float:
    proxy = _random_proxy(case)
    advantage = case.world.beta * log_ratios(proxy.tuned, proxy.untuned)
    other = softmax_policy(proxy.large + factor * advantage, case.world)
    return _apart(case.world, proxy.combined(case.world), other)


def exponent(case: Case) -> float:
    """π_large (π_tuned/π_untuned)^w against π_large exp(w A/β), A the small pair's implicit advantage."""
    return _exponent(case, 1.5 / case.world.beta)


def exponent_as_printed(case: Case) -> float:
    """π_large (π_tuned/π_untuned)^w against π_large exp(w A β): Eq. 15 with β where 1/β belongs."""
    return _exponent(case, 1.5 * case.world.beta)


_PROXY = f"{PAPER} Eq. 14"

CLAIMS = (
    Claim("search", "Σr + βΣlog π_ref + V* ranks prefixes as βΣlog π*", f"{PAPER} Eq. 13", search_is_likelihood),
    broken("search", "the two differ by −V*(s₁) (as printed)", f"{PAPER} Eq. 13", search_as_printed),
    Claim("search", "argmax π* is argmax R + β log π_ref", f"{PAPER} §5.2", finds_conservative_reward),
    broken("search", "argmax π* is argmax R", "a reading of beam search", finds_reward),
    Claim("search", "beams of full width return the argmax of Σ log π*", f"{PAPER} §5.2", full_width_beams),
    broken("search", "… one beam does", f"{PAPER} §5.2", one_beam),
    Claim("search", "they find the argmax of R + β log π_ref, V* unseen", f"{PAPER} Eq. 13", beams_find_value),
    Claim("search", "MCTS to its end returns the argmax of Σ β log π*/π_ref", f"{PAPER} §5.2", tree_search),
    Claim("proxy", "combined logits are the optimum of A one token ahead", _PROXY, proxy_is_greedy_optimum),
    broken("proxy", "… of A over whole responses", "2310.12962 §3", proxy_is_optimal),
    Claim("proxy", "… of A − (β/w) log Z(s), whose V* is 0", _PROXY, proxy_is_shaped_optimum),
    Claim("proxy", "… of A, where Z(s) depends on the step alone", _PROXY, proxy_by_step, "reward by step"),
    Claim("proxy", "… of A over the small reference itself, w = 1", _PROXY, proxy_of_own_reference),
    Claim("proxy", "(π_tuned/π_untuned)^w = exp(wA/β)", f"{PAPER} Eq. 15", exponent),
    broken("proxy", "(π_tuned/π_untuned)^w = exp(wβA) (as printed)", f"{PAPER} Eq. 15", exponent_as_printed),
)
