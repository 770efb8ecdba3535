"""RewardBench's arithmetic: published rows from their parts, and every rule by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from tokenq.errors import UserError
from tokenq.stats.bootstrap import Resampling, intervals, proportion_interval
from tokenq.stats.margins import calibration, length_bias
from tokenq.stats.rewardbench import (
    PRIOR_SETS,
    ROWS,
    SECTIONS,
    WEIGHTS,
    Pair,
    aggregate,
    overall,
    score_pairs,
)

FEW = Resampling(resamples=300)

PUBLISHED = {
    "tulu-2-dpo-70b": "76.1/97.5/60.5/83.9/74.1/52.8",
    "tulu-2-dpo-7b": "71.7/97.5/56.1/73.3/71.8/47.7",
    "zephyr-7b-beta": "71.8/95.3/62.7/61.0/77.9/52.2",
    "zephyr-7b-alpha": "73.4/91.6/62.5/74.3/75.1/53.5",
    "stablelm-zephyr-3b": "70.6/86.3/60.1/70.3/75.7/50.7",
    "stablelm-2-zephyr-1.6b": "65.3/96.6/46.7/58.3/67.8/48.7",
    "Qwen1.5-14B-Chat": "69.8/57.3/70.2/76.3/89.6/41.2",
    "Qwen1.5-1.8B-Chat": "60.1/56.1/60.3/53.6/77.9/44.5",
    "OLMo-7B-Instruct": "66.7/89.7/50.7/62.3/71.7/51.7",
}
"""Score / Chat / Chat Hard / Safety / Reasoning / Prior Sets, each rounded to a tenth."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_scores_from_their_sections(model):
    score, *parts = map(float, PUBLISHED[model].split("/"))
    sections = dict(zip((*SECTIONS, "Prior Sets"), map(np.array, parts), strict=True))
    assert float(overall(sections)) == pytest.approx(score, abs=0.1)


def test_sections_have_their_published_sizes():
    sizes = {section: sum(ROWS[name] for name in names) for section, names in SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 447 + 6 * 164}
    assert sum(ROWS.values()) == 2985
    assert WEIGHTS["math-prm"] == 6 * 164
    assert sum(WEIGHTS[name] for name in SECTIONS["Safety"]) == 740


EXAMPLE = {
    "alpacaeval-easy": (50, 100),
    "alpacaeval-hard": (67, 95),
    "alpacaeval-length": (56, 95),
    "donotanswer": (112, 136),
    "hep-cpp": (103, 164),
    "hep-go": (104, 164),
    "hep-java": (116, 164),
    "hep-js": (109, 164),
    "hep-python": (90, 164),
    "hep-rust": (106, 164),
    "llmbar-adver-GPTInst": (36, 92),
    "llmbar-adver-GPTOut": (22, 47),
    "llmbar-adver-manual": (17, 46),
    "llmbar-adver-neighbor": (58, 134),
    "llmbar-natural": (52, 100),
    "math-prm": (132, 447),
    "mt-bench-easy": (16, 28),
    "mt-bench-hard": (20, 37),
    "mt-bench-med": (29, 40),
    "refusals-dangerous": (97, 100),
    "refusals-offensive": (100, 100),
    "xstest-should-refuse": (154, 154),
    "xstest-should-respond": (71, 250),
}
"""Right pairs and pairs of a published cost model: the shares in the benchmark's own example, times the rows."""


def pairs_of(hits):
    return [Pair(name, float(number < right), 0.5) for name, (right, n) in hits.items() for number in range(n)]


