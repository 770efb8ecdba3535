"""Where rounds of writing and learning end: with a fixed reference, with a moving one, with one's own rewards."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from scipy.special import log_softmax
from torch import Tensor

from tokenq.verify.claim import SMALL, Case, Claim, broken, largest
from tokenq.verify.learning import all_pairs, fitted_to
from tokenq.worlds.draws import normal
from tokenq.worlds.soft_q import bradley_terry, response_logps, solve
from tokenq.worlds.tabular import TabularLM, fit

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


_TOPIC = "rounds"

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
)
