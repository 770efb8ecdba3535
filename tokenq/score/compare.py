"""Chosen against rejected: where they part, and which stretches earn the margin."""

from dataclasses import dataclass
from functools import cached_property
from math import isclose
from typing import Any, get_args

import numpy as np

from tokenq.data.turns import common_length
from tokenq.errors import UserError, unknown_name
from tokenq.records.trace_records import Span, TraceToken
from tokenq.records.traces import Side, TokenTrace


@dataclass(frozen=True)
class Share:
    """What one stretch of one response adds to the margin.

    Attributes:
        side: whose stretch it is.
        span: the stretch.
        gain: what it adds: Σ implicit rewards for the chosen response, minus that for the rejected one.
    """

    side: Side
    span: Span
    gain: float


@dataclass(frozen=True)
class PairComparison:
    """A pair of traces on one scale.

    Attributes:
        chosen: trace of the chosen response.
        rejected: trace of the rejected response.
        margin: chosen minus rejected sequence reward; where no policy has read them, that of the reward model.
        shared: tokens at the beginning that both have; their rewards are the same and cancel.
        parts_at: character in the responses at which they part (the same in both): what stands before it is shared.
        level: the level of its shares; None for a reward model's margin, as it judges whole responses.
    """

    chosen: TokenTrace
    rejected: TokenTrace
    margin: float
    shared: int
    parts_at: int
    level: str | None

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Stretches of both, by what they add to the margin, largest first."""
        if self.level is None:
            return ()
        spans = {side: self.of(side).spans.of(self.level) for side in get_args(Side)}
        return tuple(Share(side, spans[side][which], gain) for side, which, gain in gains_of(self, self.level))

    def of(self, side: Side) -> TokenTrace:
        """Return the trace of one side."""
        return self.chosen if side == "chosen" else self.rejected


def compare(chosen: TokenTrace, rejected: TokenTrace, level: str | None = None) -> PairComparison:
    """Compare two responses to the same prompt: their common part, and the difference of their rewards.

    Args:
        chosen: trace of the chosen response.
        rejected: trace of the rejected response.
        level: the level of the stretches; that of the first span when None.

    Raises:
        UserError: the responses answer different prompts, were scored by different models, or have no such spans.
    """
    if chosen.prompt != rejected.prompt:
        raise UserError(
            f"{chosen.id} and {rejected.id} answer different prompts.",
            "Rewards compare between responses to one prompt only: V* of the prompt is unknown.",
        )
    if _models(chosen) != _models(rejected):
        raise UserError(f"{chosen.id} and {rejected.id} were scored by different models.", "Score them together.")
    levels = list(dict.fromkeys((*chosen.spans.levels, *rejected.spans.levels)))
    if level is not None and level not in levels:
        raise unknown_name("level of these traces", level, levels)
    shared = _shared(chosen, rejected)
    ends = int(chosen.tokens.columns["end"][shared - 1]) if shared else 0
    margin = _reward_margin(chosen, rejected)
    alone = margin is not None
    if margin is None:
        margin = chosen.totals.given("implicit_reward") - rejected.totals.given("implicit_reward")
    return PairComparison(
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        shared=shared,
        # Tokens may be shared that are the first bytes of different characters.
        parts_at=min(ends, common_length(chosen.response, rejected.response)),
        level=None if alone else level or next(iter(levels), None),
    )


def _models(trace: TokenTrace) -> tuple[Any, ...]:
    return trace.policy, trace.reference, trace.beta, trace.reward_model


def _reward_margin(chosen: TokenTrace, rejected: TokenTrace) -> float | None:
    """Return the margin of a reward model that has read a pair alone; None where a policy has read it."""
    totals = chosen.totals, rejected.totals
    if any(one.reward is None or one.implicit_reward is not None for one in totals):
        return None
    return (totals[0].reward or 0.0) - (totals[1].reward or 0.0)


def _shared(chosen: TokenTrace, rejected: TokenTrace) -> int:
    count = min(len(chosen.tokens), len(rejected.tokens))
    ids, their_ids = (trace.tokens.columns["id"][:count] for trace in (chosen, rejected))
    same = ids == their_ids
    for place in np.flatnonzero((ids < 0) & (their_ids < 0)).tolist():
        same[place] = _same(chosen.tokens[place], rejected.tokens[place])
    differ = np.flatnonzero(~same)
    return int(differ[0]) if len(differ) else count


def _same(one: TraceToken, other: TraceToken) -> bool:
    """Return whether two stretches of several tokens are the same (models with different tokenizers)."""
    reward, their_reward = one.implicit_reward or 0.0, other.implicit_reward or 0.0
    return one.text == other.text and isclose(reward, their_reward, rel_tol=1e-4, abs_tol=1e-4)


def token_gains(compared: PairComparison) -> list[tuple[Side, int, float]]:
    """Return what the tokens behind the shared ones add to the margin, as `gains_of` does for stretches."""
    found: list[tuple[Side, int, float]] = []
    for side, sign in zip(get_args(Side), (1.0, -1.0), strict=True):
        rewards = compared.of(side).tokens.columns["implicit_reward"]
        own = np.flatnonzero(~np.isnan(rewards[compared.shared :])) + compared.shared
        found += zip([side] * len(own), own.tolist(), (sign * rewards[own]).tolist(), strict=True)
    return sorted(found, key=lambda one: -one[2])


def gains_of(compared: PairComparison, level: str) -> list[tuple[Side, int, float]]:
    """Return what stretches of a level add to the margin of a pair, as (side, which stretch of the level, gain).

    Of a stretch that both share in part, only the rest counts. The largest come first.
    """
    found: list[tuple[Side, int, float]] = []
    for side, sign in zip(get_args(Side), (1.0, -1.0), strict=True):
        trace = compared.of(side)
        rewards = np.nan_to_num(trace.tokens.columns["implicit_reward"]).tolist()
        spans = trace.spans.of(level).columns
        bounds = zip(np.maximum(spans["first"], compared.shared).tolist(), spans["last"].tolist(), strict=True)
        found += [(side, i, sign * sum(rewards[a:b])) for i, (a, b) in enumerate(bounds) if a < b]
    return sorted(found, key=lambda one: -one[2])
