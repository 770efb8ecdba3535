"""Rows to score, and how they go through a model: batched by length in chunks, and in their own order at the end."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenq.core.packing import pack, plan_pass
from tokenq.core.readout import Readout
from tokenq.core.tensors import PackedBatch
from tokenq.data.encoding import ResponseText
from tokenq.records.examples import Example, TokenGroup
from tokenq.score.spans import Cut

T = TypeVar("T")

PairReader = Callable[[PackedBatch], Readout]
"""Reads both models at every target of a batch."""

LogpsReader = Callable[[PackedBatch], tuple[Tensor, Tensor]]
"""Reads log π and log π_ref at every target of a batch."""

CHUNK = 256
"""Groups that are batched by length together; traces leave in the order of the rows, a chunk at a time."""


@dataclass(frozen=True)
class Scoring:
    """What all traces of a run share.

    Attributes:
        beta: KL temperature.
        policy: identity of the policy; empty where none reads.
        reference: identity of the reference.
        decode: (token id) → its text, for alternatives.
        cuts: the levels at which spans are made.
        warnings: what is said about every trace.
        segments: name → strength of each part of the responses, in place of β; none where all have that.
    """

    beta: float
    policy: Mapping[str, Any]
    reference: Mapping[str, Any]
    decode: Callable[[int], str]
    cuts: Sequence[Cut] = ()
    warnings: tuple[str, ...] = ()
    segments: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredRow:
    """One row to score.

    Attributes:
        id: its name, such as its number in the data.
        group: its tokens.
        texts: the texts of its responses.
        example: the row as the data has it (labels, steps).
        warnings: what is to be said about it.
    """

    id: str
    group: TokenGroup
    texts: tuple[ResponseText, ...]
    example: Example
    warnings: tuple[str, ...] = field(default=())


def each_response(
    rows: Sequence[ScoredRow],
    read: Callable[[PackedBatch], Iterable[T]],
    budget: int,
    done: int,
    group_of: Callable[[ScoredRow], TokenGroup] = lambda row: row.group,
) -> Iterator[list[T]]:
    """Yield what is read of every row that is not done, in order: one item for each of its responses.

    Args:
        rows: all rows.
        read: (batch) → an item for each response in it, without gradients.
        budget: most tokens in one forward.
        done: rows at the beginning that are done already; the others meet in the batches of a whole pass.
        group_of: (row) → its tokens.
    """
    for start in range(done // CHUNK * CHUNK, len(rows), CHUNK):
        groups = list(map(group_of, rows[start : start + CHUNK]))
        first = max(0, done - start)
        found: dict[int, list[T]] = {}
        for places in plan_pass([group.n_tokens for group in groups], budget, first):
            batch = pack([groups[place] for place in places], places)
            with torch.no_grad():
                items = list(read(batch))
            for (place, _), item in zip(batch.actions.members, items, strict=True):
                found.setdefault(place, []).append(item)
        yield from (found[place] for place in range(first, len(groups)))


def own_slices(batch: PackedBatch) -> Iterator[slice]:
    """Yield where the targets of each response stand."""
    cursor = 0
    for count in torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist():
        yield slice(cursor, cursor + count)
        cursor += count
