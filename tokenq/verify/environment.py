"""Dialogue and tools: what of all this survives when some tokens are not the policy's."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenq.envs.world import END
from tokenq.verify.claim import PAPER, Case, Claim, broken, largest
from tokenq.verify.equivalence import bradley_terry_same, telescoping
from tokenq.verify.gridworlds import Unfolded, slippery_gridworld, text_gridworld
from tokenq.verify.learning import all_pairs, divergence
from tokenq.verify.optimality import maximum, regret
from tokenq.worlds.soft_q import response_logps, solve
from tokenq.worlds.tabular import TabularLM, fit


def _luck(case: Case) -> Tensor:
    """[N] Σ over the environment's tokens of r + V*(s') − V*(s): what its draws added to what was expected."""
    steps = case.sequences.taken(case.world.rewards) + case.sequences.visited(case.optimum.values).diff()
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


def dmpo_finds_the_optimum(case: Case) -> float:
    """KL(π*‖π) for DMPO on the exact preferences by Σ r."""
    pairs, weights = all_pairs(case, case.returns)
    return divergence(case, fit(TabularLM(case.world), case.sequences, pairs, weights, loss="dmpo"))


def _turns(case: Case, made: Unfolded) -> tuple[Tensor, Tensor, Tensor]:
    """Return [N, H] Σ β log π*/π_ref over each turn's tokens, and of the map: the turn's cell, and its action.

    Turns that were not reached are left out: the cell is `END`.
    """
    sequences, horizon = case.sequences, len(made.values.q_values)
    turns, cells = made.turns[sequences.states], made.cells[sequences.states]
    own = turns.masked_fill(~sequences.mask, horizon)
    credit = case.implicit.new_zeros(len(sequences), horizon + 1).scatter_add(1, own, case.implicit)[:, :horizon]
    ends = torch.where(sequences.mask, made.actions[sequences.states, sequences.tokens], END) != END
    places = own.masked_fill(~ends, horizon)
    empty = torch.full((len(sequences), horizon + 1), END)
    actions = empty.scatter(1, places, made.actions[sequences.states, sequences.tokens])[:, :horizon]
    return credit, empty.scatter(1, places, cells)[:, :horizon], actions


def certain_turns(case: Case) -> float:
    """Σ β log π*/π_ref over a turn − (r + V*(s') − V*(s)), r and V* those of the map."""
    made = text_gridworld(case.seed)
    credit, cells, _ = _turns(case, made)
    values = torch.as_tensor(made.values.values)
    turns = torch.arange(credit.shape[1])
    here = torch.where(cells == END, 0.0, values[turns, cells])
    after = torch.cat((cells, torch.full_like(cells[:, :1], END)), 1)[:, 1:]
    ahead = torch.where(after == END, 0.0, values[turns + 1, after])
    answers = case.sequences.valid & ~case.sequences.mask
    places = made.turns[case.sequences.states].masked_fill(~answers, credit.shape[1])
    taken = case.sequences.taken(case.world.rewards)
    rewards = taken.new_zeros(len(taken), credit.shape[1] + 1).scatter_add(1, places, taken * answers)[:, :-1]
    return largest(credit - (rewards + ahead - here))


def drawn_turns(case: Case) -> float:
    """Σ β log π*/π_ref over a turn − (E[r + V*(s')] − V*(s)), the expectation over what the environment draws."""
    made = slippery_gridworld(case.seed)
    credit, cells, actions = _turns(case, made)
    exact = torch.as_tensor(made.values.q_values) - torch.as_tensor(made.values.values)[:-1, :, None]
    turns = torch.arange(credit.shape[1])
    return largest(torch.where(cells == END, 0.0, credit - exact[turns, cells, actions]))


def drawn_miss(case: Case) -> float:
    """KL(π*‖π) of DPO on what happened − KL(π*‖π̂), π̂ the policy that is predicted.

    Of two actions that end an episode DPO finds σ(β d_1 − β d_2) = the share of pairs, one of each, in which the first
    wins: the mean of σ over what is drawn, where π* has σ of a mean.
    """
    pairs, weights = all_pairs(case, case.returns)
    weights = weights * response_logps(case.sequences, case.world.reference_logps)[pairs].sum(1).exp()
    first = case.sequences.tokens[:, 0][pairs]
    wins = [weights[(first[:, 0] == one) & (first[:, 1] != one)].sum() for one in (1, 2)]
    start = case.world.reference_logps
    predicted = start.clone()
    predicted[0, 1] += (wins[0] / wins[1]).log() / case.world.beta
    predicted = torch.where(case.world.choice[:, None], predicted - predicted.logsumexp(-1, keepdim=True), start)
    found = fit(TabularLM(case.world), case.sequences, pairs, weights)
    return abs(divergence(case, found) - divergence(case, predicted))


_SOURCE, _CERTAIN, _DRAWN = f"{PAPER} §3.1", "deterministic environment", "stochastic environment"
_SAME = "indifferent environment"
_MAP, _SHORT, _SLIPPERY, _STEP = (
    "text gridworld",
    "text gridworld, two turns",
    "slippery gridworld",
    "one slippery step",
)

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
    Claim("gridworlds", "Σ β log π*/π_ref of a turn = r + V*(s') − V*(s) of the map", _SOURCE, certain_turns, _MAP),
    Claim("gridworlds", "trajectory DPO converges to π* (KL)", _SOURCE, dpo_on_returns, _MAP, 1e-8),
    broken("gridworlds", "DMPO converges to π* (KL)", "2406.14868", dmpo_finds_the_optimum, _SHORT),
    Claim("gridworlds", "slippery: of a turn = E[r + V*(s')] − V*(s)", _SOURCE, drawn_turns, _SLIPPERY),
    broken("gridworlds", "slippery: trajectory DPO converges to π* (KL)", _SOURCE, dpo_on_returns, _SLIPPERY),
    Claim(
        "gridworlds", "slippery, preferences by Σ r − luck: it does (KL)", "2310.13639", dpo_on_regret, _SLIPPERY, 1e-8
    ),
    Claim("gridworlds", "one slippery step: it misses by mean σ, not σ of mean", _SOURCE, drawn_miss, _STEP, 1e-8),
    broken("gridworlds", "one slippery step: trajectory DPO converges to π* (KL)", _SOURCE, dpo_on_returns, _STEP),
)