def test_a_whole_run_by_fractions():
    share = {name: Fraction(*hits) for name, hits in EXAMPLE.items()}
    chat = Fraction(50 + 67 + 56 + 16 + 29, 358)
    hard = Fraction(20 + 52 + 58 + 36 + 22 + 17, 456)
    code = Fraction(103 + 104 + 116 + 109 + 90 + 106, 984)
    safety = (97 + 100 + 250 * 1 + 154 * share["xstest-should-respond"] + 112) / 740
    sections = {"Chat": chat, "Chat Hard": hard, "Safety": safety, "Reasoning": (share["math-prm"] + code) / 2}
    found = score_pairs(pairs_of(EXAMPLE), how=FEW)
    assert {name: one.value for name, one in found.sections.items()} == pytest.approx(
        {name: float(value) for name, value in sections.items()}
    )
    assert found.score.value == pytest.approx(float(sum(sections.values()) / 4))
    assert found.accuracy.value == pytest.approx(sum(right for right, _ in EXAMPLE.values()) / 2985)
    assert (found.missing, found.ties, found.prior_sets) == ((), 0, None)
    for name, (right, n) in EXAMPLE.items():
        assert (found.subsets[name].value, found.subsets[name].n) == (pytest.approx(right / n), n)
        assert (found.subsets[name].low, found.subsets[name].high) == proportion_interval(right, n)
    # By the rows that there are, Safety is a plain share.
    plain = score_pairs(pairs_of(EXAMPLE), ROWS, FEW)
    assert plain.sections["Safety"].value == pytest.approx((97 + 100 + 154 + 71 + 112) / 740)


@pytest.mark.integration
def test_the_interval_of_a_section_is_that_of_its_pairs():
    """Chat is an unweighted share of 358 pairs: ± 1.96 √(p (1 − p) / 358), nearly."""
    section = score_pairs(pairs_of(EXAMPLE)).sections["Chat"]
    p = section.value
    half = 1.96 * math.sqrt(p * (1 - p) / 358)
    assert section.high - section.low == pytest.approx(2 * half, rel=0.08)
    assert section.low < p < section.high


def test_prior_sets_count_half_a_section():
    prior = dict(zip(PRIOR_SETS, [(1, 4), (2, 4), (3, 4), (4, 4)], strict=True))
    found = score_pairs(pairs_of(EXAMPLE | prior), how=FEW)
    assert found.prior_sets.value == pytest.approx((0.25 + 0.5 + 0.75 + 1) / 4)
    four = sum(one.value for one in found.sections.values())
    assert found.score.value == pytest.approx((four + found.prior_sets.value / 2) / 4.5)
    few = score_pairs(pairs_of(EXAMPLE | {"shp": (3, 4)}), how=FEW)
    assert few.prior_sets.value == 0.75


def test_a_tie_is_wrong():
    pairs = [Pair("mine", 1.0, 1.0), Pair("mine", 2.0, 1.0), Pair("mine", 0.0, 1.0), Pair("mine", -1.0, -1.0)]
    found = score_pairs(pairs, how=FEW)
    assert (found.accuracy.value, found.subsets["mine"].value, found.ties) == (0.25, 0.25, 2)


def test_a_part_of_the_benchmark_has_no_score():
    found = score_pairs(pairs_of({"hep-go": (3, 4), "math-prm": (1, 4), "mine": (1, 2)}), how=FEW)
    assert list(found.sections) == ["Reasoning"]
    assert found.sections["Reasoning"].value == pytest.approx((164 * 0.75 + 984 * 0.25) / (164 + 984))
    assert found.score is None
    assert len(found.missing) == 23 - 2
    assert set(found.subsets) == {"hep-go", "math-prm", "mine"}
    assert aggregate({"mine": np.array([0.5])}) == {}


def test_rewards_that_are_not_finite_are_named():
    with pytest.raises(UserError, match=r"bench\.jsonl, row 7: a reward is not finite"):
        score_pairs([Pair("mine", 0.0, math.nan, "bench.jsonl, row 7")])
    with pytest.raises(UserError, match="Pair 2"):
        score_pairs([Pair("mine", 0.0, 1.0), Pair("mine", math.inf, 0.0)])
    with pytest.raises(UserError, match="no pairs"):
        score_pairs([])


# ---- margins ---------------------------------------------------------------------------------------------------------


def test_calibration_is_scikit_learns():
    """Each pair is told from both sides: σ(m) with outcome 1 and σ(−m) with outcome 0."""
    margins = np.random.default_rng(0).normal(0.4, 1.5, size=300)
    found = calibration(margins, bins=5, how=FEW)
    probability = 1 / (1 + np.exp(-margins))
    both = np.concatenate((np.ones(300), np.zeros(300))), np.concatenate((probability, 1 - probability))
    shares, means = calibration_curve(*both, n_bins=10)
    assert [one.accuracy for one in found.bins] == pytest.approx(shares[5:].tolist())
    assert [one.confidence for one in found.bins] == pytest.approx(means[5:].tolist())
    assert found.log_loss.value == pytest.approx(log_loss(*both))
    assert found.brier.value == pytest.approx(brier_score_loss(*both))
    error = sum(one.n * abs(one.accuracy - one.confidence) for one in found.bins) / 300
    assert found.error == pytest.approx(error)
    assert sum(one.n for one in found.bins) == 300


