"""What the data says of a response, carried to its tokens: which of those that the policy wrote are wrong.

Data marks errors by stretches of characters, by labelled spans, or by the number of the first wrong step. Nothing here
guesses: what does not line up with the trace is an error that names it.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
from tokenq.records.traces import TokenTrace

Bools = NDArray[np.bool_]


def labels_from_stretches(trace: TokenTrace, stretches: Iterable[tuple[int, int]]) -> Bools:
    """Return which written tokens are wrong, [W], from stretches of the response, as (start, end) in characters.

    A token is wrong if it shares a character with a stretch that is not blank: pieces often begin with the blank before
    a word, and a stretch seldom does. Blank tokens inside are wrong too; a token without a piece goes with the
    character before it, unless it is the last (EOS).

    Raises:
        UserError: a stretch is empty, or outside the response.
    """
    text, wrong = trace.response, np.zeros(len(trace.tokens), dtype=np.bool_)
    bounds = list(zip(*(trace.tokens.columns[side].tolist() for side in ("start", "end")), strict=True))
    for start, end in stretches:
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"Trace {trace.id}: the span {start}–{end} is empty or outside the response, "
                f"which has {len(text)} characters.",
                "Spans are (start, end) in characters of the response, end excluded; a cut response is shorter.",
            )
        for number, (first, last) in enumerate(bounds):
            low, high = max(start, first), min(end, last)
            inside = low < high and bool(text[low:high].strip() or not text[first:last].strip())
            part = first == last and start < first <= end and number < len(bounds) - 1
            wrong[number] |= inside or part
    return _of_written(trace, wrong)


def labels_from_step(trace: TokenTrace, step: int | None) -> Bools:
    """Return which written tokens are wrong, [W]: those of one step, counted from 0; None for no error.

    Raises:
        UserError: the trace has no such step.
    """
    steps = trace.spans.of("step")
    wrong = np.zeros(len(trace.tokens), dtype=np.bool_)
    if step is not None:
        if not 0 <= step < len(steps):
            raise UserError(
                f"Trace {trace.id}: step {step} is labelled as wrong, and there are {len(steps)} steps.",
                "Steps are counted from 0; score with --levels step and without cutting responses.",
            )
        wrong[steps[step].first : steps[step].last] = True
    return _of_written(trace, wrong)


def _of_written(trace: TokenTrace, values: Bools) -> Bools:
    return values[trace.tokens.written]
