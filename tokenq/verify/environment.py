"""Dialogue and tools: what of all this survives when some tokens are not the policy's."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenq.verify.claim import PAPER, Case, Claim, broken, largest
from tokenq.verify.equivalence import bradley_terry_same, telescoping
from tokenq.verify.learning import all_pairs, divergence
from tokenq.verify.optimality import maximum, regret
from tokenq.worlds.soft_q import solve
from tokenq.worlds.tabular import TabularLM, fit


def _luck(case: Case) -> Tensor:
    """[N] Σ over the environment's tokens of V*(s') − V*(s): what its draws added to what was expected."""
    steps = case.sequences.visited(case.optimum.values).diff()
    return (steps * (case.sequences.valid & ~case.sequences.mask)).sum(-1)


def telescoping_with_luck(case: Case) -> float:
    """Σ r − (Σ implicit rewards of the policy's tokens + V*(s_1) + luck), the transitions being known."""
    return largest(case.returns - (case.implicit.sum(-1) + case.start_values + _luck(case)))


def _learnt(case: Case, scores: Tensor) -> float:
    pairs, weights = all_pairs(case, scores)
    return divergence(case, fit(TabularLM(case.world), case.sequences, pairs, weights))


def dpo_on_returns(case: Case) -> float:
    """KL(π*‖π) for DPO, environment masked, on preferences by Σ r."""
    return _learnt(case, case.returns)


def dpo_on_regret(case: Case) -> float:
    """KL(π*‖π) for DPO, environment masked, on preferences by Σ r less luck: by how well it was written."""
    return _learnt(case, case.returns - _luck(case))


def dpo_unmasked(case: Case) -> float:
    """Return log π − log π* of the policy's tokens for the DPO limit with the environment's tokens taken for its own.

    That limit is the soft optimum of a world in which the policy writes those tokens too, at the price of their KL.
    """
    own = replace(case.world, environment=torch.zeros_like(case.world.environment))
    return largest((solve(own).logps - case.optimum.logps)[case.world.choice].nan_to_num(0.0))


_SOURCE, _CERTAIN, _DRAWN = f"{PAPER} §3.1", "deterministic environment", "stochastic environment"
_SAME = "indifferent environment"

CLAIMS = (
    Claim("turns", "π* of the masked objective is its maximum", _SOURCE, maximum, _DRAWN),
    Claim("turns", "J(π*) − J(π) = β KL(π‖π*), turns included", _SOURCE, regret, _DRAWN),
    Claim("turns", "answers certain: Σ β log π*/π_ref = Σ r − V*(s₁)", _SOURCE, telescoping, _CERTAIN),
    Claim("turns", "answers certain: Bradley-Terry needs no value", _SOURCE, bradley_terry_same, _CERTAIN),
    Claim("turns", "answers certain: DPO converges to π* (KL)", _SOURCE, dpo_on_returns, _CERTAIN, 1e-8),
    broken("turns", "answers drawn: Bradley-Terry needs no value", _SOURCE, bradley_terry_same, _DRAWN),
    broken("turns", "answers drawn: DPO converges to π* (KL)", _SOURCE, dpo_on_returns, _DRAWN),
    Claim("turns", "answers drawn: Σ r = Σ β log π*/π_ref + V*(s₁) + luck", _SOURCE, telescoping_with_luck, _DRAWN),
    Claim("turns", "answers drawn, preferences by Σ r − luck: DPO finds π*", "2310.13639", dpo_on_regret, _DRAWN, 1e-8),
    Claim("turns", "answers drawn but without effect: Bradley-Terry holds", _SOURCE, bradley_terry_same, _SAME),
    Claim("turns", "answers drawn but without effect: DPO finds π*", _SOURCE, dpo_on_returns, _SAME, 1e-8),
    broken("turns", "answers drawn, not masked: the same π*", _SOURCE, dpo_unmasked, _DRAWN),
)
