"""The share of wrong labels, out of margins of which the truth is known."""

import numpy as np
import pytest

from tokenq.curation.noise import estimate_noise


def margins(n, rate, slope, seed):
    """Margins of a policy that is right with probability σ(slope · |m|), and labels flipped at a rate."""
    rng = np.random.default_rng(seed)
    size = rng.exponential(2.0, n)
    right = rng.random(n) < 1 / (1 + np.exp(-slope * size))
    flipped = rng.random(n) < rate
    return np.where(right ^ flipped, size, -size), flipped


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.4])
def test_flips_are_estimated_and_the_share_of_negative_margins_is_not_that(rate):
    found, flipped = margins(20_000, rate, 1.5, 0)
    estimate = estimate_noise(found)
    assert estimate.rate.value == pytest.approx(flipped.mean(), abs=0.02)
    assert estimate.rate.low <= flipped.mean() <= estimate.rate.high
    expected = rate + (1 - 2 * rate) * (1 - estimate.accuracy)
    assert estimate.negative.value == pytest.approx(expected, abs=0.01)
    assert estimate.negative.value > rate + 0.02


@pytest.mark.integration
def test_the_interval_covers_the_rate():
    inside = []
    for seed in range(60):
        found, _ = margins(400, 0.2, 1.5, seed)
        rate = estimate_noise(found).rate
        inside.append(rate.low <= 0.2 <= rate.high)
    assert np.mean(inside) >= 0.9


def test_margins_that_know_nothing_give_an_interval_that_says_so():
    rng = np.random.default_rng(0)
    estimate = estimate_noise(rng.normal(size=500))
    assert (estimate.rate.low, estimate.rate.high) == (0, 0.5)
    assert not estimate.is_told
    assert np.isnan(estimate.wrong(np.ones(3))).all()


def test_the_probability_of_a_wrong_label_is_that_of_bayes():
    found, flipped = margins(20_000, 0.2, 1.0, 1)
    wrong = estimate_noise(found).wrong(found)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        held = (wrong >= low) & (wrong < high)
        if held.sum() > 200:
            assert flipped[held].mean() == pytest.approx(wrong[held].mean(), abs=0.05)


@pytest.mark.parametrize("given", [[], [1.0], [2.0] * 50, [0.0] * 50, [np.nan, 1.0]])
def test_margins_that_are_all_equal_say_nothing(given):
    estimate = estimate_noise(np.array(given, float))
    assert np.isnan(estimate.rate.value)
    assert np.isnan(estimate.wrong(np.array([1.0]))).all()
