"""Thresholds of all folds at once against one fold after the other, every threshold tried."""

import numpy as np
import pytest
from first_errors import cross_validated, predict, sweep

from tokenq.errors import UserError
from tokenq.evaluation.first_error import Solution, labels_of, padded_scores, units_of
from tokenq.evaluation.thresholds import RULES, Splits, held_out_hits


def solutions_of(seed, count=30, kinds="both", step=0.5):
    """Return solutions of 1 to 6 steps whose scores are multiples of half a nat, so that many are tied."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = int(rng.integers(1, 7))
        wrong = kinds == "wrong" or (kinds == "both" and rng.random() < 0.6)
        label = int(rng.integers(size)) if wrong else None
        scores = np.round(rng.normal(size=size) / step) * step
        found.append(Solution(str(number), scores, label, f"prompt {number % 12}"))
    return found


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kinds", ["both", "wrong", "right"])
def test_every_fold_has_the_threshold_that_a_sweep_over_the_others_finds(name, kinds):
    solutions, rule = solutions_of(3, kinds=kinds), RULES[name]
    splits = Splits.drawn(*units_of(solutions), 4, 3, 0)
    hits, thresholds = held_out_hits(padded_scores(solutions), labels_of(solutions), rule, splits)
    expected, right = [], np.zeros(len(solutions))
    for fold in splits.fold:
        for held_out in range(4):
            best = sweep([one for one, own in zip(solutions, fold, strict=True) if own != held_out], rule).best
            expected.append(best)
            for place in np.flatnonzero(fold == held_out):
                one = solutions[place]
                right[place] += predict(rule, one.scores, best) == one.first_error
    assert thresholds == tuple(expected)
    assert hits.tolist() == (right / 3).tolist()


def test_the_folds_are_dealt_by_prompt_and_by_seed():
    solutions = solutions_of(1)
    owner, units = units_of(solutions)
    splits = Splits.drawn(owner, units, 5, 2, 7)
    for fold in splits.fold:
        assert all(len({fold[place] for place in np.flatnonzero(owner == unit)}) == 1 for unit in range(units))
        assert sorted(np.bincount(fold[np.unique(owner, return_index=True)[1]])) == [2, 2, 2, 3, 3]
    assert (splits.fold == Splits.drawn(owner, units, 5, 2, 7).fold).all()
    assert (splits.fold != Splits.drawn(owner, units, 5, 2, 8).fold).any()
    with pytest.raises(UserError, match="12 prompts cannot be dealt to 13 folds"):
        cross_validated(solutions, RULES["threshold"], folds=13)


@pytest.mark.parametrize("name", RULES)
def test_filling_up_changes_no_number(name):
    """A solution alone and among longer ones: the same numbers to the last digit."""
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=size) for size in (1, 2, 7, 8, 9, 17, 33)]
    table = padded_scores([Solution(str(i), row, None) for i, row in enumerate(scores)])
    for row, own in zip(RULES[name].transform(table), scores, strict=True):
        assert row[: len(own)].tolist() == RULES[name].transform(own).tolist()
        assert np.isnan(row[len(own) :]).all()
