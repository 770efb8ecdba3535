"""Regular expressions that a user gives, by an engine that can be stopped: no pattern hangs on any text.

The syntax is that of `re`, and more (`regex` of PyPI). Python's own engine cannot be broken off: on the pattern (a+)+$
a line of a hundred letters would keep it busy for longer than the universe is old.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import regex

from tokenq.errors import UserError

SECONDS = 2.0
"""How long a pattern may look at one text; an honest one takes milliseconds for a whole book."""

MOST_REPEATS = 1_000_000
"""Product of the counts in braces: the engine writes out ((a{1000}){1000}) when it compiles, a million letters."""

_COUNT = regex.compile(r"\{(?:\d*,)?(\d+)\}")


@dataclass(frozen=True)
class Pattern:
    """A regular expression that is valid and gives up in time.

    Attributes:
        text: as the user wrote it.
        groups: how many groups it has.
    """

    text: str
    groups: int
    _compiled: Any = field(repr=False, compare=False)

    def matches(self, text: str) -> list[Any]:
        """Return all matches in a text, in order; each is as `re` gives them.

        Raises:
            UserError: that takes longer than `SECONDS`.
        """
        try:
            return list(self._compiled.finditer(text, timeout=SECONDS))
        except TimeoutError:
            raise self._slow(text) from None

    def found_in(self, text: str) -> bool:
        """Return whether the pattern matches anywhere in a text.

        Raises:
            UserError: that takes longer than `SECONDS`.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS) is not None
        except TimeoutError:
            raise self._slow(text) from None

    def _slow(self, text: str) -> UserError:
        return UserError(
            f"The pattern {self.text!r} takes more than {SECONDS:g} seconds on a text of {len(text)} characters.",
            "Repetitions inside repetitions do that, as in (a+)+: write them as one.",
        )


def read_pattern(text: str, *, over_lines: bool = False) -> Pattern:
    """Return a pattern.

    Args:
        text: the regular expression.
        over_lines: whether a dot stands for a line break too.

    Raises:
        UserError: it is none, or repeats too often to be written out.
    """
    repeats = math.prod(max(1, int(count)) for count in _COUNT.findall(text) if len(count) < 10)
    if repeats > MOST_REPEATS:
        raise UserError(f"{text!r} repeats a part {repeats:,} times.", f"{MOST_REPEATS:,} times is the most.")
    try:
        compiled = regex.compile(text, regex.DOTALL if over_lines else 0)
    except (regex.error, RecursionError, OverflowError) as problem:
        raise UserError(
            f"{text!r} is no regular expression, the pattern is not valid: {problem}.",
            "Mend the pattern; quote it for the shell.",
        ) from None
    return Pattern(text, compiled.groups, compiled)
