"""Chosen against rejected: where they part, and which stretches earn the margin."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from tokenq.data.turns import common_length
from tokenq.errors import UserError, unknown_name
from tokenq.records.traces import Side, Span, TokenTrace, TraceToken


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
        shares: stretches of both, by what they add to the margin, largest first; none of a reward model's margin, as it
            judges whole responses.
    """

    chosen: TokenTrace
    rejected: TokenTrace
    margin: float
    shared: int
    parts_at: int
    shares: tuple[Share, ...]


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
    levels = list(dict.fromkeys(span.level for trace in (chosen, rejected) for span in trace.spans))
    if level is not None and level not in levels:
        raise unknown_name("level of these traces", level, levels)
    wanted = level or next(iter(levels), None)
    shared = _shared(chosen, rejected)
    ends = chosen.tokens[shared - 1].end if shared else 0
    margin = _reward_margin(chosen, rejected)
    shares: list[Share] = []
    if margin is None:
        margin = chosen.totals.given("implicit_reward") - rejected.totals.given("implicit_reward")
        shares += _shares(chosen, "chosen", wanted, shared, 1.0)
        shares += _shares(rejected, "rejected", wanted, shared, -1.0)
    return PairComparison(
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        shared=shared,
        # Tokens may be shared that are the first bytes of different characters.
        parts_at=min(ends, common_length(chosen.response, rejected.response)),
        shares=tuple(sorted(shares, key=lambda share: -share.gain)),
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
    count = 0
    for one, other in zip(chosen.tokens, rejected.tokens, strict=False):
        if not _same(one, other):
            break
        count += 1
    return count


def _same(one: TraceToken, other: TraceToken) -> bool:
    if one.id is not None or other.id is not None:
        return one.id == other.id
    # Stretches of several tokens (models with different tokenizers): the same text may be other tokens.
    reward, their_reward = one.implicit_reward or 0.0, other.implicit_reward or 0.0
    return one.text == other.text and isclose(reward, their_reward, rel_tol=1e-4, abs_tol=1e-4)


def _shares(trace: TokenTrace, side: Side, level: str | None, shared: int, sign: float) -> Sequence[Share]:
    """Return the shares of one response; of a stretch that both share in part, only the rest counts."""
    shares = []
    for span in trace.spans:
        own = trace.tokens[max(span.first, shared) : span.last]
        if span.level == level and own:
            shares.append(Share(side, span, sign * sum(token.implicit_reward or 0.0 for token in own)))
    return shares
