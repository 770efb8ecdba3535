"""Two models with different tokenizers on one text: log-probs at the coarsest boundaries that both have.

A stretch between two common boundaries has a log-prob under each model, the sum over its own tokens; nothing finer can
be compared. Totals are the same as of the models by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Stretch(NamedTuple):
    """A piece of text that is a whole number of tokens for both models.

    Attributes:
        start: first character.
        end: one past its last character.
        own: the policy's tokens, as (first, one past the last).
        other: the reference's tokens.
    """

    start: int
    end: int
    own: tuple[int, int]
    other: tuple[int, int]


@dataclass(frozen=True)
class _Side:
    ends: Sequence[int]

    def upto(self, border: int, cursor: int) -> int:
        """Return one past the last token from `cursor` on that ends at or before `border`."""
        while cursor < len(self.ends) and self.ends[cursor] <= border:
            cursor += 1
        return cursor


def align(own: Sequence[int], other: Sequence[int]) -> list[Stretch]:
    """Return the finest stretches that both tokenizations share, in order; together they hold every token.

    Args:
        own: for each of the policy's tokens, one past its last character; ascending, ending with the text.
        other: the same for the reference.

    A token without characters (a later byte of a character) stands with what ends where it does. When both have such a
    token at the very end it is EOS, and the two are a stretch of their own.
    """
    eos = int(_ends_bare(own) and _ends_bare(other))
    first, second = _Side(own[: len(own) - eos]), _Side(other[: len(other) - eos])
    common = sorted(set(first.ends) & set(second.ends))
    stretches: list[Stretch] = []
    start, i, j = 0, 0, 0
    for border in common:
        after, beyond = first.upto(border, i), second.upto(border, j)
        stretches.append(Stretch(start, border, (i, after), (j, beyond)))
        start, i, j = border, after, beyond
    end = max([0, *own, *other])
    if i < len(own) or j < len(other):  # EOS; or, where the two do not end alike, what is left
        stretches.append(Stretch(start, end, (i, len(own)), (j, len(other))))
    return stretches


def _ends_bare(ends: Sequence[int]) -> bool:
    """Return whether the last token has no characters."""
    return bool(ends) and ends[-1] == (ends[-2] if len(ends) > 1 else 0)
