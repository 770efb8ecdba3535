"""Intervals against scipy's, against hand-made cases, and their coverage by simulation."""

import numpy as np
import pytest
from examples import cases
from scipy import stats

from tokenq.errors import UserError
from tokenq.stats.bootstrap import (
    Estimate,
    Resampling,
    difference_interval,
    intervals,
    mean_interval,
    mean_of,
    proportion_interval,
    unit_numbers,
)


def plain_confidence(n):
    """Return the confidence whose expanded quantile √(n/(n−1)) t is that of a plain 95 % interval."""
    return 2 * stats.t.cdf(stats.norm.ppf(0.975) * np.sqrt((n - 1) / n), n - 1) - 1


def spread(values):
    """Return the statistic "standard deviation of the values drawn"."""
    moments = np.stack((values, values**2), 1)
    return lambda counts: np.sqrt(np.diff((counts @ moments / counts.sum(1)[:, None]) ** [2, 1], axis=1)[:, 0])


@pytest.mark.parametrize("n", [7, 40, 200])
def test_the_interval_is_scipys_bca_at_the_same_level(n):
    values = np.random.default_rng(3).exponential(size=n)
    how = Resampling(resamples=1400, confidence=plain_confidence(n), seed=11)
    mine = intervals(spread(values), n, how)[0]
    theirs = stats.bootstrap(
        (values,), np.std, n_resamples=1400, batch=200, method="BCa", random_state=np.random.default_rng(11)
    ).confidence_interval
    assert mine == Estimate(pytest.approx(np.std(values)), pytest.approx(theirs.low), pytest.approx(theirs.high), n)


def test_many_units_are_left_out_in_blocks_and_little_changes():
    values = np.random.default_rng(3).exponential(size=400)
    how = Resampling(resamples=2000, confidence=plain_confidence(400), seed=5)
    mine = intervals(spread(values), 400, how)[0]
    theirs = stats.bootstrap(
        (values,), np.std, n_resamples=2000, batch=200, method="BCa", random_state=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(mine.low - theirs.low) < 0.02 * width
    assert abs(mine.high - theirs.high) < 0.02 * width


def test_a_small_sample_gets_its_t_interval():
    """For symmetric data there is no bias and no acceleration, and the ends are near mean ± t s / √n."""
    values = stats.norm.ppf((np.arange(12) + 0.5) / 12)
    found = mean_interval(values, how=Resampling(resamples=40_000))
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
    assert found.low == pytest.approx(-half, rel=0.05)
    assert found.high == pytest.approx(half, rel=0.05)


SHAPES = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
    "near one": (lambda rng, size: rng.beta(4, 1, size=size), 0.8),
}


@pytest.mark.integration
@pytest.mark.parametrize("n", cases([30, 100], [30]))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mean_is_covered(shape, n):
    """4,000 samples, one column each: 95 % ± 1.5 %, with a standard error of 0.34 %; by default small samples."""
    draw, truth = SHAPES[shape]
    samples = draw(np.random.default_rng(n), (n, 4000))
    found = intervals(*mean_of(samples))
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert abs(covered - 0.95) <= 0.015


@pytest.mark.integration
def test_a_paired_difference_is_covered_and_narrow():
    """Two systems that share what a prompt is worth: differences spread by √2 · 0.3, each system by √1.09."""
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=(40, 3000))
    first, second = (prompt + rng.normal(scale=0.3, size=prompt.shape) for _ in range(2))
    found = intervals(*mean_of(first + 0.1 - second))
    covered = np.mean([one.low <= 0.1 <= one.high for one in found])
    assert abs(covered - 0.95) <= 0.015
    paired = difference_interval(first[:, 0], second[:, 0])
    alone = mean_interval(first[:, 0])
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    assert paired.value == pytest.approx((first[:, 0] - second[:, 0]).mean())


@pytest.mark.integration
def test_a_grouped_mean_is_covered_and_one_that_ignores_groups_is_not():
    """Rows of a prompt share half their variance: 30 prompts with 1 to 5 rows."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    samples = rng.normal(size=(30, 2000))[groups] + rng.normal(size=(len(groups), 2000))
    shares = []
    for names in (groups.tolist(), None):
        found = intervals(*mean_of(samples, names))
        shares.append(np.mean([one.low <= 0 <= one.high for one in found]))
    assert abs(shares[0] - 0.95) <= 0.015
    assert shares[1] < 0.9


@pytest.mark.parametrize("p", [0.05, 0.3, 0.95])
def test_a_share_is_wilsons_and_covered(p):
    """Coverage exactly, over all counts of hits: the mean over n = 30 to 60, since Wilson's wobbles with n."""
    covered = []
    for n in range(30, 61, 5):
        ends = [mean_interval(np.arange(n) < hits) for hits in range(n + 1)]
        mass = stats.binom.pmf(np.arange(n + 1), n, p)
        covered.append(sum(mass[hits] for hits, one in enumerate(ends) if one.low <= p <= one.high))
    assert abs(np.mean(covered) - 0.95) <= 0.015


