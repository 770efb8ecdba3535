"""From token scores to step scores, in the conventions of process rewards, and labels as data sets write them.

Token credits are higher = better (a read-out of `tokenq.evaluation.readouts`, its sign turned). For implicit rewards
the sum over a step is the change of the prefix value over it, and the cumulative score is the value at its end, the
score that Implicit PRM thresholds (arXiv 2412.01981). For a reward model, whose credits are changes of its output, the
cumulative score is the output at the step's last token: what a process reward model is thresholded by. Steps are the
trace's spans of the level "step".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.data.layouts.cells import shown, whole
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import Floats

Bounds = NDArray[np.int64]
"""[S, 2] (first, one past the last) written token of each step; no step is empty."""


def _sum(credits: Floats, steps: Bounds) -> Floats:
    return np.asarray(np.add.reduceat(np.append(credits, 0.0), steps.ravel())[::2])


def _cumulative(credits: Floats, steps: Bounds) -> Floats:
    return np.asarray(np.cumsum(credits)[steps[:, 1] - 1])


def _min(credits: Floats, steps: Bounds) -> Floats:
    return np.asarray(np.minimum.reduceat(np.append(credits, np.inf), steps.ravel())[::2])


def _mean(credits: Floats, steps: Bounds) -> Floats:
    return _sum(credits, steps) / np.diff(steps, axis=1)[:, 0]


STEP_SCORES: Mapping[str, Callable[[Floats, Bounds], Floats]] = {
    "sum": _sum,
    "cumulative": _cumulative,
    "min": _min,
    "mean": _mean,
}
"""(credits [W], steps) → [S]: the step's sum; the sum up to its end; its least and its mean credit."""


def read_label(label: Any, steps: int, where: str) -> int | None:
    """Return a label as data sets write it (−1 or nothing: no error) as the first wrong step, or None.

    Args:
        label: of the data: a whole number, also as 2.0 or "2"; NaN and null are no label.
        steps: how many steps there are.
        where: origin for error messages.

    Raises:
        UserError: the label is no step of the solution.
    """
    try:
        found = whole(label, "label")
    except BadRow:
        found = steps
    if found is None or found == -1:
        return None
    if not 0 <= found < steps:
        raise UserError(
            f"{where}: the label {shown(label)} is none of its {steps} steps.",
            "A label is the first wrong step, counted from 0; −1 or null where there is none.",
        )
    return found


def first_wrong(correct: Sequence[bool]) -> int | None:
    """Return the first step that is not correct, None where all are."""
    return next((step for step, good in enumerate(correct) if not good), None)


def step_bounds(trace: TokenTrace, count: int | None = None) -> Bounds:
    """Return where the steps of a trace begin and end among the tokens that the policy wrote.

    Args:
        trace: a trace with spans of the level "step".
        count: how many steps the data has; None: as many as the trace.

    Raises:
        UserError: there are none or another number, or one is without tokens.
    """
    spans = trace.spans.of("step")
    if not spans or (count is not None and len(spans) != count):
        raise UserError(
            f"Trace {trace.id} has {len(spans)} steps"
            + (", and scoring by steps needs some." if count is None else f", and its row has {count}."),
            "Score with --levels step, from rows that give their steps, and without cutting responses.",
        )
    # Token t of the trace is the before[t]-th that the policy wrote.
    before = np.concatenate(([0], np.cumsum(trace.tokens.written)))
    steps: Bounds = np.stack([before[spans.columns[side]] for side in ("first", "last")], axis=1).astype(np.int64)
    for number, (first, last) in enumerate(steps.tolist()):
        if first == last:
            raise UserError(
                f"Trace {trace.id}: step {number} has no token that the policy wrote.",
                "The response was cut (allow more tokens), or the step is empty in the data.",
            )
    return steps
