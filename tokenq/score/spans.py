"""Tokens to the stretches that people read: words, sentences, lines, paragraphs, steps, turns, what a pattern finds.

The cuts of one table part the whole text: every token lies in exactly one span, so sums over the spans of a level are
the sequence reward. A pattern, or stretches that are given, may leave tokens out.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tokenq.data.steps import step_stretches
from tokenq.errors import unknown_name
from tokenq.patterns import read_pattern
from tokenq.records.examples import Response
from tokenq.records.traces import Span, TraceToken

Stretch = tuple[int, int]

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*(?=\s)|(?<=[。！？])(?![。！？])[\"'”’」』）]*")
_STEP_START = re.compile(r"(?m)^[ \t]*(?:step|schritt|étape)\s*\d+\s*[:.)]", re.IGNORECASE)


class Cut(NamedTuple):
    """A way to part a text.

    Attributes:
        level: the name of the level.
        find: (text, response as given, tokens) → stretches of the text, ascending, with labels or None.
        parts: whether the stretches part the whole text.
    """

    level: str
    find: Callable[[str, Response, Sequence[TraceToken]], list[tuple[Stretch, bool | None]]]
    parts: bool


def spans_of(cut: Cut, text: str, tokens: Sequence[TraceToken], response: Response) -> list[Span]:
    """Return the spans of one level, with the credit of the tokens whose pieces begin in them.

    A token without a piece goes with the character before it, of which it is a part. At either end of the text there
    may be such tokens that are part of no character (EOS): they count in the first and the last span of a level that
    parts the text, and in no other.

    Args:
        cut: the level.
        text: the response.
        tokens: its tokens.
        response: the response as the data has it.
    """
    found = cut.find(text, response, tokens)
    places = [token.start if token.end > token.start else token.start - 1 for token in tokens]
    if places and not cut.parts and not tokens[-1].text:
        places[-1] = len(text)
    spans: list[Span] = []
    for number, ((start, end), label) in enumerate(found):
        first = 0 if cut.parts and number == 0 else bisect_left(places, start)
        inside = first, bisect_left(places, end)
        spans.append(_credit(cut.level, (start, end), label, inside, tokens))
    return spans


def _credit(
    level: str, stretch: Stretch, label: bool | None, inside: tuple[int, int], tokens: Sequence[TraceToken]
) -> Span:
    first, last = inside
    rewards = [token.implicit_reward for token in tokens[first:last] if token.written]
    numbers = [reward for reward in rewards if reward is not None]
    return Span(
        level=level,
        start=stretch[0],
        end=stretch[1],
        first=first,
        last=last,
        tokens=len(rewards),
        sum=sum(numbers, 0.0),
        mean=sum(numbers) / len(numbers) if numbers else None,
        min=min(numbers) if numbers else None,
        final=numbers[-1] if numbers else None,
        end_value=(tokens[last - 1].prefix_value or 0.0) if last else 0.0,
        label=label,
        reward=reward_at_end(tokens[first:last]),
    )


def reward_at_end(tokens: Sequence[TraceToken]) -> float | None:
    """Return the reward at the last of some tokens that the policy wrote, None without one."""
    return next((token.reward for token in reversed(tokens) if token.written), None)


def _parted(text: str, borders: Iterable[int]) -> list[tuple[Stretch, bool | None]]:
    """Return the text parted at the borders."""
    places = sorted({0, len(text), *(border for border in borders if 0 < border < len(text))})
    return [(stretch, None) for stretch in pairwise(places)] or [((0, len(text)), None)]


def _spoken(text: str, borders: Iterable[int]) -> list[tuple[Stretch, bool | None]]:
    """Return the text parted at the borders, but for parts of blanks alone: these belong to what is behind them."""
    places = [0]
    for border in sorted(borders):
        if text[places[-1] : border].strip() and text[border:].strip():
            places.append(border)
    return _parted(text, places)


def _words(text: str, _response: Response, _tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    """Blanks belong to the word behind them, as in most tokenizers."""
    return _spoken(text, [match.end() for match in re.finditer(r"\S+", text)])


def _sentences(text: str, _response: Response, _tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    """A sentence ends with its mark and what closes behind it, or with a line."""
    marks = [match.end() for match in _SENTENCE_END.finditer(text)]
    return _spoken(text, marks + [match.end() for match in re.finditer(r"\n+", text)])


def _lines(text: str, _response: Response, _tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    return _parted(text, [match.end() for match in re.finditer(r"\n", text)])


def _paragraphs(text: str, _response: Response, _tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    return _spoken(text, [match.end() for match in re.finditer(r"\n[ \t]*\n\s*", text)])


def _steps(text: str, response: Response, _tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    """Steps that the data gives; else what begins with "Step k:"; else lines that are not blank."""
    if response.steps:
        labels = response.step_labels or (None,) * len(response.steps)
        return list(zip(step_stretches(text, response.steps), labels, strict=True))
    starts = [match.start() for match in _STEP_START.finditer(text)]
    return _spoken(text, starts or [match.end() for match in re.finditer(r"\n", text)])


def _turns(text: str, _response: Response, tokens: Sequence[TraceToken]) -> list[tuple[Stretch, bool | None]]:
    """A turn ends where what the policy wrote ends."""
    return _parted(text, [one.end for one, after in pairwise(tokens) if one.written != after.written])


LEVELS: dict[str, Cut] = {
    "word": Cut("word", _words, True),
    "sentence": Cut("sentence", _sentences, True),
    "line": Cut("line", _lines, True),
    "paragraph": Cut("paragraph", _paragraphs, True),
    "step": Cut("step", _steps, True),
    "turn": Cut("turn", _turns, True),
}


def find_cut(name: str) -> Cut:
    """Return the cut of a level, or of a pattern written as "regex:PATTERN".

    Raises:
        UserError: an unknown level, or a pattern that is none.
    """
    kind, colon, pattern = name.partition(":")
    if kind == "regex" and colon:
        expression = read_pattern(pattern)
        return Cut("regex", lambda text, _r, _t: [(m.span(), None) for m in expression.matches(text) if m[0]], False)
    if name not in LEVELS:
        raise unknown_name("level", name, [*LEVELS, "regex:PATTERN"])
    return LEVELS[name]


def given(stretches: Sequence[Stretch]) -> Cut:
    """Return the cut of stretches that are given, as (start, end) in characters."""
    return Cut("given", lambda _text, _response, _tokens: [(stretch, None) for stretch in stretches], False)
