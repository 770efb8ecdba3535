"""Confidence intervals against their formula."""

import math

import pytest

from tokenq.stats.bootstrap import proportion_interval
from tokenq.stats.outcome import numbers_first


def wilson(hits, n, z):
    """Return Wilson's interval from its formula: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    p = hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@pytest.mark.parametrize(("hits", "n"), [(8, 10), (0, 5), (5, 5), (530, 1000)])
def test_the_interval_is_wilsons(hits, n):
    assert proportion_interval(hits, n) == pytest.approx(wilson(hits, n, 1.959963984540054), abs=1e-9)
    assert proportion_interval(hits, n, 0.9) == pytest.approx(wilson(hits, n, 1.6448536269514722), abs=1e-9)


def test_more_trials_narrow_it():
    low, high = proportion_interval(60, 100)
    lower, higher = proportion_interval(600, 1000)
    assert low < lower < 0.6 < higher < high


def test_what_is_no_number_comes_last():
    """Sorted by themselves, NaN in between would leave 3 before 1."""
    values = [3.0, float("nan"), 1.0, None, -2.0, "found nothing"]
    assert sorted(values, key=numbers_first)[:3] == [-2.0, 1.0, 3.0]
    assert [str(value) for value in sorted(values, key=numbers_first)[3:]] == ["nan", "None", "found nothing"]
