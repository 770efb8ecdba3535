"""The tokens and the spans of a response: columns of numbers, which are walked as records made on demand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from tokenq.records.trace_alternatives import Alternatives, alternatives_of
from tokenq.records.trace_records import (
    LISTS,
    SPAN_COLUMNS,
    TOKEN_COLUMNS,
    Numbers,
    Span,
    TraceToken,
    column_of,
    same_columns,
    without_none,
)

SEGMENT_LEVEL = "segment "
"""The beginning of the level of the stretches of a segment, before its name."""


@dataclass(frozen=True, eq=False)
class Tokens(Sequence[TraceToken]):
    """The tokens of a response.

    Attributes:
        response: its text.
        columns: [n] by the name of the field, as `TOKEN_COLUMNS` lists them.
        outputs: [n, A] all outputs of a reward model, NaN at a token without them; A = 0 where it has one or is none.
        alternatives: what could have stood at each of them.
    """

    response: str
    columns: Mapping[str, Numbers]
    outputs: Numbers
    alternatives: Alternatives

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self.columns["id"])

    @overload
    def __getitem__(self, place: int) -> TraceToken: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[TraceToken, ...]: ...
    def __getitem__(self, place: int | slice) -> TraceToken | tuple[TraceToken, ...]:
        """Return a token, or some of them."""
        if isinstance(place, slice):
            chosen = range(len(self))[place]
            return tuple(self._walked(slice(min(chosen), max(chosen) + 1)))[:: chosen.step] if chosen else ()
        number = range(len(self))[place]
        return next(self._walked(slice(number, number + 1)))

    def __iter__(self) -> Iterator[TraceToken]:
        """Walk through the tokens."""
        return self._walked(slice(0, len(self)))

    def _walked(self, some: slice) -> Iterator[TraceToken]:
        fields = {name: without_none(column[some]) for name, column in self.columns.items()}
        fields["text"] = self.texts(some)
        fields["outputs"] = [tuple(row) if row and row[0] == row[0] else () for row in self.outputs[some].tolist()]
        lists = self.alternatives[some].walked()
        for own, *values in zip(lists, *fields.values(), strict=True):
            yield TraceToken(**dict(zip(fields, values, strict=True)), **own)

    def texts(self, some: slice = slice(None)) -> list[str]:
        """Return the pieces of the response."""
        bounds = zip(self.columns["start"][some].tolist(), self.columns["end"][some].tolist(), strict=True)
        return [self.response[start:end] for start, end in bounds]

    @cached_property
    def written(self) -> Numbers:
        """[n] whether the policy wrote them."""
        return self.columns["written"]

    def numbers(self, name: str) -> Numbers:
        """Return one number of each token that the policy wrote; NaN or −1 where it has none."""
        column = self.columns[name]
        return column if self.written.all() else column[self.written]

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same."""
        return (
            isinstance(other, Tokens)
            and self.response == other.response
            and same_columns(self.columns, other.columns)
            and np.array_equal(self.outputs, other.outputs, equal_nan=True)
            and self.alternatives == other.alternatives
        )

    __hash__ = None  # type: ignore[assignment]  # columns can be changed


def tokens_of(tokens: Sequence[TraceToken], response: str, beta: float) -> Tokens:
    """Return tokens as columns; themselves where they are.

    Args:
        tokens: of a response.
        response: the text that they are pieces of.
        beta: KL temperature.

    Raises:
        ValueError: a token says another text than its piece of the response.
    """
    if isinstance(tokens, Tokens):
        return tokens
    columns = {name: column_of([getattr(one, name) for one in tokens], kind) for name, kind in TOKEN_COLUMNS.items()}
    width = max((len(one.outputs) for one in tokens), default=0)
    outputs = np.array([one.outputs or (np.nan,) * width for one in tokens], np.float64).reshape(len(tokens), width)
    lists = {name: [getattr(one, name) for one in tokens] for name in LISTS}
    made = Tokens(response, columns, outputs, alternatives_of(lists, beta, len(tokens)))
    odd = next((one for one, text in zip(tokens, made.texts(), strict=True) if one.text != text), None)
    if odd is not None:
        raise ValueError(f"the text of a token, {odd.text[:80]!r}, is not its piece of the response")
    return made


@dataclass(frozen=True, eq=False)
class Spans(Sequence[Span]):
    """The spans of a response, level after level.

    Attributes:
        columns: [m] by the name of the field, as `SPAN_COLUMNS` lists them.
    """

    columns: Mapping[str, Numbers]

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self.columns["level"])

    @overload
    def __getitem__(self, place: int) -> Span: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Span, ...]: ...
    def __getitem__(self, place: int | slice) -> Span | tuple[Span, ...]:
        """Return a span, or some of them."""
        if isinstance(place, slice):
            return tuple(self)[place]
        number = range(len(self))[place]
        return next(iter(Spans({name: column[number : number + 1] for name, column in self.columns.items()})))

    def __iter__(self) -> Iterator[Span]:
        """Walk through the spans."""
        fields = {name: without_none(column) for name, column in self.columns.items()}
        fields["label"] = [None if label is None else bool(label) for label in fields["label"]]
        for values in zip(*fields.values(), strict=True):
            yield Span(**dict(zip(fields, values, strict=True)))

    @property
    def levels(self) -> list[str]:
        """The levels, in their order."""
        return list(dict.fromkeys(self.columns["level"].tolist()))

    def of(self, level: str) -> "Spans":
        """Return the spans of one level."""
        own = self.columns["level"] == level
        return Spans({name: column[own] for name, column in self.columns.items()})

    def stretch(self, place: int) -> tuple[int, int]:
        """Return where a span begins and ends, in characters."""
        return int(self.columns["start"][place]), int(self.columns["end"][place])

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same."""
        return isinstance(other, Spans) and same_columns(self.columns, other.columns)

    __hash__ = None  # type: ignore[assignment]  # columns can be changed


def spans_of_records(spans: Sequence[Span]) -> Spans:
    """Return spans as columns; themselves where they are."""
    if isinstance(spans, Spans):
        return spans
    return Spans({name: column_of([getattr(one, name) for one in spans], kind) for name, kind in SPAN_COLUMNS.items()})
