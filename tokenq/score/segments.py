"""Segments of responses in traces: implicit rewards at the strength of each, and a level of stretches for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.core.tensors import PackedBatch
from tokenq.data.stretches.segments import COLUMN, Segments, with_segments
from tokenq.errors import UserError
from tokenq.options import SegmentOptions
from tokenq.records.examples import TokenGroup
from tokenq.records.trace_records import Numbers
from tokenq.records.trace_tokens import SEGMENT_LEVEL, Spans, Tokens
from tokenq.score.spans import spans_between


def betas(batch: PackedBatch, strengths: Mapping[str, float], beta: float) -> float | Numbers:
    """Return the temperature of each target: [N] the strength of its segment, or β for all where none has one."""
    if not strengths:
        return beta
    found: Numbers = np.array([*strengths.values()])[batch.actions.token_columns[COLUMN].cpu().numpy()]
    return found


def segment_spans(tokens: Tokens, numbers: Numbers, strengths: Mapping[str, float]) -> list[Spans]:
    """Return the stretches of each segment, as a level `segment NAME`.

    Args:
        tokens: of a response.
        numbers: [n] the segment of each token.
        strengths: of the segments, in the order of their numbers.
    """
    found = []
    for number, name in enumerate(strengths):
        own = np.concatenate(([False], (numbers == number) & tokens.written, [False]))
        firsts, lasts = np.flatnonzero(own[1:] & ~own[:-1]), np.flatnonzero(own[:-1] & ~own[1:])
        starts, ends = tokens.columns["start"][firsts], tokens.columns["end"][lasts - 1]
        found.append(spans_between(f"{SEGMENT_LEVEL}{name}", tokens, (starts, ends), (firsts, lasts)))
    return found


def marked(groups: Sequence[TokenGroup], parts: SegmentOptions, tokenizer: Any) -> Sequence[TokenGroup]:
    """Return groups with the segment of every token, where segments have strengths."""
    if not parts.segments:
        return groups
    return with_segments(groups, Segments.of([*parts.segments], parts.segment_starts, tokenizer))


def said(strengths: Mapping[str, float], beta: float, other_tokenizer: Any) -> tuple[str, ...]:
    """Return what a reader must know of rewards in which segments have strengths, nothing where none has.

    Raises:
        UserError: the reference has a tokenizer of its own, in whose tokens nobody looks for segments.
    """
    if not strengths:
        return ()
    if other_tokenizer is not None:
        raise UserError(
            "The run has strengths by segment, and the reference has another tokenizer.",
            "Take a reference with the tokenizer of the policy.",
        )
    each = ", ".join(f"{name} {strength:g}" for name, strength in strengths.items())
    return (f"rewards are at the strengths of segments ({each}); those of alternatives are at β = {beta:g}",)