def test_a_perfect_share_still_has_an_interval():
    found = mean_interval(np.ones(8))
    assert (found.value, found.low, found.high) == (1.0, *proportion_interval(8, 8))
    assert found.low < 0.7
    # With groups, or as a difference, it is no share any more.
    assert mean_interval(np.ones(8), list("aabbccdd")) == Estimate(1.0, 1.0, 1.0, 4)
    assert difference_interval(np.ones(8), np.zeros(8)) == Estimate(1.0, 1.0, 1.0, 8)


def test_rows_with_nan_are_left_out():
    values = np.array([1.0, np.nan, 4.0, 2.5, np.nan])
    assert mean_interval(values) == mean_interval(values[[0, 2, 3]])
    assert mean_interval(values).n == 3
    grouped = mean_interval(values, ["a", "b", "a", "c", "c"])
    assert (grouped.value, grouped.n) == (2.5, 2)
    assert difference_interval(values, np.array([0.0, 0.0, 1.0, np.nan, 2.0])).value == 2.0
    # Of several means at once, each leaves out its own rows.
    both = intervals(*mean_of(np.stack((values, values[::-1]), 1)))
    assert [one.value for one in both] == [2.5, 2.5]
    assert [one.value for one in intervals(*mean_of(np.stack((values, np.arange(5.0)), 1)))] == [2.5, 2.0]


def test_groups_are_what_is_drawn():
    """Every row three times over, as a group, says no more than the rows themselves."""
    values = np.random.default_rng(0).normal(size=20)
    thrice = mean_interval(np.repeat(values, 3), np.repeat(np.arange(20), 3).tolist())
    once = mean_interval(values)
    assert (thrice.low, thrice.high, thrice.n) == (pytest.approx(once.low), pytest.approx(once.high), 20)


def test_the_mean_is_over_rows_and_not_over_groups():
    assert mean_interval(np.array([0.5, 0.5, 0.5, 2.5]), ["a", "a", "a", "b"]).value == 1.0


def test_one_unit_has_no_interval_and_none_has_no_value():
    one, none = mean_interval(np.array([0.3])), mean_interval(np.array([]))
    assert (one.value, one.n, np.isnan(one.low), np.isnan(one.high)) == (0.3, 1, True, True)
    assert (none.n, np.isnan(none.value), np.isnan(none.low)) == (0, True, True)


def test_what_does_not_vary_has_an_interval_of_no_width():
    assert mean_interval(np.full(9, 0.25)) == Estimate(0.25, 0.25, 0.25, 9)


def test_undefined_resamples_are_left_out():
    """The mean of the rows of one kind, of which a resample of four may hold none."""
    kind = np.array([1.0, 0.0, 0.0, 1.0])
    values = np.array([2.0, 7.0, 7.0, 4.0])

    def statistic(counts):
        with np.errstate(invalid="ignore"):
            return (counts @ (kind * values)) / (counts @ kind)

    found = intervals(statistic, 4)[0]
    assert (found.value, found.low, found.high) == (3.0, 2.0, 4.0)


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=25)
    assert mean_interval(values, how=Resampling(seed=1)) == mean_interval(values, how=Resampling(seed=1))
    assert mean_interval(values, how=Resampling(seed=1)) != mean_interval(values, how=Resampling(seed=2))
    wide = mean_interval(values, how=Resampling(confidence=0.99))
    narrow = mean_interval(values, how=Resampling(confidence=0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_rows_must_line_up():
    with pytest.raises(UserError, match="one system has 2, the other 3"):
        difference_interval(np.zeros(2), np.zeros(3))
    with pytest.raises(UserError, match="3 rows and 2 groups"):
        mean_of(np.zeros(3), ["a", "b"])


def test_units_are_numbered_as_they_appear():
    owner, n = unit_numbers(["q", "p", "q", 3], 4)
    assert (owner.tolist(), n) == ([0, 1, 0, 2], 3)


def test_an_interval_holds_what_it_is_of():
    """Of a statistic that resampling biases upwards: the largest share of five values, of few draws."""
    rng = np.random.default_rng(1)
    member = np.eye(5)[rng.integers(0, 5, 20)]

    def excess(counts):
        return np.abs(counts @ member / counts.sum(1, keepdims=True) - 0.2).sum(1)

    for seed in range(5):
        (found,) = intervals(excess, 20, Resampling(resamples=1000, seed=seed))
        assert found.low <= found.value <= found.high
