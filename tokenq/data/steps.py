"""Where the steps that the data gives stand in the text of a response."""

from collections.abc import Sequence
from itertools import accumulate, pairwise


def step_stretches(text: str, steps: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, end) in characters for each step; together they are the whole text.

    A step behind the place at which the text was cut is empty.

    Args:
        text: the response.
        steps: strings whose concatenation it is, but for what a template has trimmed or the limit of length cut.
    """
    ends = accumulate(steps, lambda cursor, step: _after(text, step, cursor), initial=0)
    return list(pairwise([*list(ends)[:-1], len(text)]))


def _after(text: str, step: str, cursor: int) -> int:
    """Return one past the end of a step in the text: the end of the text for the one at which it was cut.

    A template may have trimmed it.
    """
    places = [(place, -len(said)) for said in (step, step.strip()) if (place := text.find(said, cursor)) >= 0]
    place, size = min(places, default=(len(text), 0))
    return place - size
