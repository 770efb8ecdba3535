"""Confidence intervals by resampling prompts: for means, paired differences, and any statistic of drawn prompts.

What is resampled is the unit that was sampled in the first place: a prompt with all that belongs to it. A resample is
told by how often each unit was drawn, so that a statistic over pooled tokens (an AUROC) can weigh its tokens instead
of copying them, and many resamples go through matrix products at once.

The interval is BCa (bias-corrected and accelerated, Efron 1987), widened to a t interval for small n ("expanded",
Hesterberg 2014). Plain percentile intervals are too narrow at n = 20 to 50, and worse for skewed numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from scipy.stats import t as student

from tokenq.errors import UserError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""(counts [R, n]: how often each unit was drawn in each resample) → [R] or, for M statistics at once, [R, M].

Counts sum to n in a resample, and to less where the jackknife leaves units out. NaN where the statistic is undefined;
such resamples are left out."""

BATCH = 200
"""Resamples that a statistic is given at once, and blocks of the jackknife."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: the number; NaN where there is nothing to compute it from.
        low: lower end of the interval; NaN for fewer than two units.
        high: upper end.
        n: independent units behind it: examples, or prompts where several examples share one.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        resamples: how often units are drawn anew, 1,000 or more for 95 %.
        confidence: coverage, between 0 and 1.
        seed: of the draws; the same seed and n draw the same units, so that separate calls are comparable.
    """

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


PLAIN = Resampling()
"""The default of every interval."""


def intervals(statistic: Statistic, n: int, how: Resampling = PLAIN) -> list[Estimate]:
    """Return each of M statistics with its expanded BCa interval, all from the same resamples.

    A difference of two systems on the same units is one more column: the draws are shared, so the pairing is kept.

    Args:
        statistic: see `Statistic`.
        n: units.
        how: resamples, confidence, seed.
    """
    values = _columns(statistic(np.ones((1, n))))[0]
    if n < 2:
        return [Estimate(float(value), np.nan, np.nan, n) for value in values]
    rng = np.random.default_rng(how.seed)
    sizes = [min(BATCH, how.resamples - start) for start in range(0, how.resamples, BATCH)]
    replicates = np.concatenate([_columns(statistic(_draw(rng, size, n))) for size in sizes])
    left_out = _columns(statistic(_without_one(rng, n)))
    # The normal quantile that gives a mean its t interval: √(n/(n−1)) t, corrections for an estimated s.
    z = float(np.sqrt(n / (n - 1)) * student.ppf((1 + how.confidence) / 2, n - 1))
    low, high = _bca(values, replicates, left_out, z)
    # Of a statistic that resampling biases, the estimate may lie outside; an interval holds what it is an interval of.
    low, high = np.fmin(low, values), np.fmax(high, values)
    return [Estimate(float(a), float(b), float(c), n) for a, b, c in zip(values, low, high, strict=True)]


def mean_of(values: Floats, groups: Sequence[object] | None = None) -> tuple[Statistic, int]:
    """Return the statistic "mean over rows", and its number of units.

    Args:
        values: [N] or, for M means at once, [N, M]; rows with NaN count in no mean.
        groups: [N] which rows belong together (a prompt's name); None: every row is a unit.

    Raises:
        UserError: there are not as many groups as rows.
    """
    table = _columns(values)
    known = ~np.isnan(table)
    owner, n = unit_numbers(groups, len(table))
    sums, sizes = np.zeros((n, table.shape[1])), np.zeros((n, table.shape[1]))
    np.add.at(sums, owner, np.where(known, table, 0.0))
    np.add.at(sizes, owner, known)

    def mean(counts: Floats) -> Floats:
        return ratio(counts @ sums, counts @ sizes)

    return mean, n


def mean_interval(values: Floats, groups: Sequence[object] | None = None, how: Resampling = PLAIN) -> Estimate:
    """Return the mean over rows with its interval; the unit is the group, and the mean is over rows all the same.

    Ungrouped values that are all 0 or 1 are a share, and get the Wilson score interval instead: resampling a share of
    0 or of 1 would give an interval without width.

    Args:
        values: [N]; rows with NaN are left out.
        groups: [N] which rows belong together, None: every row is a unit.
        how: resamples, confidence, seed.
    """
    table = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(table)
    return mean_intervals(table[known][:, None], _where(groups, known), how)[0]


def mean_intervals(table: Floats, groups: Sequence[object] | None = None, how: Resampling = PLAIN) -> list[Estimate]:
    """Return the mean of each column with its interval, as `mean_interval` gives it, all from the same resamples.

    Args:
        table: [N, M] without NaN.
        groups: [N] which rows belong together, None: every row is a unit.
        how: resamples, confidence, seed.
    """
    n = len(table)
    shares = [groups is None and n > 0 and bool(np.isin(column, (0.0, 1.0)).all()) for column in table.T]
    rest = iter([] if all(shares) and shares else intervals(*mean_of(table[:, ~np.array(shares)], groups), how))
    return [_share(column, how) if share else next(rest) for column, share in zip(table.T, shares, strict=True)]


