"""From the judged responses of a round to an advantage for every token that the policy wrote.

Rewards of tokens are made of the judge's reward at the end, of a KL penalty and of dense rewards in one of three forms;
an estimator turns them into advantages. Each is a row of a table over `tokenq.core.credit`. All of it is computed once
a round, in float64, and stays what it is for all of the round's updates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.core.credit import (
    Turns,
    gae,
    group_relative,
    implicit_baseline,
    importance_weights,
    kl_estimates,
    leave_one_out,
    outcome_rewards,
    potential,
    prime_advantages,
    returns_to_go,
    scaled,
    whiten,
)
from tokenq.core.credit.groups import places
from tokenq.core.tensors import PrefixValues
from tokenq.rollout.credits import CREDITS, CreditOptions

Numbers = Float[Tensor, "N T"]


class JudgedTokens(NamedTuple):
    """The responses of a round in padded tensors, float64, with all that credit may be made of.

    Attributes:
        rewards: [N] what the judge gave.
        groups: [N] the prompt of each response.
        mask: [N, T] True = a token of the response.
        logps: [N, T] log π at the start of the round, by the trainer.
        ref_logps: [N, T] log π_ref of the round's reference; None where nothing reads it.
        writer_logps: [N, T] of the distribution that the tokens were drawn from; None where nothing is corrected.
        dense: [N, T] rewards of tokens; None without.
        values: [N, T] V before each token at the start of the round; None without a value network.
        bootstrap: [N] V behind the last token of a response that was cut; None where such responses have ended.
        turns: [N, T] the turn of an episode that a token belongs to, from 0; None for responses of one turn.
        given: [N, T] what an environment gave, at the last token of each turn; it is part of `rewards`. None where
            rewards are given at the end alone.
    """

    rewards: Float[Tensor, " N"]
    groups: Int[Tensor, " N"]
    mask: Bool[Tensor, "N T"]
    logps: Numbers
    ref_logps: Numbers | None = None
    writer_logps: Numbers | None = None
    dense: Numbers | None = None
    values: Numbers | None = None
    bootstrap: Float[Tensor, " N"] | None = None
    turns: Int[Tensor, "N T"] | None = None
    given: Numbers | None = None


class Credited(NamedTuple):
    """What tokens are credited with.

    Attributes:
        advantages: [N, T].
        returns: [N, T] what a value network learns; None without one.
        numbers: what is to be said of the round, by name.
    """

    advantages: Numbers
    returns: Numbers | None
    numbers: dict[str, float]


class _Rewards(NamedTuple):
    """What an estimator sees.

    Attributes:
        tokens: [N, T] rewards of tokens, dense ones in their form.
        outcomes: [N] what the judge gives, as it is counted.
        plain: [N, T] rewards of tokens without dense ones: the outcome, less the KL penalty where that is a reward.
        dense: [N, T] the dense ones, 0 without.
        weight: of dense rewards.
        judged: the responses.
        options: the settings.
        stepwise: whether what came before an action is no credit of it; else a response is one action.
    """

    tokens: Numbers
    outcomes: Tensor
    plain: Numbers
    dense: Numbers
    weight: float
    judged: JudgedTokens
    options: CreditOptions
    stepwise: bool

    @property
    def past(self) -> Numbers:
        """[N, T] rewards before each action."""
        if not self.stepwise:
            return torch.zeros_like(self.tokens)
        return self.tokens.sum(-1, keepdim=True) - returns_to_go(self.tokens, self.judged.mask)


def _returns(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    return returns_to_go(r.tokens, r.judged.mask, _set(r.options.gamma)), None


def _leave_one_out(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    whole = leave_one_out(r.tokens.sum(-1), r.judged.groups)
    return whole[:, None] - r.past, None


def _group(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    by_group, totals = r.options.scale_rewards == "group", r.tokens.sum(-1)
    whole = group_relative(totals, r.judged.groups, by_group)
    if not r.stepwise:
        return whole[:, None].expand_as(r.tokens), None
    shrunk = _shrunk(whole, totals, r.judged.groups) if by_group else torch.ones_like(whole)
    return whole[:, None] - shrunk[:, None] * r.past, None


def _shrunk(whole: Tensor, totals: Tensor, groups: Tensor) -> Tensor:
    """Return what scaling by the group multiplies the numbers of each group with; 0 where all are equal."""
    centred = group_relative(totals, groups, scaled=False)
    ratios = torch.where(centred != 0, whole / centred, 0.0)
    place, sizes = places(groups)
    return ratios.new_zeros(len(sizes)).scatter_reduce(0, place, ratios, "amax")[place]


def _gae(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    if r.judged.values is None:
        raise ValueError("there are no values")
    values = PrefixValues(r.judged.values, r.judged.mask)
    return gae(r.tokens, values, _set(r.options.gamma), _set(r.options.lam), r.judged.bootstrap)


def _prime(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    totals, judged = r.plain.sum(-1), r.judged
    return prime_advantages(totals, r.dense, judged.groups, judged.mask, r.weight), None


def _baseline(r: _Rewards) -> tuple[Numbers, Numbers | None]:
    returns, judged = returns_to_go(r.plain, r.judged.mask, _set(r.options.gamma)), r.judged
    return implicit_baseline(returns, r.weight * r.dense, r.outcomes, judged.groups, judged.mask), None


Estimate = Callable[[_Rewards], tuple[Numbers, Numbers | None]]

ESTIMATORS: dict[str, Callable[[_Rewards], tuple[Numbers, Numbers | None]]] = {
    "returns": _returns,
    "leave_one_out": _leave_one_out,
    "group": _group,
    "gae": _gae,
    "prime": _prime,
}
"""(rewards of a round) → (advantages, returns for a value network), by the estimator's name."""