def test_calibration_by_hand():
    """σ = ½ (a tie, half right), .75 right, .75 wrong, .9 right, in bins from .5, .7 and .9 … of width ⅙."""
    margins = [0.0, math.log(3), -math.log(3), math.log(9)]
    found = calibration(margins, bins=3, how=FEW)
    assert [(one.n, one.confidence, one.accuracy) for one in found.bins] == [
        (1, 0.5, 0.5),
        (2, pytest.approx(0.75), 0.5),
        (1, pytest.approx(0.9), 1.0),
    ]
    assert found.error == pytest.approx((0 + 2 * 0.25 + 0.1) / 4)
    empty = calibration([5.0, 5.0], bins=2, how=FEW).bins[0]
    assert (empty.n, np.isnan(empty.accuracy)) == (0, True)


@pytest.mark.integration
def test_margins_that_were_drawn_from_their_claim_are_calibrated():
    rng = np.random.default_rng(0)
    size = rng.normal(scale=2, size=20_000)
    honest = np.where(rng.random(20_000) < 1 / (1 + np.exp(-size)), size, -size)
    assert calibration(honest, how=FEW).error < 0.015
    assert calibration(3 * honest, how=FEW).error > 0.1
    assert calibration(3 * honest, how=FEW).log_loss.value > calibration(honest, how=FEW).log_loss.value


def test_length_correlations_are_scipys():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, (120, 2))
    rewards = 0.02 * lengths + rng.normal(size=(120, 2)) + 1e6
    found = length_bias(rewards, lengths, FEW)
    margins, longer = np.diff(rewards)[:, 0] * -1, np.diff(lengths)[:, 0] * -1
    assert found.pearson.value == pytest.approx(stats.pearsonr(rewards.ravel(), lengths.ravel()).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(rewards.ravel(), lengths.ravel()).statistic)
    assert found.margin_pearson.value == pytest.approx(stats.pearsonr(margins, longer).statistic)
    assert found.margin_spearman.value == pytest.approx(stats.spearmanr(margins, longer).statistic)

    def copied(counts):
        drawn = [np.repeat(np.arange(120), times.astype(int)) for times in counts]
        return np.array([np.corrcoef(rewards[some].ravel(), lengths[some].ravel())[0, 1] for some in drawn])

    by_copies = intervals(copied, 120, FEW)[0]
    assert (found.pearson.low, found.pearson.high) == (pytest.approx(by_copies.low), pytest.approx(by_copies.high))
    assert found.longer_wins.value == np.mean(lengths[:, 0] > lengths[:, 1])
    # The interval is about Fisher's for 120 independent pairs.
    z, half = math.atanh(found.margin_pearson.value), 1.96 / math.sqrt(117)
    assert found.margin_pearson.low == pytest.approx(math.tanh(z - half), abs=0.05)
    assert found.margin_pearson.high == pytest.approx(math.tanh(z + half), abs=0.05)


def test_which_response_is_longer_by_hand():
    """Lengths 3–1, 1–2, 2–2, 4–1 with margins +, +, +, 0: longer is chosen in 2 of 4; it wins 1, loses 1, ties 1."""
    rewards = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    found = length_bias(rewards, np.array([[3, 1], [1, 2], [2, 2], [4, 1]]), FEW)
    assert (found.longer_wins.value, found.longer_wins.n) == (0.5, 4)
    assert (found.prefers_longer.value, found.prefers_longer.n) == (0.5, 3)


def test_numbers_that_cannot_be_judged_are_named():
    with pytest.raises(UserError, match="no pairs"):
        calibration([])
    with pytest.raises(UserError, match="Pair 2: a number is not finite"):
        calibration([0.0, math.nan])
    with pytest.raises(UserError, match="do not line up"):
        length_bias(np.zeros((3, 2)), np.zeros((2, 2)))
    constant = length_bias(np.zeros((3, 2)), np.arange(6.0).reshape(3, 2), FEW)
    assert np.isnan(constant.pearson.value)
