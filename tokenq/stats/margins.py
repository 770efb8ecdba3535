"""The worth of reward margins: whether σ(margin) is the probability it claims to be, and how much of it is length.

Margins are chosen − rejected rewards in units of the Bradley-Terry model (β included), so that σ(margin) is the
probability with which the model would prefer the chosen response.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from tokenq.errors import UserError
from tokenq.stats.bootstrap import PLAIN, Estimate, Floats, Resampling, Statistic, intervals, mean_interval, ratio


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence.

    Attributes:
        low: least confidence of the bin.
        high: most.
        n: pairs in it.
        confidence: their mean confidence, NaN without pairs.
        accuracy: the share of them that is right, a tie half; NaN without pairs.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How well σ(margin) serves as a probability.

    Attributes:
        bins: equal parts of [½, 1]: the confidence in whichever response is preferred.
        error: expected calibration error, Σ n_b/N |accuracy_b − confidence_b|. It has no interval: a sample
            overestimates it, and a resample of the sample does so once more, so that a bootstrap would miss it.
        log_loss: mean −log σ(margin), in nats; log 2 is chance.
        brier: mean (1 − σ(margin))²; ¼ is chance.
    """

    bins: tuple[Bin, ...]
    error: float
    log_loss: Estimate
    brier: Estimate


@dataclass(frozen=True)
class LengthBias:
    """How rewards go with length.

    Attributes:
        pearson: correlation of reward and length over all responses.
        spearman: the same of their ranks.
        margin_pearson: correlation of reward margin and length difference over pairs: rewards of different prompts
            have no common zero, margins do.
        margin_spearman: the same of their ranks.
        longer_wins: share of pairs whose chosen response is the longer one, a tie wrong: the accuracy of length alone.
        prefers_longer: share of pairs of different lengths in which the longer response has the higher reward, a tie
            half.
    """

    pearson: Estimate
    spearman: Estimate
    margin_pearson: Estimate
    margin_spearman: Estimate
    longer_wins: Estimate
    prefers_longer: Estimate


def calibration(margins: Sequence[float] | Floats, bins: int = 10, how: Resampling = PLAIN) -> Calibration:
    """Return the calibration of σ(margin).

    Which response is called chosen is known to be the preferred one, so that σ(margin) itself would be right in every
    bin: the claim is made of the response with the higher reward, with confidence σ(|margin|).

    Args:
        margins: [N] chosen − rejected rewards.
        bins: how many, over [½, 1].
        how: resamples, confidence, seed.

    Raises:
        UserError: there are no margins, or one is not finite.
    """
    values = _finite(margins)
    confidence = expit(np.abs(values))
    right = (np.sign(values) + 1) / 2
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, "right") - 1, 0, bins - 1)
    member = (place[:, None] == np.arange(bins)).astype(np.float64)
    sizes = member.sum(0)
    means = [ratio(some @ member, sizes) for some in (confidence, right)]
    rows = zip(edges, edges[1:], sizes.astype(int), *means, strict=False)
    return Calibration(
        bins=tuple(Bin(float(a), float(b), int(n), float(c), float(r)) for a, b, n, c, r in rows),
        error=float(np.abs((right - confidence) @ member).sum() / len(values)),
        log_loss=mean_interval(np.logaddexp(0.0, -values), how=how),
        brier=mean_interval((1 - expit(values)) ** 2, how=how),
    )


def length_bias(rewards: Floats, lengths: Floats, how: Resampling = PLAIN) -> LengthBias:
    """Return how rewards go with the lengths of responses.

    Rank correlations are of the ranks in the data; resamples weigh them and do not rank anew.

    Args:
        rewards: [N, 2] of the chosen and the rejected response of each pair.
        lengths: [N, 2] their lengths, in tokens or characters.
        how: resamples, confidence, seed; pairs are drawn.

    Raises:
        UserError: there are no pairs, shapes differ, or a number is not finite.
    """
    table, sizes = _finite(rewards), _finite(lengths)
    if table.ndim != 2 or table.shape[1] != 2 or table.shape != sizes.shape:
        raise UserError(
            f"Rewards {table.shape} and lengths {sizes.shape} do not line up.", "Give both of both responses of pairs."
        )
    margins, longer = table[:, 0] - table[:, 1], sizes[:, 0] - sizes[:, 1]
    ranks, size_ranks = (rankdata(some).reshape(-1, 2) for some in (table, sizes))
    columns = [
        _correlation(table, sizes),
        _correlation(ranks, size_ranks),
        _correlation(margins[:, None], longer[:, None]),
        _correlation(rankdata(margins)[:, None], rankdata(longer)[:, None]),
    ]
    found = intervals(lambda counts: np.stack([column(counts) for column in columns], axis=1), len(table), how)
    agree = (np.sign(margins * np.sign(longer)) + 1) / 2
    pearson, spearman, margin_pearson, margin_spearman = found
    return LengthBias(
        pearson,
        spearman,
        margin_pearson,
        margin_spearman,
        longer_wins=mean_interval((longer > 0).astype(np.float64), how=how),
        prefers_longer=mean_interval(np.where(longer != 0, agree, np.nan), how=how),
    )


def _correlation(values: Floats, others: Floats) -> Statistic:
    """Return Pearson's correlation of all numbers of the drawn pairs, [N, c] each, under counts of the pairs."""
    # Centred first: moments of large numbers would lose what they differ by.
    first, second = values - values.mean(), others - others.mean()
    moments = np.stack([m.sum(1) for m in (first, second, first * second, first**2, second**2)], axis=1)

    def correlation(counts: Floats) -> Floats:
        sums = counts @ moments / (counts.sum(1, keepdims=True) * values.shape[1])
        mean, other, product, square, other_square = sums.T
        spread = np.sqrt(np.maximum((square - mean**2) * (other_square - other**2), 0.0))
        return ratio(product - mean * other, spread)

    return correlation


def _finite(numbers: Sequence[float] | Floats) -> Floats:
    values = np.asarray(numbers, dtype=np.float64)
    if not values.size:
        raise UserError("There are no pairs to judge.", "Is the file empty?")
    odd = np.argwhere(~np.isfinite(values))
    if len(odd):
        raise UserError(f"Pair {odd[0][0] + 1}: a number is not finite.", "Score the pair again.")
    return values
