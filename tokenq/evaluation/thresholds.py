"""How the scores of steps become a prediction, and thresholds that are chosen on some prompts and judged on others.

A rule (one table, `RULES`) turns scores (higher = better) into numbers and compares these with a threshold, in nats
where the scores are; the first wrong step is then predicted, or, when nothing is below it, "no error". A threshold
compares solutions of different prompts, which the theory of implicit rewards does not license (V*(s_1) is unknown);
rules that centre a solution first do not.

A solution is predicted right for thresholds in one interval (low, high], so how many are right at every threshold is a
running sum over the sorted thresholds; a fold's own solutions are taken off the sum of all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
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


@dataclass(frozen=True, eq=False)
class Splits:
    """Prompts dealt to folds, several times.

    Attributes:
        fold: [R, N] the fold of each solution in each repeat.
        folds: how many folds.
    """

    fold: Ints
    folds: int

    @classmethod
    def drawn(cls, owner: Ints, units: int, folds: int, repeats: int, seed: int) -> "Splits":
        """Return prompts dealt to folds at random.

        Args:
            owner: [N] prompt of each solution.
            units: how many prompts.
            folds: how many folds.
            repeats: how often they are dealt anew.
            seed: of the deals.

        Raises:
            UserError: there are fewer prompts than folds.
        """
        if not 2 <= folds <= units:
            raise UserError(
                f"{units} prompts cannot be dealt to {folds} folds.",
                "Take 2 or more folds, and at least as many prompts.",
            )
        rng = np.random.default_rng(seed)
        return cls(np.stack([(rng.permutation(units) % folds)[owner] for _ in range(repeats)]), folds)


def harmonic_mean(first: Floats, second: Floats) -> Floats:
    """Return 2 a b / (a + b), 0 where both are 0."""
    total = np.asarray(first + second, dtype=np.float64)
    mean = ratio(2 * np.asarray(first * second, dtype=np.float64), total)
    return np.where(total == 0, 0.0, mean)


def held_out_hits(scores: Floats, labels: Ints, rule: Rule, splits: Splits) -> tuple[Floats, tuple[float, ...]]:
    """Return the share of repeats in which each solution is predicted right, and the thresholds that were chosen.

    The threshold of a fold is the lowest of those with the highest F1 on the other folds (accuracy where these have one
    kind of solution), among the values of their steps and infinity.

    Args:
        scores: [N, S] of the steps, filled up with NaN.
        labels: [N] first wrong step, −1 for none.
        rule: how scores become a prediction.
        splits: of the solutions.

    Returns:
        [N] hits, and a threshold for each fold of each repeat.
    """
    numbers = rule.transform(scores)
    low, high = rule.right(numbers, labels)
    known = ~np.isnan(numbers)
    values, place = np.unique(numbers[known], return_inverse=True)
    thresholds = np.append(values, np.inf)
    owner = np.nonzero(known)[0]
    # A solution is right from the first threshold above `low` on, until the first above `high`.
    ends = [np.searchsorted(thresholds, end, "right") for end in (low, high)]
    hits, chosen = np.zeros(len(labels)), []
    for fold in splits.fold:
        seen = _others(fold[owner], place, splits.folds, len(thresholds)) > 0
        seen[:, -1] = True
        erroneous, correct = (
            _accuracies(fold, kind & (low < high), kind, ends, splits.folds, len(thresholds))
            for kind in (labels >= 0, labels < 0)
        )
        picked = thresholds[_best(erroneous, correct, seen)]
        chosen += picked.tolist()
        own = picked[fold]
        hits += (low < own) & (own <= high)
    return hits / len(splits.fold), tuple(chosen)


def _others(fold: Ints, place: Ints, folds: int, size: int) -> Floats:
    """Return [folds, size] how many things stand at each place that are in other folds."""
    own = np.bincount(fold * size + place, minlength=folds * size).reshape(folds, size)
    return np.asarray(own.sum(0) - own, dtype=np.float64)


def _accuracies(
    fold: Ints, possible: NDArray[np.bool_], kind: NDArray[np.bool_], ends: list[Ints], folds: int, size: int
) -> Floats:
    """Return [folds, size] the accuracy of each threshold on the solutions of a kind that other folds have.

    Args:
        fold: [N] of each solution.
        possible: [N] solutions of the kind that some threshold predicts right.
        kind: [N] solutions of the kind.
        ends: [N] each, the first threshold at which a solution is right, and the first at which it is so no longer.
        folds: how many.
        size: how many thresholds.
    """
    changes = [_others(fold[possible], end[possible], folds, size + 1) for end in ends]
    right = np.cumsum(changes[0] - changes[1], axis=1)[:, :size]
    own = np.bincount(fold[kind], minlength=folds)
    return ratio(right, np.asarray(own.sum() - own, dtype=np.float64)[:, None])


def _best(erroneous: Floats, correct: Floats, seen: NDArray[np.bool_]) -> Ints:
    """Return the place of the lowest threshold with the highest F1 in each fold, of accuracy where F1 is unknown."""
    goals = np.where(
        np.isnan(erroneous).any(1, keepdims=True),
        correct,
        np.where(np.isnan(correct).any(1, keepdims=True), erroneous, harmonic_mean(erroneous, correct)),
    )
    return np.asarray(np.argmax(np.where(seen, goals, -np.inf), axis=1))
