"""Pairs from rewards: by hand in small cases, and DICE's α against a grid and against its own definition."""

import numpy as np
import pytest

from tokenq.rollout.pairing import PAIRINGS, Candidates

DICE = np.random.default_rng(0)


def candidates(rewards, lengths=None, tokens=None):
    lengths = [1] * len(rewards) if lengths is None else lengths
    tokens = [(place,) for place in range(len(rewards))] if tokens is None else tokens
    return Candidates(np.array(rewards, float), np.array(lengths), tokens)


def pairs(name, *prompts, dice=DICE):
    return PAIRINGS[name].pairs(prompts, dice).pairs


def test_the_best_stands_against_the_worst():
    assert pairs("best_worst", candidates([0.5, 2.0, -1.0, 2.0]), candidates([1.0, 0.0])) == [[(1, 2)], [(0, 1)]]


def test_every_two_of_different_reward():
    assert pairs("all", candidates([1.0, 0.0, 1.0])) == [[(0, 1), (2, 1)]]
    assert PAIRINGS["all"].most(4) == 6


@pytest.mark.parametrize("name", ["best_worst", "all", "length_regularised"])
def test_a_tie_is_no_pair_and_neither_are_equal_responses(name):
    assert pairs(name, candidates([1.0, 1.0, 1.0]), candidates([]), candidates([2.0])) == [[], [], []]
    assert pairs(name, candidates([1.0, 0.0], tokens=[(5, 6), (5, 6)])) == [[]]


def test_drawn_labels_follow_bradley_terry():
    """σ(1) = 0.7311 of 20,000 draws: four standard errors are 0.0125. Equal rewards are a pair, equal tokens none."""
    found = pairs("bradley_terry", *[candidates([1.0, 0.0, 3.0])] * 20_000)
    assert {len(some) for some in found} == {1}  # neighbours; the third has none
    assert np.mean([some == [(0, 1)] for some in found]) == pytest.approx(0.7311, abs=0.0125)
    assert pairs("bradley_terry", candidates([1.0, 0.0], tokens=[(1,), (1,)])) == [[]]
    assert len(pairs("bradley_terry", candidates([1.0, 1.0]))[0]) == 1
    again = pairs("bradley_terry", *[candidates([0.0, 0.0])] * 50, dice=np.random.default_rng(7))
    assert again == pairs("bradley_terry", *[candidates([0.0, 0.0])] * 50, dice=np.random.default_rng(7))


def test_the_length_price_by_hand():
    """Rewards 3, 2, 0 of lengths 10, 2, 4: gap 6 without a price.

    From α = 1/8 on, 2 − 2α is above 3 − 10α: the second is chosen, and the third (0 − 4α) rejected up to 3 − 10α =
    −4α, α = 1/2: gap −2. Beyond, the first is rejected: gap −8. So −2 is nearest to zero, for α in (1/8, 1/2).
    """
    found = PAIRINGS["length_regularised"].pairs([candidates([3.0, 2.0, 0.0], [10, 2, 4])], DICE)
    assert found.numbers["length_gap_without"] == 6
    assert found.numbers["length_gap"] == -2
    assert 1 / 8 < found.numbers["length_alpha"] < 1 / 2
    assert found.pairs == [[(1, 2)]]


def gaps_of(prompts, alphas):
    """Return the mean gap of lengths at each α, of prompts with equally many responses whose rewards differ."""
    lengths = np.array([one.lengths for one in prompts])
    priced = np.array([one.rewards for one in prompts]) - alphas[:, None, None] * lengths
    best, worst = priced.argmax(-1), priced.argmin(-1)
    rows = np.arange(len(prompts))
    return (lengths[rows, best] - lengths[rows, worst]).mean(-1)


def gap(prompts, alpha):
    """Return the mean gap of lengths at one α, computed plainly."""
    gaps = []
    for one in prompts:
        rewards = one.rewards - alpha * one.lengths
        if rewards.max() > rewards.min():
            gaps.append(one.lengths[rewards.argmax()] - one.lengths[rewards.argmin()])
    return np.mean(gaps)


@pytest.mark.parametrize("seed", range(5))
def test_the_length_price_makes_both_sides_equally_long(seed):
    """Rewards with a length part: the gap without a price is large, and with α nowhere on a fine grid smaller."""
    dice = np.random.default_rng(seed)
    prompts = []
    for _ in range(200):
        lengths = dice.integers(1, 60, 8)
        prompts.append(candidates(0.05 * lengths + dice.normal(size=8), lengths))
    found = PAIRINGS["length_regularised"].pairs(prompts, dice).numbers
    assert found["length_gap_without"] > 10
    assert abs(found["length_gap"]) < 0.25  # of 200 prompts: one that changes places moves it by less than 60/200
    grid = np.abs(gaps_of(prompts, np.arange(0, 0.2, 1e-4))).min()
    assert abs(found["length_gap"]) <= grid + 1e-12
    assert found["length_gap"] == gap(prompts, found["length_alpha"])


def test_a_judge_that_likes_short_ones_gets_a_negative_price():
    dice = np.random.default_rng(3)
    prompts = [candidates(-0.1 * (n := dice.integers(1, 60, 6)) + dice.normal(size=6), n) for _ in range(100)]
    found = PAIRINGS["length_regularised"].pairs(prompts, dice).numbers
    assert found["length_alpha"] < 0
    assert abs(found["length_gap"]) < 0.5
