"""How often a judge prefers one system: the win rate and its error.

A preference is the share of the first response: 1 it is preferred, 0 the other one is, ½ a tie, anything between what a
judge's probabilities say, and None (or NaN) a judgement that could not be used. Unusable judgements are left out and
counted, never taken for ties. Rates are shares of one, not per cent. Nothing here reads files or asks a judge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from tokenq.errors import UserError
from tokenq.stats.bootstrap import Floats

Preferences = Sequence[float | None] | Floats


@dataclass(frozen=True)
class WinRate:
    """How often the first response is preferred.

    Attributes:
        n: judgements used.
        unusable: judgements left out.
        win_rate: mean preference.
        standard_error: s / √n with n − 1 degrees of freedom; None for a single judgement.
        interval: where the true rate lies, with the confidence asked for.
        wins: preferences above ½.
        losses: preferences below ½.
        ties: preferences of exactly ½.
    """

    n: int
    unusable: int
    win_rate: float
    standard_error: float | None
    interval: tuple[float, float]
    wins: int
    losses: int
    ties: int


def win_rate(preferences: Preferences, confidence: float = 0.95) -> WinRate:
    """Return the mean preference with its error.

    The interval is Wilson's score interval at the effective sample size n p(1 − p) / s², which is n itself for wins and
    losses, and more where ties or a judge's probabilities make the preferences vary less than a coin (Dean & Pagano
    2015). Unlike mean ± 1.96 errors it stays inside [0, 1], and does not shrink to a point when every judgement agrees.

    Args:
        preferences: share of the first response, one a prompt.
        confidence: coverage of the interval.

    Raises:
        UserError: a preference lies outside [0, 1], or none can be used.
    """
    values = checked(preferences)
    used = values[~np.isnan(values)]
    n = len(used)
    if not n:
        raise UserError("There is no judgement to average.", "Look at why the judge's answers could not be used.")
    rate = float(used.mean())
    return WinRate(
        n=n,
        unusable=len(values) - n,
        win_rate=rate,
        standard_error=float(used.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        interval=_wilson(rate, _effective_size(used), confidence),
        wins=int((used > 0.5).sum()),
        losses=int((used < 0.5).sum()),
        ties=int((used == 0.5).sum()),
    )


def floats(values: Preferences) -> Floats:
    """Return numbers as an array, with NaN for None."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def checked(preferences: Preferences) -> Floats:
    """Return preferences as an array with NaN for None.

    Raises:
        UserError: one lies outside [0, 1].
    """
    values = floats(preferences)
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        raise UserError(
            f"Preference {wrong[0] + 1} is {values[wrong[0]]:g}, and a preference lies between 0 and 1.",
            "Give the share of the first response: 1, 0, or 0.5 for a tie (AlpacaEval's 1 to 2 is converted first).",
        )
    return values


def _effective_size(used: Floats) -> float:
    """Return how many coin flips vary as much as these preferences; their number where they do not vary at all."""
    rate, n = float(used.mean()), len(used)
    if used.min() == used.max():
        return float(n)
    # The variance of n, not n − 1: wins and losses then count as n flips exactly.
    return n * rate * (1 - rate) / float(used.var())


def _wilson(rate: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the roots of (p − rate)² = z² p (1 − p) / n, for an n that need not be whole."""
    z = float(norm.ppf((1 + confidence) / 2))
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The rate itself lies inside, whatever rounding does to an end at 0 or 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
