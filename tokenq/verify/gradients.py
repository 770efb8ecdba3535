"""Claims about policy gradients: what is unbiased, what dense rewards of a DPO policy do, and which baseline is quiet.

Everything is exact: expectations over groups of responses, and noise of groups of four, are sums over all pairs of
responses (`tokenq/worlds/gradients.py`). The worlds' first prompt is looked at.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tokenq.core.credit import (
    gae,
    group_relative,
    implicit_baseline,
    leave_one_out,
    outcome_rewards,
    potential,
    prime_advantages,
    returns_to_go,
    scaled,
)
from tokenq.core.qfunction import implicit_rewards
from tokenq.core.tensors import PrefixValues
from tokenq.verify.claim import Case, Claim, broken, excess, largest
from tokenq.worlds.draws import random_policy
from tokenq.worlds.gradients import Credit, Moments, exact_gradient, moments
from tokenq.worlds.mdp import TokenMDP
from tokenq.worlds.soft_q import evaluate, log_ratios, solve, token_logps

GROUP = 4
"""Responses to a prompt."""


class Stage(NamedTuple):
    """A policy on its way to the optimum of a case.

    Attributes:
        case: the case; its first prompt counts.
        logps: [S, V] log π.
        tokens: [N, T] the outcome's reward less the price of KL, of every token.
        true: [S, V] the gradient of J.
    """

    case: Case
    logps: Tensor
    tokens: Tensor
    true: Tensor

    @property
    def mask(self) -> Tensor:
        """[N, T] True for own tokens."""
        return self.case.sequences.mask

    def of(self, credit: Credit, group: int = GROUP) -> Moments:
        """Return mean and noise of an estimator."""
        return moments(self.case.sequences, self.logps, credit, group)


def stage(case: Case, share: float) -> Stage:
    """Return the policy that is optimal for a share of the reward: 0 is the reference, 1 the optimum."""
    logps = solve(replace(case.world, rewards=share * case.world.rewards)).logps
    prices = implicit_rewards(token_logps(case.sequences, logps), case.reference, case.world.beta)
    tokens = outcome_rewards(case.returns, case.sequences.mask) - prices
    return Stage(case, logps, tokens, exact_gradient(case.world, logps))


def to_go(at: Stage, tokens: Tensor) -> Credit:
    """Return the credit of token rewards: what is ahead, less the mean of the others' whole returns."""

    def credit(rows: Tensor, groups: Tensor) -> Tensor:
        own, whole = tokens[rows], tokens[rows].sum(-1)
        others = whole - leave_one_out(whole, groups)
        return (returns_to_go(own, at.mask[rows]) - others[:, None]) * at.mask[rows]

    return credit


def whole_response(at: Stage) -> Credit:
    """Return the credit of whole responses: what each is worth, KL taken off, less the mean of the others."""
    whole = at.tokens.sum(-1)
    return lambda rows, groups: leave_one_out(whole[rows], groups)[:, None] * at.mask[rows]


def against_pair(at: Stage, dense: Tensor, offset: float) -> Credit:
    """Return the credit of what is ahead less the values of a pair, whose log-ratios `dense` are, plus `offset`."""
    rewards = at.case.returns

    def credit(rows: Tensor, groups: Tensor) -> Tensor:
        ahead = returns_to_go(at.tokens[rows], at.mask[rows])
        return implicit_baseline(ahead, dense[rows], rewards[rows], groups, at.mask[rows], offset)

    return credit


def offset_of(at: Stage) -> float:
    """Return E[G] − V*(x), what a large batch says of it."""
    return float(evaluate(at.case.world, at.logps)[0] - at.case.optimum.values[0])


def critic(at: Stage) -> Credit:
    """Return the credit of GAE with λ = 1 and the policy's own values."""
    values = at.case.sequences.visited(evaluate(at.case.world, at.logps))[:, :-1] * at.mask
    return lambda rows, groups: gae(at.tokens[rows], PrefixValues(values[rows], at.mask[rows]))[0]


