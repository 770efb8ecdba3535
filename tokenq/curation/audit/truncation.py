"""Responses that were cut: by how they end, and by how many of them are exactly as long as the longest.

Text that ends in the middle of a sentence is told by what the text itself does elsewhere: one that closes its sentences
with a mark, and whose last line neither does nor is a heading, an item of a list, code or a short answer.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CLOSED = re.compile(r"[.!?…。！？؟।:;»”’\"')\]}>*_`~|=/\\$%°€£©®™]$")
"""Ends of texts and of sentences."""

_SENTENCE = re.compile(r"[.!?…。！？؟।][\"'”’)\]]*\s")
"""The end of a sentence within a text."""

_ITEM = re.compile(r"\s*(?:[-*•–+#>|]|\d{1,3}[.):]|[a-zA-Z][.)]\s)")
"""Beginnings of lines that need no mark at their end."""

_HANGING = re.compile(r"(?:[,(\[{–—-]|\b(?:and|or|the|a|an|of|to|with|for|in|on|is|are|that|which|by|from|as))$", re.I)
"""Ends that no finished text has."""

_FENCE = "```"
_LINE = 6
"""Words that a last line has at least where it is taken for a sentence."""
_BEGUN = 2
"""Words behind the last sentence of such a line: one alone may be a name, or "Thanks"."""


def is_cut(text: str) -> bool:
    """Return whether a response ends in the middle of something."""
    said = text.rstrip()
    if not said:
        return False
    if said.count(_FENCE) % 2:
        return True
    if _CLOSED.search(said):
        return False
    line = said.rpartition("\n")[2]
    letters = line[-1].isalnum() or line[-1] in ",([{–—-"
    if not letters or not _SENTENCE.search(said):
        return False
    if _HANGING.search(said):
        return True
    begun = _SENTENCE.split(line)[-1].split()  # what comes behind the last sentence of the line
    return not _ITEM.match(line) and len(begun) >= (_LINE if _SENTENCE.search(line) is None else _BEGUN)


@dataclass(frozen=True)
class Limit:
    """A length at which many responses end.

    Attributes:
        length: the longest there is.
        count: responses of just this length.
        near: responses within a tenth below it.
    """

    length: int
    count: int
    near: int


_FEWEST = 5
_SHARE = 0.002
_TIMES = 10


def find_limit(lengths: NDArray[np.int64]) -> Limit | None:
    """Return the length at which responses were cut, None where they do not pile up at the longest.

    Lengths that nobody cut thin out towards the longest; cut ones pile up there.

    Args:
        lengths: of all responses, in tokens or in characters.
    """
    if not len(lengths):
        return None
    longest = int(lengths.max())
    count = int((lengths == longest).sum())
    near = int(((lengths >= 0.9 * longest) & (lengths < longest)).sum())
    a_length = near / max(1.0, 0.1 * longest)  # responses of each length just below
    many = count >= max(_FEWEST, _SHARE * len(lengths)) and count >= _TIMES * a_length
    return Limit(longest, count, near) if many and longest >= _FEWEST * _TIMES else None
