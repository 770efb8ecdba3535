"""Tokens to the stretches that people read: words, sentences, lines, paragraphs, steps, turns, what a pattern finds.

The cuts of one table part the whole text: every token lies in exactly one span, so sums over the spans of a level are
the sequence reward. A pattern, or stretches that are given, may leave tokens out.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tokenq.data.stretches.steps import step_stretches
from tokenq.errors import unknown_name
from tokenq.patterns import read_pattern
from tokenq.records.examples import Response
from tokenq.records.trace_records import Numbers, column_of
from tokenq.records.trace_tokens import Spans, Tokens, spans_of_records

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
    find: Callable[[str, Response, Tokens], list[tuple[Stretch, bool | None]]]
    parts: bool


def spans_of(cut: Cut, tokens: Tokens, response: Response) -> Spans:
    """Return the spans of one level, with the credit of the tokens whose pieces begin in them.

    A token without a piece goes with the character before it, of which it is a part. At either end of the text there
    may be such tokens that are part of no character (EOS): they count in the first and the last span of a level that
    parts the text, and in no other.

    Args:
        cut: the level.
        tokens: of the response.
        response: the response as the data has it.
    """
    text, begins, stops = tokens.response, tokens.columns["start"], tokens.columns["end"]
    found = cut.find(text, response, tokens)
    places = np.where(stops > begins, begins, begins - 1)
    if len(places) and not cut.parts and begins[-1] == stops[-1]:
        places[-1] = len(text)
    starts, ends = (np.array([stretch[side] for stretch, _ in found], np.int64) for side in (0, 1))
    firsts, lasts = np.searchsorted(places, starts), np.searchsorted(places, ends)
    if cut.parts:
        firsts[:1] = 0
    return spans_between(cut.level, tokens, (starts, ends), (firsts, lasts), [label for _, label in found])


def spans_between(
    level: str,
    tokens: Tokens,
    characters: tuple[Numbers, Numbers],
    places: tuple[Numbers, Numbers],
    labels: Sequence[bool | None] | None = None,
) -> Spans:
    """Return M spans of a level with the credit of their tokens.

    Args:
        level: its name.
        tokens: of the response.
        characters: [M] where they begin, and one past where they end.
        places: [M] their first tokens, and one past their last.
        labels: what the data says of them, None for nothing.
    """
    return Spans(
        {
            "level": np.full(len(places[0]), level),
            "start": characters[0],
            "end": characters[1],
            "first": places[0],
            "last": places[1],
            **_credit(tokens, *places),
            "label": column_of([None] * len(places[0]) if labels is None else labels, np.int8),
            "reward": rewards_at_end(tokens, *places),
        }
    )


def together(parts: Sequence[Spans]) -> Spans:
    """Return the spans of several levels, one level after the other."""
    if not parts:
        return spans_of_records(())
    return Spans({name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})


def _credit(tokens: Tokens, firsts: Numbers, lasts: Numbers) -> dict[str, Numbers]:
    """Return what tokens from `firsts` to before `lasts` earn; sums are added up from the first to the last of them."""
    rewards = tokens.columns["implicit_reward"]
    known = tokens.written & ~np.isnan(rewards)
    values = rewards[known]
    begins, sizes = _count(known, firsts, lasts)
    sums, least = _added(values, begins, sizes)
    some = sizes > 0
    final = np.full(len(sizes), np.nan)
    final[some] = values[(begins + sizes)[some] - 1]
    reached = np.append(tokens.columns["prefix_value"], 0.0)[np.where(lasts > 0, lasts - 1, len(rewards))]
    return {
        "tokens": _count(tokens.written, firsts, lasts)[1],
        "sum": sums,
        "mean": np.divide(sums, sizes, out=np.full(len(sizes), np.nan), where=some),
        "min": np.where(some, least, np.nan),
        "final": final,
        "end_value": np.where(np.isnan(reached) | (reached == 0), 0.0, reached),
    }


def _count(mask: Numbers, firsts: Numbers, lasts: Numbers) -> tuple[Numbers, Numbers]:
    """Return how many tokens that a mask holds stand before each stretch, and in it."""
    before = np.concatenate(([0], np.cumsum(mask)))
    return before[firsts], np.maximum(before[lasts] - before[firsts], 0)


_SHORT = 32
"""Tokens of a stretch up to which it is added up beside others."""


def _added(values: Numbers, begins: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers]:
    """Return the sum and the least of stretches of values, each added up from its first value on, as Python does."""
    sums, least = np.zeros(len(sizes)), np.full(len(sizes), np.inf)
    short = (sizes > 0) & (sizes <= _SHORT)
    if short.any():
        steps = np.arange(int(sizes[short].max()))
        inside = steps < sizes[short][:, None]
        table = values[np.where(inside, begins[short][:, None] + steps, 0)]
        sums[short] = np.add.accumulate(np.where(inside, table, 0.0), axis=1)[:, -1] + 0.0
        least[short] = np.where(inside, table, np.inf).min(1)
    for place in np.flatnonzero(sizes > _SHORT).tolist():
        stretch = values[begins[place] : begins[place] + sizes[place]].tolist()
        sums[place], least[place] = sum(stretch, 0.0), min(stretch)
    return sums, least


def rewards_at_end(tokens: Tokens, firsts: Numbers, lasts: Numbers) -> Numbers:
    """Return the reward at the last token that the policy wrote of each stretch, NaN without one."""
    begins, sizes = _count(tokens.written, firsts, lasts)
    found = np.full(len(sizes), np.nan)
    some = sizes > 0
    found[some] = tokens.numbers("reward")[(begins + sizes)[some] - 1]
    return found


def _parted(text: str, borders: Iterable[int]) -> list[tuple[Stretch, bool | None]]:
    """Return the text parted at the borders."""
    places = sorted({0, len(text), *(border for border in borders if 0 < border < len(text))})
    return [(stretch, None) for stretch in pairwise(places)] or [((0, len(text)), None)]


def _spoken(text: str, borders: Iterable[int]) -> list[tuple[Stretch, bool | None]]:
    """Return the text parted at the borders, but for parts of blanks alone: these belong to what is behind them."""
    places, end = [0], len(text.rstrip())
    for border in sorted(borders):
        if border < end and text[places[-1] : border].strip():
            places.append(border)
    return _parted(text, places)


def _words(text: str, _response: Response, _tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    """Blanks belong to the word behind them, as in most tokenizers."""
    return _spoken(text, [match.end() for match in re.finditer(r"\S+", text)])


def _sentences(text: str, _response: Response, _tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    """A sentence ends with its mark and what closes behind it, or with a line."""
    marks = [match.end() for match in _SENTENCE_END.finditer(text)]
    return _spoken(text, marks + [match.end() for match in re.finditer(r"\n+", text)])


def _lines(text: str, _response: Response, _tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    return _parted(text, [match.end() for match in re.finditer(r"\n", text)])


def _paragraphs(text: str, _response: Response, _tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    return _spoken(text, [match.end() for match in re.finditer(r"\n[ \t]*\n\s*", text)])


def _steps(text: str, response: Response, _tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    """Steps that the data gives; else what begins with "Step k:"; else lines that are not blank."""
    if response.steps:
        labels = response.step_labels or (None,) * len(response.steps)
        return list(zip(step_stretches(text, response.steps), labels, strict=True))
    starts = [match.start() for match in _STEP_START.finditer(text)]
    return _spoken(text, starts or [match.end() for match in re.finditer(r"\n", text)])


def _turns(text: str, _response: Response, tokens: Tokens) -> list[tuple[Stretch, bool | None]]:
    """A turn ends where what the policy wrote ends."""
    turned = tokens.written[:-1] != tokens.written[1:]
    return _parted(text, tokens.columns["end"][:-1][turned].tolist())


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