def _by_token(estimate: Estimate, r: _Rewards) -> tuple[Numbers, Numbers | None]:
    return estimate(r)


def _by_turn(estimate: Estimate, r: _Rewards) -> tuple[Numbers, Numbers | None]:
    """Return what an estimator gives for turns, each an action of its own, at all of a turn's tokens."""
    judged = r.judged
    turns = Turns.of(
        torch.zeros_like(judged.mask, dtype=torch.long) if judged.turns is None else judged.turns, judged.mask
    )
    values = None if judged.values is None else turns.firsts(judged.values)
    own = judged._replace(mask=turns.mask, values=values)
    tokens, plain, dense = (turns.sums(numbers * judged.mask) for numbers in (r.tokens, r.plain, r.dense))
    acted = r._replace(judged=own, tokens=tokens, plain=plain, dense=dense, stepwise=True)
    advantages, returns = estimate(acted)
    return turns.of_tokens(advantages), None if returns is None else turns.of_tokens(returns)


SPANS: dict[str, Callable[[Estimate, _Rewards], tuple[Numbers, Numbers | None]]] = {
    "token": _by_token,
    "turn": _by_turn,
}
"""(estimator, rewards of a round) → (advantages, returns for a value network), by what is one action."""

FORMS: dict[str, Callable[[Numbers, Numbers, Bool[Tensor, "N T"], float], Numbers]] = {
    "scaled": lambda plain, dense, mask, weight: scaled(plain, dense, weight),
    "potential": potential,
    "baseline": lambda plain, dense, mask, weight: plain,
}
"""(rewards of tokens, dense ones, mask, weight) → rewards of tokens, by the form of the dense ones."""


