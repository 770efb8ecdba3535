"""Rules judged one at a time, from the parts that the task judges many with."""

import numpy as np

from tokenq.evaluation.first_error import REPEATS, check_solutions, labels_of, padded_scores, summary, units_of
from tokenq.evaluation.thresholds import RULES, Splits, held_out_hits
from tokenq.stats.bootstrap import PLAIN

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
