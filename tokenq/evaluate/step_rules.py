"""How the scores of steps become a prediction: the first wrong step, or none. One table, `RULES`.

A rule turns scores (higher = better) into numbers and compares these with a threshold, in nats where the scores are;
when nothing is below it the prediction is "no error". A threshold compares solutions of different prompts, which the
theory of implicit rewards does not license (V*(s_1) is unknown); rules that centre a solution first do not. Nothing is
chosen here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tokenq.evaluate.bootstrap import Floats, ratio


@dataclass(frozen=True)
class Rule:
    """How step scores become a prediction.

    Attributes:
        transform: scores [S] → numbers [S] that are compared with the threshold.
        place: (numbers, threshold) → the step predicted as first wrong, None for no error.
        right: (numbers, label) → (low, high]: the thresholds at which the prediction is right; empty where low ≥ high.
    """

    transform: Callable[[Floats], Floats]
    place: Callable[[Floats, float], int | None]
    right: Callable[[Floats, int | None], tuple[float, float]]


def predict(rule: Rule, scores: Floats, threshold: float) -> int | None:
    """Return the step that a rule names as the first wrong one, None for no error."""
    return rule.place(rule.transform(scores), threshold)


def _first_below(numbers: Floats, threshold: float) -> int | None:
    below = np.flatnonzero(numbers < threshold)
    return int(below[0]) if len(below) else None


def _first_below_right(numbers: Floats, label: int | None) -> tuple[float, float]:
    if label is None:
        return -np.inf, float(numbers.min())
    return float(numbers[label]), float(min(numbers[:label], default=np.inf))


def _lowest(numbers: Floats, threshold: float) -> int | None:
    step = int(np.argmin(numbers))
    return step if numbers[step] < threshold else None


def _lowest_right(numbers: Floats, label: int | None) -> tuple[float, float]:
    if label is None:
        return -np.inf, float(numbers.min())
    return (float(numbers.min()), np.inf) if int(np.argmin(numbers)) == label else (np.inf, np.inf)


def _standardised(scores: Floats) -> Floats:
    centred = scores - scores.mean()
    return np.nan_to_num(ratio(centred, np.full(1, centred.std())))


RULES: Mapping[str, Rule] = {
    "threshold": Rule(lambda scores: scores, _first_below, _first_below_right),
    "centred_threshold": Rule(lambda scores: scores - scores.mean(), _first_below, _first_below_right),
    "standardised_threshold": Rule(_standardised, _first_below, _first_below_right),
    "relative_to_first_step": Rule(lambda scores: scores - scores[0], _first_below, _first_below_right),
    "worst_step": Rule(lambda scores: scores, _lowest, _lowest_right),
    "largest_drop": Rule(lambda scores: np.diff(scores, prepend=0.0), _lowest, _lowest_right),
}
"""First step below a threshold: of the scores, of scores minus the solution's mean, in its standard deviations, or
minus its first step's (which is then never wrong, unless the threshold is above 0); the lowest step, and the largest
drop from the step before (from 0 before the first: a value curve's start), if they are below a threshold. At a
threshold of infinity these last two always name a step."""

NO_GATE = float("inf")
"""The threshold at which `worst_step` and `largest_drop` always name a step."""