def credited(judged: JudgedTokens, options: CreditOptions, beta: float) -> Credited:
    """Return an advantage for every token.

    Args:
        judged: the responses of the round.
        options: the settings, none of them open.
        beta: weight of the KL penalty.
    """
    mask, numbers = judged.mask, _reference_numbers(judged)
    rewards = judged.rewards
    if options.reward_clip is not None:
        numbers["clipped_rewards"] = _mean(rewards.abs() > options.reward_clip)
        rewards = rewards.clamp(-options.reward_clip, options.reward_clip)
    spread = float(rewards.std()) if options.scale_rewards == "batch" and len(rewards) > 1 else 0.0
    rewards = rewards / spread if spread else rewards
    plain = _placed(rewards, judged, spread or 1.0)
    if options.kl == "reward" and judged.ref_logps is not None:
        plain = plain - beta * kl_estimates(judged.logps, judged.ref_logps, options.kl_estimator) * mask
    dense = torch.zeros_like(plain) if judged.dense is None else judged.dense
    numbers |= _dense_numbers(judged)
    tokens, weight, estimate = plain, 0.0, ESTIMATORS[CREDITS[options.credit].estimator]
    if judged.dense is not None:
        weight = _set(options.token_reward_weight)
        tokens = FORMS[options.token_reward_form](plain, dense, mask, weight)
        estimate = _baseline if options.token_reward_form == "baseline" else estimate
    seen = _Rewards(tokens, rewards, plain, dense, weight, judged, options, judged.dense is not None)
    advantages, returns = SPANS[options.credit_span](estimate, seen)
    advantages = advantages * mask
    if returns is not None and judged.values is not None:
        numbers |= _value_numbers(returns[mask], judged.values[mask])
    if options.whiten_advantages:
        advantages = whiten(advantages, mask)
    numbers |= {"advantage_mean": _mean(advantages[mask]), "advantage_std": float(advantages[mask].std(correction=0))}
    if judged.writer_logps is not None:
        given = (judged.logps, judged.writer_logps, mask, options.importance_correction, options.importance_cap)
        weights = importance_weights(*given)
        advantages = advantages * weights
        numbers |= {"importance_weight": _mean(weights[mask]), "importance_left_out": _mean(weights[mask] == 0)}
        numbers["writer_gap"] = _mean((judged.logps - judged.writer_logps)[mask].abs())
    return Credited(advantages, returns, numbers)


def _placed(rewards: Float[Tensor, " N"], judged: JudgedTokens, spread: float) -> Numbers:
    """Return rewards of tokens: what an environment gave where it gave it, and at the end what is left of the whole."""
    if judged.given is None:
        return outcome_rewards(rewards, judged.mask)
    given = judged.given / spread
    return given + outcome_rewards(rewards - given.sum(-1), judged.mask)


def without_signal(judged: JudgedTokens, advantages: Numbers, *, grouped: bool) -> list[bool]:
    """Return of each prompt, in the order of its number, whether nothing about it can be learnt from rewards.

    That is so where its responses all have one reward, for a credit that compares them; for another where all responses
    of the round have one, or its advantages are all 0.

    Args:
        judged: the responses of the round.
        advantages: of their tokens.
        grouped: whether the credit compares the responses to a prompt.
    """
    every_equal = bool((judged.rewards == judged.rewards[:1]).all())
    found = []
    for group in torch.unique(judged.groups):
        rows = judged.groups == group
        equal = bool((judged.rewards[rows] == judged.rewards[rows][0]).all())
        still = not bool(advantages[rows].any())
        found.append(still or (equal if grouped else every_equal))
    return found


def _reference_numbers(judged: JudgedTokens) -> dict[str, float]:
    """Return the mean KL of a token to the round's reference, by each estimator."""
    if judged.ref_logps is None:
        return {}
    pair = judged.logps, judged.ref_logps
    return {f"kl_{name}": _mean(kl_estimates(*pair, name)[judged.mask]) for name in ("k1", "k2", "k3")}


def _dense_numbers(judged: JudgedTokens) -> dict[str, float]:
    """Return the mean reward of a token, its spread, and the correlation of its sum with the judge's reward."""
    if judged.dense is None:
        return {}
    own, sums = judged.dense[judged.mask], (judged.dense * judged.mask).sum(-1)
    both = torch.stack((sums, judged.rewards))
    varied = len(sums) > 1 and bool((both.std(-1) > 0).all())
    found = {"token_reward": _mean(own), "token_reward_std": float(own.std(correction=0))}
    return found | ({"token_reward_correlation": float(torch.corrcoef(both)[0, 1])} if varied else {})


def _value_numbers(returns: Tensor, values: Tensor) -> dict[str, float]:
    spread = float(returns.var(correction=0))
    left = float((returns - values).var(correction=0))
    return {"value": _mean(values), "explained_variance": 1 - left / spread if spread else float("nan")}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _set(number: float | None) -> float:
    if number is None:
        raise ValueError("a setting of the credit is open")
    return number
