"""Confidence intervals, all of them by scipy; nothing is estimated here that scipy does not offer."""

from scipy.stats import binomtest


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of hits / n.

    Args:
        hits: successes.
        n: trials, at least 1.
        confidence: coverage.
    """
    interval = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
