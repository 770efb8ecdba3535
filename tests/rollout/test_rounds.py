"""When a round begins and ends, what is replayed, and that a step is a function of what is on disk."""

import numpy as np
import pytest
from training.small_runs import random_pairs

from tokenq.core.losses.units import UNITS
from tokenq.rollout.rounds import Rounds, affordable, draw_replay, planned, replayed

PAIRS = random_pairs(12)


def test_the_plan_by_hand():
    """7 pairs in batches of 3 are 3 steps a pass; two passes and a half are 8 (7.5 upwards)."""
    plan = planned([7] * 3, offline=0, replay=0.0, batch_size=3, epochs=2.5)
    assert plan.starts() == [0, 8, 16, 24]
    assert [plan.place(step) for step in (0, 7, 8, 23)] == [(1, 0), (1, 7), (2, 0), (3, 7)]


def test_rounds_that_replay_are_longer():
    assert planned([10] * 3, 0, 1.0, 5, 1.0).examples == (10, 20, 30)  # all of the earlier
    assert planned([10] * 3, 4, 1.0, 5, 1.0).examples == (14, 24, 34)
    assert planned([10] * 3, 100, 0.5, 5, 1.0).examples == (20, 20, 20)  # as many again
    assert planned([10] * 2, 0, 0.75, 5, 1.0).examples == (10, 20)  # 30 are wanted, 10 are there


def test_how_many_are_replayed():
    assert [replayed(10, share, 100) for share in (0.0, 0.2, 0.5, 0.75, 1.0)] == [0, 2, 10, 30, 100]
    assert replayed(0, 1.0, 100) == 0  # a round without a pair learns nothing


def test_replay_is_drawn_by_seed_and_round():
    first = draw_replay(PAIRS, 5, seed=1, number=2)
    assert [id(one) for one in first] == [id(one) for one in draw_replay(PAIRS, 5, seed=1, number=2)]
    assert [id(one) for one in first] != [id(one) for one in draw_replay(PAIRS, 5, seed=1, number=3)]
    assert len({id(one) for one in first}) == 5
    assert draw_replay(PAIRS, 12, seed=0, number=1) == PAIRS


def rounds(sizes, asked):
    """Return a source over rounds of given sizes, which notes what it was asked."""

    def groups_of(number, at_start):
        asked.append((number, at_start))
        return PAIRS[: sizes[number - 1]]

    return Rounds(planned([10] * len(sizes), 0, 0.0, 4, 1.0), UNITS["pairs"], 0, groups_of)


def test_a_round_with_few_pairs_has_empty_steps():
    asked = []
    source = rounds([10, 5, 0], asked)
    assert source.total == 9
    sizes = [len(source.step(step)) for step in range(9)]
    assert sizes == [4, 4, 2, 4, 1, 0, 0, 0, 0]
    assert asked == [(1, True), (2, True), (3, True)]


def test_more_examples_than_could_be_planned_make_larger_updates():
    """12 of at most 10: the three steps of 10 in batches of 4 take 4 each; 11 of at most 5 take 6 and 5."""
    source = Rounds(planned([10, 5], 0, 0.0, 4, 1.0), UNITS["pairs"], 0, lambda n, _: PAIRS[: (12, 11)[n - 1]])
    assert [len(source.step(step)) for step in range(source.total)] == [4, 4, 4, 6, 5]


def test_every_pair_of_a_round_is_seen_once_and_any_order_of_asking_gives_the_same():
    source = rounds([10, 10], [])
    seen = [part.place for step in range(3) for part in source.step(step)]
    assert sorted(seen) == list(range(10))
    assert seen != list(range(10))
    asked = []
    back = rounds([10, 10], asked)
    for step in (4, 1, 3, 0):
        assert [part.place for part in back.step(step)] == [part.place for part in source.step(step)]
    assert asked == [(2, False), (1, False), (2, True), (1, True)]


@pytest.mark.parametrize("epochs", [0.5, 2.0])
def test_passes_over_a_round(epochs):
    source = Rounds(planned([8], 0, 0.0, 4, epochs), UNITS["pairs"], 0, lambda number, at_start: PAIRS[:8])
    seen = [part.place for step in range(source.total) for part in source.step(step)]
    assert np.bincount(seen).tolist() == [2] * 8 if epochs == 2 else len(set(seen)) == 4


@pytest.mark.parametrize(
    ("budget", "counts"),
    [(36, [4, 4, 4]), (99, [4, 4, 4]), (35, [4, 4, 3]), (20, [4, 2]), (12, [4]), (3, [1]), (2, [])],
)
def test_a_budget_of_labels_ends_at_the_border_of_a_prompt(budget, counts):
    """Three rounds of four prompts that take three judgements each: 36 in all."""
    assert affordable(3, 4, 3, budget) == counts