def _largest_bias(case: Case, credit_of: Callable[[Stage], Credit]) -> float:
    """Return the largest entry of mean − gradient, at the reference and half way to the optimum."""
    return largest(*(at.of(credit_of(at)).mean - at.true for at in (stage(case, 0.0), stage(case, 0.5))))


def whole_is_unbiased(case: Case) -> float:
    """Mean of leave-one-out of whole responses − the gradient of E[R] − β KL."""
    return _largest_bias(case, whole_response)


def to_go_is_unbiased(case: Case) -> float:
    """The same of what is ahead of each token, less the mean of the others' whole returns."""
    return _largest_bias(case, lambda at: to_go(at, at.tokens))


def pair_is_unbiased(case: Case) -> float:
    """The same against the values of a pair of random policies."""
    tuned, untuned = (random_policy(case.world, dice) for dice in (case.dice(),) * 2)
    dense = case.sequences.taken(case.world.beta * log_ratios(tuned, untuned)) * case.sequences.mask
    return _largest_bias(case, lambda at: against_pair(at, dense, offset_of(at)))


def critic_is_unbiased(case: Case) -> float:
    """The same of GAE with λ = 1 and the policy's own values."""
    return _largest_bias(case, critic)


def group_mean_shrinks(case: Case) -> float:
    """Mean of the group-relative advantage, not scaled, of two responses − (K − 1)/K of the gradient."""
    return _group_relative(case, False)


def group_scale_is_unbiased(case: Case) -> float:
    """The same of the scaled one, up to a factor: sine of the angle between its mean and the gradient."""
    return _group_relative(case, True)


def _group_relative(case: Case, scale: bool) -> float:
    at = stage(case, 0.5)
    whole = at.tokens.sum(-1)
    found = at.of(lambda rows, groups: group_relative(whole[rows], groups, scale)[:, None] * at.mask[rows], 2)
    return _sine(found.mean, at.true) if scale else largest(found.mean - at.true / 2)


def _sine(one: Tensor, other: Tensor) -> float:
    cosine = (one * other).sum() / (one.norm() * other.norm())
    return float((1 - cosine.square()).clamp(min=0).sqrt())


def scaled_multiplies(case: Case) -> float:
    """Mean with R + β log π*/π_ref of every token − 2 and 3 times the gradient, at the reference and half way."""
    return max(_scaled(case, 0.0, 2.0), _scaled(case, 0.5, 3.0))


def scaled_is_shaping(case: Case) -> float:
    """The same − the gradient itself, as shaping would leave it."""
    return _scaled(case, 0.0, 1.0)


def _scaled(case: Case, share: float, factor: float) -> float:
    at = stage(case, share)
    found = at.of(to_go(at, scaled(at.tokens, case.implicit, 1.0)))
    return largest(found.mean - factor * at.true)


def one_step_is_unbiased(case: Case) -> float:
    """Sine of the angle between the gradient and the mean of β log π*/π_ref less the price of KL, no return."""
    at = stage(case, 0.0)
    steps = case.implicit + at.tokens - outcome_rewards(case.returns, at.mask)
    return _sine(at.of(lambda rows, groups: steps[rows]).mean, at.true)


def prime_is_unbiased(case: Case) -> float:
    """The same of PRIME's equation with the rewards of an optimal process reward model."""
    at = stage(case, 0.0)

    def credit(rows: Tensor, groups: Tensor) -> Tensor:
        return prime_advantages(case.returns[rows], case.implicit[rows], groups, at.mask[rows])

    return _sine(at.of(credit).mean, at.true)


def pair_is_quieter(case: Case) -> float:
    """What noise against V*, centred, has above 95 % of that of whole responses at the reference."""
    return _noise(case, 0.0, 0.95, centred=True)


def pair_is_quieter_half_way(case: Case) -> float:
    """The same above 90 % half way to the optimum."""
    return _noise(case, 0.5, 0.9, centred=True)


def pair_is_quieter_uncentred(case: Case) -> float:
    """What noise against V* as it stands has above that of whole responses at the reference."""
    return _noise(case, 0.0, 1.0, centred=False)


def _noise(case: Case, share: float, most: float, *, centred: bool) -> float:
    at = stage(case, share)
    against = at.of(against_pair(at, case.implicit, offset_of(at) if centred else 0.0)).noise
    return excess(torch.tensor(against / at.of(whole_response(at)).noise - most))


