"""The ranges of numbers in configurations: a table a configuration, checked in one place. Imports no torch.

A number is finite, whatever its range; a whole number stays one; what was not given (None) has no range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any, get_args, get_origin, get_type_hints

from tokenq.errors import UserError


@dataclass(frozen=True)
class Range:
    """The range of some fields of a configuration; bounds that are left out allow everything.

    Attributes:
        names: the fields.
        least: smallest value.
        above: what values are larger than.
        most: largest value.
        below: what values are smaller than.
    """

    names: tuple[str, ...]
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether a finite number is in the range."""
        low = -inf if self.least is None else self.least
        high = inf if self.most is None else self.most
        over = self.above is None or value > self.above
        return low <= value <= high and over and (self.below is None or value < self.below)

    def says(self) -> str:
        """Return the range in words: "from 1 to 10,000", "above 0", "at least 0 and below 1"."""
        if self.least is not None and self.most is not None:
            return f"from {self.least:,} to {self.most:,}"
        if self.most is None and self.below is None and self.least is not None:
            return f"{self.least:,} or more"
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        return " and ".join(f"{word} {bound:,}" for word, bound in bounds if bound is not None)


SHARED = (
    Range(("beta",), above=0, most=1_000_000),
    Range(("max_new_tokens",), least=1, most=1_000_000),
    Range(("max_length",), least=2, most=2**31 - 1),
    Range(("batch_size",), least=1, most=1_000_000),
    Range(("tokens_per_batch",), least=1, most=2**31 - 1),
    Range(("temperature",), least=0),
    Range(("top_k",), least=0, most=2**31 - 1),
    Range(("top_p",), above=0, most=1),
    Range(("resamples",), least=2, most=1_000_000),
    Range(("seed",), least=0, most=2**32 - 1),
)
"""Ranges of the numbers that mean the same in every configuration."""


def check_ranges(config: Any, ranges: Sequence[Range] = ()) -> None:
    """Refuse numbers of a configuration that cannot be meant, by the rows of `SHARED` and its own.

    Every field whose type is a number is looked at: it must be a finite number, a whole one where the type is int, and
    in the range of its row.

    Args:
        config: a dataclass.
        ranges: its own table, which goes before the shared one.

    Raises:
        UserError: names the flag, its value, and what it takes.
    """
    kinds = get_type_hints(type(config))
    row_of = {name: row for row in (*SHARED, *ranges) for name in row.names}
    for one in fields(config):
        options = {kind for kind in get_args(kinds[one.name]) or (kinds[one.name],) if isinstance(kind, type)}
        value = getattr(config, one.name)
        if value is None or not options & {int, float} or options & {str, bool}:
            continue
        for number in value if get_origin(kinds[one.name]) is Sequence else (value,):
            _check(one.name, number, row_of.get(one.name), whole=float not in options)


def _check(name: str, value: Any, row: Range | None, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _refused(name, value, "a whole number" if whole else "a number")
    if not isfinite(value):
        raise _refused(name, value, "a finite number" if row is None else row.says())
    if row is not None and not row.holds(value):
        raise _refused(name, value, row.says())


def _refused(name: str, value: Any, says: str) -> UserError:
    return UserError(f"--{name.replace('_', '-')} is {value!r}.", f"It must be {says}.")
