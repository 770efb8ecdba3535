"""Texts in words, marks and sentences, by rules that need no model and no language.

What counts as one token: a number with its points and commas, a word with its hyphens and apostrophes, any other mark,
and each character of Chinese and Japanese, which write no blanks between words.
"""

import re
from collections.abc import Sequence

Span = tuple[int, int]
"""First character and one past the last."""

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Characters of Chinese and Japanese, as a class of an expression has them."""

_TOKEN = re.compile(
    rf"[{IDEOGRAPHS}]|\d+(?:[.,:/]\d+)*|[^\W\d_{IDEOGRAPHS}][^\W_{IDEOGRAPHS}]*(?:['’-][^\W_{IDEOGRAPHS}]+)*|[^\s]"
)
_WORD = re.compile(r"\w")
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’）]*|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Sen|Rep|Gov|Gen|vs|etc|No|Inc|Ltd|Co)|\b[A-Z])\.$")


def tokens(text: str) -> list[str]:
    """Return the words and marks of a text: `tokens("It's 1,000 km.")` is `["It's", "1,000", "km", "."]`."""
    return _TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Return the words and numbers of a text, without marks."""
    return [token for token in tokens(text) if _WORD.search(token)]


def sentences(text: str) -> list[Span]:
    """Return the sentences of a text as spans without the blanks around them; a line break ends one."""
    found, start = list[Span](), 0
    for match in _END.finditer(text):
        if _ABBREVIATION.search(text[start : match.end()]):
            continue
        found.append((start, match.end()))
        start = match.end()
    found.append((start, len(text)))
    return [span for span in (_stripped(text, one) for one in found) if span[0] < span[1]]


def _stripped(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def key(text: str) -> tuple[str, ...]:
    """Return what makes two mentions of an entity the same: its words, whatever their capitals."""
    return tuple(word.casefold().removesuffix("'s").removesuffix("’s") for word in words(text))


def holds(where: Sequence[str], what: Sequence[str]) -> bool:
    """Return whether words stand side by side in others; both as `key` gives them."""
    size = len(what)
    return size > 0 and any(tuple(where[at : at + size]) == tuple(what) for at in range(len(where) - size + 1))


def close(first: str, second: str, share: float) -> bool:
    """Return whether two texts are of one length: the longer has at most so much more of the shorter one's tokens."""
    low, high = sorted((len(tokens(first)), len(tokens(second))))
    return high - low <= share * low
