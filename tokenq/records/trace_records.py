"""A token of a trace, what could have stood there, a span: records, and the columns by which many of them are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood here.

    Attributes:
        id: token id.
        text: the token as text.
        logp: log π, in nats.
        ref_logp: log π_ref, in nats.
        implicit_reward: β (log π − log π_ref), in nats.
    """

    id: int
    text: str
    logp: float
    ref_logp: float
    implicit_reward: float


@dataclass(frozen=True)
class TraceToken:
    """One token of a response. Tokens that the policy did not write have no numbers (None).

    Attributes:
        id: token id; None for a stretch of several tokens (models with different tokenizers).
        text: its piece of the response; the pieces give the response back.
        start: first character of the piece in the response.
        end: one past its last character.
        written: whether the policy wrote it.
        logp: log π, in nats.
        ref_logp: log π_ref, in nats.
        implicit_reward: β (log π − log π_ref).
        prefix_value: sum of implicit rewards up to and including this token; carried over tokens not written.
        advantage: A = β log π.
        centred_advantage: β (log π + H(π)): against what the policy expects of itself.
        rank: tokens that the policy finds more likely here; 0 = it would have been its first choice.
        ref_rank: the same for the reference.
        entropy: H(π), in nats.
        ref_entropy: H(π_ref), in nats.
        kl: KL(π‖π_ref) at this position, in nats; None also where it is infinite.
        ref_kl: KL(π_ref‖π) at this position, in nats; None also where it is infinite.
        likely: the policy's most likely tokens, best first.
        ref_likely: the reference's most likely tokens, best first.
        favoured: of these two lists, the tokens with the highest implicit reward, best first.
        reward: what a reward model says of the response up to here, None without one.
        outputs: all of its outputs, where it has several.
    """

    id: int | None
    text: str
    start: int
    end: int
    written: bool = True
    logp: float | None = None
    ref_logp: float | None = None
    implicit_reward: float | None = None
    prefix_value: float | None = None
    advantage: float | None = None
    centred_advantage: float | None = None
    rank: int | None = None
    ref_rank: int | None = None
    entropy: float | None = None
    ref_entropy: float | None = None
    kl: float | None = None
    ref_kl: float | None = None
    likely: tuple[Alternative, ...] = ()
    ref_likely: tuple[Alternative, ...] = ()
    favoured: tuple[Alternative, ...] = ()
    reward: float | None = None
    outputs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Span:
    """A stretch of a response, with the credit of its tokens.

    A token belongs to the span in which its piece begins, one without a piece to that of the character before it. For
    value changes the sum is the number that means something:
    sums of spans that part a response add up to its sequence reward.

    Attributes:
        level: "word", "sentence", "line", "paragraph", "step", "turn", "regex", "given" or "segment NAME".
        start: first character in the response.
        end: one past its last character.
        first: first token.
        last: one past its last token.
        tokens: tokens among these that the policy wrote.
        sum: Σ implicit rewards; the change of the prefix value over the span.
        mean: mean implicit reward, None without tokens.
        min: least implicit reward, None without tokens.
        final: implicit reward of its last token, None without tokens.
        end_value: prefix value at its end (the cumulative convention for steps).
        label: what the data says of it (a step's correctness), or None.
        reward: what a reward model says of the response up to its last token that the policy wrote, None without one.
    """

    level: str
    start: int
    end: int
    first: int
    last: int
    tokens: int
    sum: float
    mean: float | None
    min: float | None
    final: float | None
    end_value: float
    label: bool | None = None
    reward: float | None = None


LISTS = ("likely", "ref_likely", "favoured")
"""Fields of a token that are lists of alternatives."""

TOKEN_COLUMNS: Mapping[str, type] = {
    "id": np.int64,
    "start": np.int64,
    "end": np.int64,
    "written": np.bool_,
    "logp": np.float64,
    "ref_logp": np.float64,
    "implicit_reward": np.float64,
    "prefix_value": np.float64,
    "advantage": np.float64,
    "centred_advantage": np.float64,
    "rank": np.int64,
    "ref_rank": np.int64,
    "entropy": np.float64,
    "ref_entropy": np.float64,
    "kl": np.float64,
    "ref_kl": np.float64,
    "reward": np.float64,
}
"""Fields of a token that are a column, and of which type. None is NaN among floats and −1 among whole numbers."""

SPAN_COLUMNS: Mapping[str, type] = {
    "level": np.str_,
    **dict.fromkeys(("start", "end", "first", "last", "tokens"), np.int64),
    **dict.fromkeys(("sum", "mean", "min", "final", "end_value"), np.float64),
    "label": np.int8,
    "reward": np.float64,
}
"""Fields of a span likewise; a label is 1 or 0."""


def column_of(values: Sequence[Any], kind: type) -> Numbers:
    """Return values as a column of a type."""
    none = np.nan if kind is np.float64 else -1
    if None in values:
        values = [none if value is None else value for value in values]
    return np.array(values, dtype=kind)


def nothing_of(kind: type, count: int) -> Numbers:
    """Return a column of a type that holds nothing at any place."""
    return np.full(count, np.nan if kind is np.float64 else -1, kind)


def without_none(column: Numbers) -> list[Any]:
    """Return the values of a column, None where there is none."""
    values: list[Any] = column.tolist()
    if column.dtype.kind == "f":
        return [None if value != value else value for value in values] if np.isnan(column).any() else values
    if column.dtype.kind == "i" and len(column) and column.min() < 0:
        return [None if value < 0 else value for value in values]
    return values


def same_columns(one: Mapping[str, Numbers], other: Mapping[str, Numbers]) -> bool:
    """Return whether two sets of columns hold the same."""
    return one.keys() == other.keys() and all(
        np.array_equal(column, other[name], equal_nan=column.dtype.kind == "f") for name, column in one.items()
    )
