"""Where rounds of writing and learning end: with a fixed reference, with a moving one, with one's own rewards."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.verify.claim import SMALL, Case, Claim, broken, largest
from tokenq.verify.learning import all_pairs
from tokenq.worlds.soft_q import bradley_terry, response_logps, solve, token_logps
from tokenq.worlds.tabular import TabularLM, fit, minimise, summed_pairs

ROUNDS = 2
"""Rounds of every claim."""


def own_pairs(case: Case, logps: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return every ordered pair of responses, and its share among pairs that a policy writes and scores label.

    Args:
        case: the case.
        logps: [S, V] log π of the writer, which writes both.
        scores: [N] by which Bradley-Terry prefers.
    """
    chances, pairs, weights = response_logps(case.sequences, logps).exp(), [], []
    for prompt in case.prompts():
        rows = case.sequences.of_prompt(prompt)
        i, j = torch.nonzero(~torch.eye(len(rows), dtype=torch.bool), as_tuple=True)
        pairs.append(torch.stack((rows[i], rows[j]), 1))
        weights.append((chances[rows][:, None] * chances[rows][None] * bradley_terry(scores[rows]))[i, j])
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
    policy = case.world.reference_logps
    for _ in range(ROUNDS):
        pairs, weights = own_pairs(case, policy, case.returns)
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


_ALPHA = 1e-3


def optimistic(case: Case, loss: str, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a loss with a term of calibration finds on all pairs, π_cal the reference: log π, pairs, weights."""
    world, sequences = case.world, case.sequences
    pairs, weights = all_pairs(case, case.returns)
    function = find_loss(loss, {"beta": world.beta, "alpha": alpha}).function
    reference = token_logps(sequences, world.reference_logps)
    stored, chances = summed_pairs(reference, pairs), reference.sums().exp()
    rows = [sequences.of_prompt(prompt) for prompt in case.prompts()]

    def value(logps: Tensor) -> Tensor:
        policy = token_logps(sequences, logps)
        ratios = policy.sums() - reference.sums()
        expected = torch.stack([(chances * ratios)[some].sum() for some in rows])
        calibration = expected[sequences.prompts[pairs[:, 0]]]
        return (function(summed_pairs(policy, pairs), stored, calibration) * weights).sum()

    return minimise(TabularLM(world), value), pairs, weights


def optimism_stops(case: Case) -> float:
    """(wins that π concedes) − α_p (π − π_cal) of every response, at the minimiser of optimistic DPO.

    With r̂ = β log π/π_ref, w(y, y') the weight of a pair in either order and α_p that of the term in all pairs of the
    prompt: Σ_y' w(y, y') (σ(r̂(y) − r̂(y')) − p(y ≻ y')) = α_p (π(y) − π_cal(y)), by the Lagrangian of
    Σ_y π_ref exp(r̂/β) = 1.
    """
    logps, pairs, weights = optimistic(case, "vpo_online", _ALPHA)
    implicit = case.world.beta * (
        response_logps(case.sequences, logps) - response_logps(case.sequences, case.world.reference_logps)
    )
    chosen, rejected = pairs.unbind(1)
    lost = weights * torch.sigmoid(implicit[rejected] - implicit[chosen])  # what the loss pulls at each pair
    pull = torch.zeros_like(implicit).index_add(0, rejected, lost).index_add(0, chosen, -lost)
    gap = response_logps(case.sequences, logps).exp() - response_logps(case.sequences, case.world.reference_logps).exp()
    shares = torch.stack([weights[case.sequences.prompts[chosen] == prompt].sum() for prompt in case.prompts()])
    return largest(pull - _ALPHA * shares[case.sequences.prompts] * gap)


def xpo_is_vpo(case: Case) -> float:
    """Total variation of what XPO finds with α and VPO with α/β."""
    one, _, _ = optimistic(case, "xpo", _ALPHA * case.world.beta)
    other, _, _ = optimistic(case, "vpo_online", _ALPHA)
    return distance(case, one, other)


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
    Claim(_TOPIC, "optimism gives up wins α (π − π_cal), and no more", "2405.19320", optimism_stops, SMALL, 1e-8),
    Claim(_TOPIC, "XPO with α is VPO with α/β", "2405.21046", xpo_is_vpo, SMALL, 1e-6),
)
