"""How often the first wrong step is found: the conventions of ProcessBench and of BIG-Bench-Mistake, and baselines.

A solution has steps with scores (higher = better) and a label: the first wrong step, counted from 0, or none. Accuracy
is exact: on erroneous solutions the very step, on correct ones "none"; F1 is the harmonic mean of the two accuracies
(arXiv 2412.06559), not of precision and recall. What a threshold is worth is told on
solutions that it was not chosen on. How scores become a prediction is in `tokenq.evaluation.thresholds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
from tokenq.evaluation.step_scores import read_label
from tokenq.evaluation.thresholds import Ints, harmonic_mean
from tokenq.stats.bootstrap import (
    PLAIN,
    Estimate,
    Floats,
    Resampling,
    intervals,
    mean_intervals,
    ratio,
    unit_numbers,
)

REPEATS = 5
"""How often prompts are dealt to folds."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The scored steps of one solution.

    Attributes:
        id: its name, for error messages.
        scores: [S] score of each step, higher = better.
        first_error: its first wrong step, counted from 0; None: all steps are correct.
        prompt: solutions of one prompt are resampled and split together; None: it has its prompt for itself.
    """

    id: str
    scores: Floats
    first_error: int | None
    prompt: str | None = None


@dataclass(frozen=True, eq=False)
class FirstError:
    """How often first errors are found.

    Attributes:
        erroneous: accuracy on solutions with an error: the very step.
        correct: accuracy on solutions without.
        f1: harmonic mean of the two, 0 where both are 0; NaN where the data has one kind only.
        accuracy: accuracy on all of them (BIG-Bench-Mistake).
        thresholds: those that were used, in the units of the rule's numbers; () for a rule without.
        hits: [N] share of right predictions for each solution (of 0 and 1 where it was predicted once).
    """

    erroneous: Estimate
    correct: Estimate
    f1: Estimate
    accuracy: Estimate
    thresholds: tuple[float, ...]
    hits: Floats


def baselines(solutions: Sequence[Solution], how: Resampling = PLAIN) -> dict[str, FirstError]:
    """Return the accuracies of rules that look at no step.

    `always_none`, `always_first` and `always_last` step; `random`: no error or one of the S steps, each with
    probability 1/(S + 1), expected; `best_random`: no error with probability q, else a uniform step, at the q with the
    highest F1, which is √a/(1 + √a) for a = mean 1/S over erroneous solutions, and then F1 = 2a/(1 + √a)²;
    `best_fixed_step`: the step that is most often the first error in these very solutions.

    Raises:
        UserError: there are no solutions, or one has no steps.
    """
    check_solutions(solutions)
    steps = np.array([len(solution.scores) for solution in solutions], dtype=np.float64)
    labels = np.array([-1 if s.first_error is None else s.first_error for s in solutions])
    erroneous = labels >= 0
    usual = int(np.bincount(labels[erroneous]).argmax()) if erroneous.any() else 0
    root = np.sqrt((1 / steps[erroneous]).mean()) if erroneous.any() else 0.0
    none = root / (1 + root)
    hits = {
        "always_none": ~erroneous,
        "always_first": labels == 0,
        "always_last": labels == steps - 1,
        "random": 1 / (steps + 1),
        "best_random": np.where(erroneous, (1 - none) / steps, none),
        "best_fixed_step": labels == usual if erroneous.any() else ~erroneous,
    }
    return {name: summary(solutions, value.astype(np.float64), (), how) for name, value in hits.items()}


def summary(
    solutions: Sequence[Solution], hits: Floats, thresholds: tuple[float, ...] = (), how: Resampling = PLAIN
) -> FirstError:
    """Return the accuracies and their intervals from the share of right predictions of each solution.

    Args:
        solutions: N of them.
        hits: [N] between 0 and 1.
        thresholds: to be reported.
        how: resamples, confidence, seed.
    """
    return summaries(solutions, np.asarray(hits, dtype=np.float64)[:, None], [thresholds], how)[0]


def summaries(
    solutions: Sequence[Solution], hits: Floats, thresholds: Sequence[tuple[float, ...]], how: Resampling = PLAIN
) -> list[FirstError]:
    """Return the accuracies of several ways to predict, as `summary` gives them, all from the same resamples.

    Args:
        solutions: N of them.
        hits: [N, M] share of right predictions of each solution, a column each way.
        thresholds: of each way, to be reported.
        how: resamples, confidence, seed.
    """
    wrong = labels_of(solutions) >= 0
    prompts = None if all(s.prompt is None for s in solutions) else [s.prompt or s for s in solutions]

    def shares(kind: NDArray[np.bool_]) -> list[Estimate]:
        names = None if prompts is None else [name for name, keep in zip(prompts, kind, strict=True) if keep]
        return mean_intervals(hits[kind], names, how)

    columns = (shares(wrong), shares(~wrong), _f1s(solutions, hits, how), shares(np.ones_like(wrong)))
    rows = zip(*columns, thresholds, hits.T, strict=True)
    return [FirstError(bad, good, f1, every, tried, own) for bad, good, f1, every, tried, own in rows]


def _f1s(solutions: Sequence[Solution], hits: Floats, how: Resampling) -> list[Estimate]:
    """Return the F1 of each column of hits."""
    wrong = (labels_of(solutions) >= 0)[:, None]
    owner, units = units_of(solutions)
    parts = np.concatenate([wrong, ~wrong, hits * wrong, hits * ~wrong], axis=1)
    sums = np.zeros((units, parts.shape[1]))
    np.add.at(sums, owner, parts)
    ways = hits.shape[1]

    def f1(counts: Floats) -> Floats:
        sizes, bad, good = np.split(counts @ sums, [2, 2 + ways], axis=1)
        return harmonic_mean(ratio(bad, sizes[:, :1]), ratio(good, sizes[:, 1:]))

    return intervals(f1, units, how)


def units_of(solutions: Sequence[Solution]) -> tuple[NDArray[np.int64], int]:
    """Return the number of each solution's prompt, and how many prompts there are."""
    return unit_numbers([solution.prompt or solution for solution in solutions], len(solutions))


def labels_of(solutions: Sequence[Solution]) -> Ints:
    """Return [N] the first wrong step of each solution, −1 where there is none."""
    return np.array([-1 if one.first_error is None else one.first_error for one in solutions], dtype=np.int64)


def padded_scores(solutions: Sequence[Solution]) -> Floats:
    """Return the scores of all solutions in one table, [N, S], filled up with NaN."""
    table = np.full((len(solutions), max(len(one.scores) for one in solutions)), np.nan)
    for row, one in zip(table, solutions, strict=True):
        row[: len(one.scores)] = one.scores
    return table


def check_solutions(solutions: Sequence[Solution]) -> None:
    """Refuse solutions that cannot be judged.

    Raises:
        UserError: there are none, one has no steps or a score that is no number, or its label is no step.
    """
    if not solutions:
        raise UserError("There are no solutions to judge.", "Is the file empty?")
    for solution in solutions:
        if not len(solution.scores) or not np.isfinite(solution.scores).all():
            raise UserError(
                f"{solution.id}: it has no steps, or a step without a finite score.",
                "A solution needs at least one step, and each step a token that the policy wrote.",
            )
        read_label(solution.first_error, len(solution.scores), solution.id)
