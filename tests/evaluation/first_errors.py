"""Rules judged one at a time, from the parts that the task judges many with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenq.evaluation.first_error import (
    REPEATS,
    Solution,
    check_solutions,
    labels_of,
    padded_scores,
    summary,
    units_of,
)
from tokenq.evaluation.thresholds import RULES, Rule, Splits, harmonic_mean, held_out_hits
from tokenq.stats.bootstrap import PLAIN, Floats, ratio

ALWAYS = float("inf")
"""The threshold at which the lowest step, and the largest drop, is always named."""


def predict(rule, scores, threshold):
    """Return the step that a rule names as the first wrong one, None for no error."""
    numbers = rule.transform(scores)
    below = np.flatnonzero(numbers < threshold)
    if not len(below):
        return None
    return int(numbers.argmin()) if rule in (RULES["worst_step"], RULES["largest_drop"]) else int(below[0])


def evaluate_at(solutions, rule, threshold, how=PLAIN):
    """Return the accuracies at a threshold that was chosen elsewhere."""
    check_solutions(solutions)
    hits = [predict(rule, one.scores, threshold) == one.first_error for one in solutions]
    return summary(solutions, np.array(hits, dtype=np.float64), (threshold,), how)


def cross_validated(solutions, rule, folds=5, repeats=REPEATS, how=PLAIN):
    """Return the accuracies with thresholds that were chosen on other folds, the mean of several deals."""
    check_solutions(solutions)
    splits = Splits.drawn(*units_of(solutions), folds, repeats, how.seed)
    hits, thresholds = held_out_hits(padded_scores(solutions), labels_of(solutions), rule, splits)
    return summary(solutions, hits, thresholds, how)


@dataclass(frozen=True, eq=False)
class ThresholdSweep:
    """Accuracies at every threshold that makes a difference.

    Attributes:
        thresholds: [K] the values that steps have, ascending, and infinity.
        erroneous: [K] accuracy on erroneous solutions.
        correct: [K] accuracy on correct ones.
        f1: [K] harmonic mean.
    """

    thresholds: Floats
    erroneous: Floats
    correct: Floats
    f1: Floats

    @property
    def best(self) -> float:
        """The lowest threshold with the highest F1, or accuracy where there is one kind of solution only."""
        goal = next((g for g in (self.f1, self.erroneous, self.correct) if not np.isnan(g).any()), self.f1)
        return float(self.thresholds[int(np.argmax(goal))])


def sweep(solutions: Sequence[Solution], rule: Rule) -> ThresholdSweep:
    """Return the accuracies of a rule at every threshold among the unique values of its numbers.

    A solution is predicted right for thresholds in one interval (low, high], so all thresholds together cost a sort.
    Chosen and told on the same solutions, the best F1 is an upper bound.

    Raises:
        UserError: there are no solutions, or one has no steps.
    """
    check_solutions(solutions)
    numbers, labels = rule.transform(padded_scores(solutions)), labels_of(solutions)
    thresholds = np.append(np.unique(numbers[~np.isnan(numbers)]), np.inf)
    right = np.stack(rule.right(numbers, labels), axis=1)
    accuracies = []
    for kind in (labels >= 0, labels < 0):
        low, high = np.sort(right[kind & (right[:, 0] < right[:, 1])], axis=0).T
        hits = np.searchsorted(low, thresholds, "left") - np.searchsorted(high, thresholds, "left")
        accuracies.append(ratio(hits.astype(np.float64), np.full(1, float(kind.sum()))))
    return ThresholdSweep(thresholds, accuracies[0], accuracies[1], harmonic_mean(accuracies[0], accuracies[1]))
