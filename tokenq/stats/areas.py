"""How scores rank what is wrong above what is right: AUROC, average precision, top-k hits, of one example or pooled."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import comb
from scipy.stats import rankdata

from tokenq.stats.bootstrap import Floats, Statistic, ratio

Bools = NDArray[np.bool_]


def example_metrics(scores: Floats, wrong: Bools, tops: Sequence[int]) -> dict[str, Floats]:
    """Return the metrics of one example for M scores at once, each [M]; those that are undefined are not there.

    AUROC (ties count half) = (Σ ranks of the wrong − P (P + 1) / 2) / (P N). Average precision, with tied tokens at one
    threshold, = mean over wrong tokens of (wrong tokens at or above it) / (tokens at or above it). Top-k: whether a
    wrong token is among the k most suspicious, expected over the order of ties. AUROC needs wrong and right tokens,
    the others a wrong one.

    Args:
        scores: [T, M], larger = more suspicious.
        wrong: [T].
        tops: k of each top-k hit.
    """
    positives, negatives = int(wrong.sum()), int((~wrong).sum())
    if not positives:
        return {}
    above = rankdata(-scores, method="max", axis=0)[wrong]
    found = {"average_precision": (rankdata(-scores[wrong], method="max", axis=0) / above).mean(0)}
    found |= {f"top_{k}": _top_hit(scores, wrong, k) for k in tops}
    if negatives:
        ranks = rankdata(scores, axis=0)[wrong].sum(0)
        found["auroc"] = (ranks - positives * (positives + 1) / 2) / (positives * negatives)
    return found


def _top_hit(scores: Floats, wrong: Bools, k: int) -> Floats:
    """Return the probability that one of the k highest is wrong: 1 − C(t − p, slots) / C(t, slots) for the ties.

    With t tokens tied at the k-th highest score, p of them wrong, and `slots` of the k places left for them.
    """
    k = min(k, len(wrong))
    edge = np.sort(scores, axis=0)[-k]
    tied, above = scores == edge, scores > edge
    slots = k - above.sum(0)
    missed = comb(tied.sum(0) - tied[wrong].sum(0), slots) / comb(tied.sum(0), slots)
    return np.asarray(np.where(above[wrong].any(0), 1.0, 1.0 - missed), dtype=np.float64)


def pooled_areas(scores: Floats, wrong: Bools, owner: NDArray[np.int64], n: int) -> Statistic:
    """Return the statistic (AUROC, average precision) of pooled tokens under counts of the units that own them.

    Tokens are weighed, not copied: what lies between two wrong tokens is counted once for each unit, so that a
    resample costs a sparse product. Equal to scikit-learn's with each token's count as its sample weight.

    Args:
        scores: [T], larger = more suspicious.
        wrong: [T].
        owner: [T] the unit of each token.
        n: units.
    """
    thresholds = np.unique(scores[wrong])
    # Even places lie between thresholds, odd ones on them.
    place = np.searchsorted(thresholds, scores, "left") + np.searchsorted(thresholds, scores, "right")
    ones, k = np.ones(len(scores)), len(thresholds)
    right = csr_array((ones[~wrong], (place[~wrong], owner[~wrong])), shape=(2 * k + 1, n))
    hits = csr_array((ones[wrong], (place[wrong] // 2, owner[wrong])), shape=(k, n))

    def areas(counts: Floats) -> Floats:
        negatives, positives = np.cumsum(right @ counts.T, axis=0), hits @ counts.T
        all_negatives, all_positives = negatives[-1], positives.sum(0)
        below, up_to = negatives[0:-1:2], negatives[1::2]
        ordered = (positives * (below + up_to) / 2).sum(0)
        caught = all_positives - np.cumsum(positives, axis=0) + positives
        precision = np.nan_to_num(ratio(caught, caught + all_negatives - below))
        precise = (positives * precision).sum(0)
        return np.stack([ratio(ordered, all_positives * all_negatives), ratio(precise, all_positives)], axis=1)

    return areas
