"""Confidence intervals, all of them by scipy (nothing is estimated here that scipy does not offer), and an order."""

import math

from scipy.stats import binomtest


def numbers_first(value: float | str | None) -> tuple[bool, float]:
    """Return the key under which numbers ascend and what is none (NaN, None, a text) comes last.

    NaN is neither below nor above anything: sorted by itself, it leaves everything around it in disorder.
    """
    if value is None or isinstance(value, str) or math.isnan(value):
        return True, 0.0
    return False, float(value)


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of hits / n.

    Args:
        hits: successes.
        n: trials, at least 1.
        confidence: coverage.
    """
    interval = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
