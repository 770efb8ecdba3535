"""How the scores of steps become a prediction: the first wrong step, or none. One table, `RULES`.

A rule turns scores (higher = better) into numbers and compares these with a threshold, in nats where the scores are;
when nothing is below it the prediction is "no error". A threshold compares solutions of different prompts, which the
theory of implicit rewards does not license (V*(s_1) is unknown); rules that centre a solution first do not. Nothing is
chosen here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenq.stats.bootstrap import Floats, ratio

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """How step scores become a prediction. Many solutions stand in one table, filled up with NaN behind their steps.

    Attributes:
        transform: scores [..., S] → numbers [..., S] that are compared with the threshold.
        right: (numbers [N, S], labels [N], −1 for no error) → (low, high]: the thresholds at which each prediction is
            right; empty where low ≥ high.
    """

    transform: Callable[[Floats], Floats]
    right: Callable[[Floats, Ints], tuple[Floats, Floats]]


def _first_below_right(numbers: Floats, labels: Ints) -> tuple[Floats, Floats]:
    rows, wrong = np.arange(len(numbers)), labels >= 0
    least = np.minimum.accumulate(np.where(np.isnan(numbers), np.inf, numbers), axis=1)
    before = np.where(labels > 0, least[rows, np.maximum(labels - 1, 0)], np.inf)
    low = np.where(wrong, numbers[rows, np.maximum(labels, 0)], -np.inf)
    return low, np.where(wrong, before, least[:, -1])


def _lowest_right(numbers: Floats, labels: Ints) -> tuple[Floats, Floats]:
    wrong, least = labels >= 0, np.nanmin(numbers, axis=1)
    low = np.where(wrong, np.where(np.nanargmin(numbers, axis=1) == labels, least, np.inf), -np.inf)
    return low, np.where(wrong, np.inf, least)


def _centred(scores: Floats) -> Floats:
    return scores - _mean(scores)


def _standardised(scores: Floats) -> Floats:
    centred = _centred(scores)
    shares = ratio(centred, np.sqrt(_mean(centred**2)))
    return np.where(np.isnan(scores), np.nan, np.nan_to_num(shares))


def _mean(scores: Floats) -> Floats:
    """Return the mean of each solution's steps, [..., 1]; summed in order, so that filling up changes no digit."""
    known = ~np.isnan(scores)
    sums = np.cumsum(np.where(known, scores, 0.0), axis=-1)[..., -1:]
    return np.asarray(sums / known.sum(-1, keepdims=True))


RULES: Mapping[str, Rule] = {
    "threshold": Rule(lambda scores: scores, _first_below_right),
    "centred_threshold": Rule(_centred, _first_below_right),
    "standardised_threshold": Rule(_standardised, _first_below_right),
    "relative_to_first_step": Rule(lambda scores: scores - scores[..., :1], _first_below_right),
    "worst_step": Rule(lambda scores: scores, _lowest_right),
    "largest_drop": Rule(lambda scores: np.diff(scores, prepend=0.0), _lowest_right),
}
"""First step below a threshold: of the scores, of scores minus the solution's mean, in its standard deviations, or
minus its first step's (which is then never wrong, unless the threshold is above 0); the lowest step, and the largest
drop from the step before (from 0 before the first: a value curve's start), if they are below a threshold. At a
threshold of infinity these last two always name a step."""