def difference_interval(
    values: Floats, others: Floats, groups: Sequence[object] | None = None, how: Resampling = PLAIN
) -> Estimate:
    """Return the mean of values − others, two systems on the same rows, with its paired interval.

    Args:
        values: [N] of one system; NaN leaves the row out.
        others: [N] of the other, the same rows in the same order.
        groups: [N] which rows belong together, None: every row is a unit.
        how: resamples, confidence, seed.

    Raises:
        UserError: there are not as many rows of one as of the other.
    """
    if len(values) != len(others):
        raise UserError(
            f"A paired difference needs the same rows twice; one system has {len(values)}, the other {len(others)}.",
            "Compare the two on the rows that both have.",
        )
    differences = np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    kept = ~np.isnan(differences)
    return intervals(*mean_of(differences[kept], _where(groups, kept)), how)[0]  # also where they are 0 and 1 alone


def unit_numbers(groups: Sequence[object] | None, rows: int) -> tuple[NDArray[np.int64], int]:
    """Return the number of each row's unit, in the order in which units appear, and how many units there are.

    Args:
        groups: [N] names of units (anything hashable), None: every row is a unit.
        rows: N.

    Raises:
        UserError: there are not as many groups as rows.
    """
    if groups is None:
        return np.arange(rows), rows
    if len(groups) != rows:
        raise UserError(f"{rows} rows and {len(groups)} groups do not line up.", "Name the group of every row.")
    numbers: dict[object, int] = {}
    owner = [numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(owner, dtype=np.int64), len(numbers)


def ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, NaN where below is 0."""
    nothing = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=nothing, where=below != 0))


def _share(hits: Floats, how: Resampling) -> Estimate:
    ends = proportion_interval(int(hits.sum()), len(hits), how.confidence)
    return Estimate(float(hits.mean()), *ends, len(hits))


def _where(groups: Sequence[object] | None, kept: NDArray[np.bool_]) -> list[object] | None:
    return None if groups is None else [group for group, keep in zip(groups, kept, strict=True) if keep]


def _columns(values: Floats) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _draw(rng: np.random.Generator, size: int, n: int) -> Floats:
    """Return how often each of n units is drawn in n draws with replacement, [size, n]."""
    places = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(places.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _without_one(rng: np.random.Generator, n: int) -> Floats:
    """Return counts with one unit left out of each, [n, n]; for many units, with one block of units left out of each.

    Blocks of m units estimate the same acceleration: their skewness is √m smaller, and so is the root of their number.
    """
    if n <= BATCH:
        return 1.0 - np.eye(n)
    block = rng.permutation(n) % BATCH
    return np.asarray(block != np.arange(BATCH)[:, None], dtype=np.float64)


def _bca(values: Floats, replicates: Floats, left_out: Floats, z: float) -> tuple[Floats, Floats]:
    """Return the ends of the BCa interval for each column.

    With z₀ = Φ⁻¹(share of replicates below the value) and the acceleration a = Σ d³ / 6 (Σ d²)^{3/2} of the jackknife's
    deviations d, the ends are the quantiles of the replicates at Φ(z₀ + (z₀ ± z) / (1 − a (z₀ ± z))).

    Args:
        values: [M].
        replicates: [R, M].
        left_out: [J, M] values of the jackknife.
        z: normal quantile of the confidence.
    """
    kept = np.maximum((~np.isnan(replicates)).sum(0), 1)
    # What differs by rounding only is a tie, and counts half.
    near = 1e-12 * np.maximum(1.0, np.abs(values))
    below = ((replicates < values - near).sum(0) + (replicates <= values + near).sum(0)) / (2 * kept)
    bias = ndtri(np.clip(below, 0.5 / kept, 1 - 0.5 / kept))
    some = np.maximum((~np.isnan(left_out)).sum(0), 1)
    deviations = np.nan_to_num(np.nansum(left_out, 0) / some - left_out)
    spread = (deviations**2).sum(0) ** 1.5
    acceleration = np.nan_to_num(ratio((deviations**3).sum(0), 6 * spread))
    ordered = np.sort(replicates, axis=0)  # NaN last
    ends = []
    for sign in (-1.0, 1.0):
        shifted = bias + sign * z
        level = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-9))
        ends.append(_quantile(ordered, level * (kept - 1)))
    return ends[0], ends[1]


def _quantile(ordered: Floats, places: Floats) -> Floats:
    """Return the value at a place of each sorted column, linear between neighbours."""
    lower = np.floor(places).astype(np.int64)
    upper = np.minimum(lower + 1, len(ordered) - 1)
    share = places - lower
    low = np.take_along_axis(ordered, lower[None], 0)[0]
    high = np.take_along_axis(ordered, upper[None], 0)[0]
    return np.asarray(np.where(share > 0, low + share * (high - low), low))


def proportion_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of hits / n.

    Args:
        hits: successes.
        n: trials, at least 1.
        confidence: coverage.
    """
    interval = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