def _with_tokens(case: Case, tokens: Tensor) -> TokenMDP:
    """Return the world with these rewards, given by response and token."""
    rewards = torch.zeros_like(case.world.rewards)
    valid = case.sequences.valid
    rewards[case.sequences.states[valid], case.sequences.tokens[valid]] = tokens[valid]
    return replace(case.world, rewards=rewards)


def _optimum(case: Case, tokens: Tensor, factor: float) -> float:
    found = solve(_with_tokens(case, tokens)).logps
    wanted = solve(replace(case.world, rewards=factor * case.world.rewards)).logps
    return largest(log_ratios(found, wanted))


WEIGHT = 0.7
"""Weight of dense rewards in claims about optima."""


def potential_keeps_the_optimum(case: Case) -> float:
    """Log-probs of the optimum under R and the potential form of any dense rewards − π*."""
    dense = case.sequences.taken(random_policy(case.world, case.dice())) * case.sequences.mask
    tokens = potential(outcome_rewards(case.returns, case.sequences.mask), dense, case.sequences.mask, WEIGHT)
    return _optimum(case, tokens, 1.0)


def scaled_is_more_reward(case: Case) -> float:
    """Log-probs of the optimum under R + c β log π*/π_ref − those of the optimum of (1 + c) R."""
    return _scaled_optimum(case, 1 + WEIGHT)


def scaled_keeps_the_optimum(case: Case) -> float:
    """The same − those of π*."""
    return _scaled_optimum(case, 1.0)


def _scaled_optimum(case: Case, factor: float) -> float:
    outcome = outcome_rewards(case.returns, case.sequences.mask)
    return _optimum(case, scaled(outcome, case.implicit, WEIGHT), factor)


_TOPIC, _END, _TAIL = "policy gradients", "terminal reward", "reward in a thin tail"

CLAIMS = (
    Claim(_TOPIC, "leave-one-out of whole responses is the gradient of J", "2402.14740", whole_is_unbiased, _END),
    Claim(_TOPIC, "… and what is ahead of each token", "2402.14740", to_go_is_unbiased, _END),
    Claim(_TOPIC, "… and against the values of any pair of policies", "2404.12358 Eq. 9", pair_is_unbiased, _END),
    Claim(_TOPIC, "… and GAE with λ = 1", "1506.02438", critic_is_unbiased, _END),
    Claim(_TOPIC, "less the group's mean: (K − 1)/K of it", "2503.20783", group_mean_shrinks, _END),
    broken(_TOPIC, "… in its direction by the standard deviation too", "2402.03300", group_scale_is_unbiased, _END),
    Claim(_TOPIC, "R + β log π*/π_ref a token doubles it at π_ref", "2404.18922", scaled_multiplies, _END),
    broken(_TOPIC, "… and leaves it as it is", "2404.18922", scaled_is_shaping, _END),
    broken(_TOPIC, "β log π*/π_ref alone has its direction", "2404.12358 Eq. 10", one_step_is_unbiased, _END),
    broken(_TOPIC, "PRIME's advantages have its direction", "2502.01456 Eq. 5", prime_is_unbiased, _END),
    Claim(_TOPIC, "against V*, centred: 5 % less noise at π_ref", "2404.12358 Eq. 9", pair_is_quieter, _TAIL),
    Claim(_TOPIC, "… and 10 % half way to π*", "2404.12358 Eq. 9", pair_is_quieter_half_way, _TAIL),
    broken(_TOPIC, "… less noise without centring", "2404.12358 Eq. 9", pair_is_quieter_uncentred, _TAIL),
    Claim(_TOPIC, "potentials of dense rewards keep π*", "Ng et al. 1999", potential_keeps_the_optimum, _END, 1e-9),
    Claim(
        _TOPIC, "dense rewards of weight c: the optimum of (1 + c) R", "2404.18922", scaled_is_more_reward, _END, 1e-9
    ),
    broken(_TOPIC, "… and π*", "2404.18922", scaled_keeps_the_optimum, _END),
)
