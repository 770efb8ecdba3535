"""Win rates, length control and strengths against published figures, hand-made numbers and other libraries' fits."""

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from tokenq.errors import UserError
from tokenq.stats.alpaca_eval import GAMED_COLUMNS, GamedBaselines, alpaca_eval_2, from_alpaca_eval
from tokenq.stats.bootstrap import Resampling
from tokenq.stats.length_control import MINIMAL, length_controlled
from tokenq.stats.strengths import Match, bradley_terry
from tokenq.stats.win_rate import win_rate

pytestmark = pytest.mark.integration

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval_2_preferences.jsonl"
FEW = Resampling(resamples=200)


def published():
    if not PUBLISHED.exists():
        pytest.skip("the published judgements are not here")
    return [json.loads(line) for line in PUBLISHED.read_text().splitlines()]


class TestWinRate:
    def test_by_hand(self):
        """1, 1, 0, ½ and one unusable: mean 5/8, squared deviations 9/64, 9/64, 25/64, 1/64 = 44/64.

        s² = 44/192, error √(44/192/4). Wilson at n·p(1−p)/(44/256) = 4 · (15/64) / (11/64) = 60/11, z = 1.96:
        centre (p + z²/2n) / (1 + z²/n), checked as roots of (p̂ − p)² = z² p(1 − p)/n.
        """
        found = win_rate([1, 1, None, 0, 0.5])
        assert (found.n, found.unusable, found.wins, found.losses, found.ties) == (4, 1, 2, 1, 1)
        assert found.win_rate == 0.625
        assert found.standard_error == pytest.approx(math.sqrt(44 / 192 / 4))
        for end in found.interval:
            assert (0.625 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) * 11 / 60, rel=1e-5)
        assert found.interval[0] < 0.625 < found.interval[1]

    def test_wins_and_losses_get_wilsons_interval(self):
        from scipy.stats import binomtest

        known = binomtest(7, 20).proportion_ci(0.95, method="wilson")
        assert win_rate([1] * 7 + [0] * 13).interval == pytest.approx((known.low, known.high))

    def test_unanimous_judgements_leave_doubt(self):
        for preference in (0.0, 1.0, 0.5, 0.1):
            low, high = win_rate([preference] * 30).interval
            assert high - low > 0.1
            assert 0 <= low <= preference <= high <= 1

    def test_a_single_judgement_has_no_error(self):
        assert win_rate([1.0]).standard_error is None

    def test_what_cannot_be(self):
        with pytest.raises(UserError, match=r"Preference 2 is 1\.5, and a preference lies between 0 and 1"):
            win_rate([1, 1.5])
        with pytest.raises(UserError, match="no judgement"):
            win_rate([None, None])
        with pytest.raises(UserError, match="no judgement"):
            win_rate([])

    def test_alpaca_eval_preferences(self):
        np.testing.assert_equal(from_alpaca_eval([1, 2, 0, 1.5, 1.25, None]), [0, 1, 0.5, 0.5, 0.25, np.nan])
        with pytest.raises(UserError, match=r"preference 2 is 0\.7"):
            from_alpaca_eval([1, 0.7])

    @pytest.mark.slow
    def test_equals_the_published_figures(self):
        for row in published():
            found, known = win_rate(from_alpaca_eval(row["preference"])), row["published"]
            assert found.n == 805
            assert 100 * found.win_rate == pytest.approx(known["win_rate"], abs=1e-6)
            assert 100 * found.standard_error == pytest.approx(known["standard_error"], abs=1e-6)

    @pytest.mark.parametrize(
        ("draw", "truth"),
        [
            (lambda rng: (rng.random(150) < 0.1).astype(float), 0.1),
            (lambda rng: rng.choice([0, 0.5, 1], size=150, p=[0.2, 0.5, 0.3]), 0.55),
            (lambda rng: rng.beta(0.3, 0.7, 150), 0.3),
        ],
        ids=["wins", "ties", "shares"],
    )
    def test_the_interval_covers(self, draw, truth):
        rng = np.random.default_rng(0)
        ends = np.array([win_rate(draw(rng)).interval for _ in range(2000)])
        assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) == pytest.approx(0.95, abs=0.015)


def by_sklearn(columns, targets, weights=None):
    """Unpenalised logistic weights: every row as both outcomes, weighted by its share."""
    weights = np.ones(len(targets)) if weights is None else weights
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(
        np.tile(columns, (2, 1)),
        np.repeat([1, 0], len(targets)),
        sample_weight=np.concatenate([targets * weights, (1 - targets) * weights]),
    )
    return model.coef_[0]


class TestLengthControl:
    def test_equals_another_fit(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.integers(10, 900, 120), rng.integers(10, 900, 120)
        preferences = rng.choice([0, 0.3, 0.5, 1], 120)
        difference = ours - theirs
        columns = np.column_stack([np.ones(120), np.tanh(difference / difference.std(ddof=1))])
        constant, length = by_sklearn(columns, preferences)
        found = length_controlled(preferences, ours, theirs)
        assert found.form == MINIMAL
        assert found.weights["constant"] == pytest.approx(constant, abs=1e-6)
        assert found.weights["length"] == pytest.approx(length, abs=1e-6)
        assert found.win_rate == pytest.approx(expit(constant), abs=1e-6)
        assert found.raw == pytest.approx(preferences.mean())

    def test_judgements_of_length_alone_leave_a_half(self):
        """As many pairs ±d, preferred 3:1 when longer: σ(c + w tanh 1…) = ¾ and σ(c − w tanh…) = ¼, so c = 0."""
        lengths, baselines = [200] * 4 + [100] * 4, [100] * 4 + [200] * 4
        found = length_controlled([1, 1, 1, 0, 0, 0, 0, 1], lengths, baselines)
        # Eight differences of ±100: s = 100 √(8/7).
        assert found.weights["length"] * math.tanh(math.sqrt(7 / 8)) == pytest.approx(math.log(3), abs=1e-6)
        assert found.win_rate == pytest.approx(0.5, abs=1e-9)
        # A length's log odds have variance Σr²/(Σpq)² = ¾ / (¾)² = 4/3; c is the mean of two, times n/(n − 2) = 8/6:
        # variance 8/9. The slope of σ at 0 is ¼.
        assert found.standard_error == pytest.approx(math.sqrt(8 / 9) / 4)
        assert found.interval == pytest.approx(
            (expit(-1.959964 * math.sqrt(8 / 9)), expit(1.959964 * math.sqrt(8 / 9))), abs=1e-6
        )

    def test_only_the_usable_are_fitted(self):
        """What is unusable counts for the spread of the lengths alone."""
        lengths, baselines = [200, 200, 200, 100, 200, 100], [100, 100, 100, 200, 100, 200]
        found = length_controlled([1, 0, 0.5, 0.2, None, None], lengths, baselines)
        assert (found.n, found.unusable, found.raw) == (4, 2, pytest.approx(0.425))
        # Means at the two lengths are ½ and 0.2, and c lies halfway between their log odds.
        assert found.weights["constant"] == pytest.approx((math.log(1) + math.log(0.25)) / 2)
        # Differences 1, 1, 1, −1, 1, −1 hundred: mean 1/3, s² = (6 − 6/9) / 5.
        reach = math.tanh(1 / math.sqrt((6 - 6 / 9) / 5))
        assert found.weights["length"] == pytest.approx(-math.log(0.25) / 2 / reach)

    @pytest.mark.slow
    def test_the_interval_covers(self):
        rng = np.random.default_rng(0)
        truth, hits, trials = expit(0.4), 0, 3000
        for _ in range(trials):
            difference = rng.normal(200, 300, 200)
            chance = expit(0.4 + 1.5 * np.tanh(difference / difference.std(ddof=1)))
            low, high = length_controlled(
                (rng.random(200) < chance).astype(float), 1000 + difference, np.full(200, 1000.0)
            ).interval
            hits += low <= truth <= high
        assert hits / trials == pytest.approx(0.95, abs=0.015)

    @pytest.mark.slow
    def test_published_judgements(self):
        """Equal to two other fits, and not to the published length-controlled rates, which need more than length."""
        for row in published():
            preferences = from_alpaca_eval(row["preference"])
            difference = np.array(row["model_length"]) - np.array(row["baseline_length"])
            columns = np.column_stack([np.ones(805), np.tanh(difference / difference.std(ddof=1))])

            def loss(weights, columns=columns, preferences=preferences):
                scores = columns @ weights
                return (np.logaddexp(0, scores) - preferences * scores).sum()

            found = length_controlled(preferences, row["model_length"], row["baseline_length"])
            plain = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9})
            assert found.win_rate == pytest.approx(expit(plain.x[0]), abs=1e-3)
            assert found.win_rate == pytest.approx(expit(by_sklearn(columns, preferences)[0]), abs=1e-3)
            assert abs(100 * found.win_rate - row["published"]["length_controlled_winrate"]) > 0.03

    @pytest.mark.parametrize("preferences", [[1, 1, 1, 1], [1, 1, 0, 0], [0.5, 1, 0.5, 0]])
    def test_what_length_explains_without_exception_has_no_fit(self, preferences):
        lengths = [300, 200, 100, 50] if preferences[0] == 1 else [100, 200, 100, 50]
        with pytest.raises(UserError, match="no finite fit"):
            length_controlled(preferences, lengths, [100] * 4)

    def test_what_cannot_be(self):
        with pytest.raises(UserError, match="differ by the same length"):
            length_controlled([1, 0], [10, 20], [5, 15])
        with pytest.raises(UserError, match="3 preferences, 2 lengths and 3 baseline lengths"):
            length_controlled([1, 0, 1], [10, 20], [5, 15, 5])
        with pytest.raises(UserError, match="no judgement"):
            length_controlled([None], [10], [5])


def gamed_rows(columns):
    return GamedBaselines.from_columns(dict(zip(GAMED_COLUMNS, zip(*columns, strict=True), strict=True)))


class TestAlpacaEval2:
    SMALL = gamed_rows(
        [
            (i, (i + baseline + 1) / 12, (i - 4.5) / (2 + baseline), (i - 4.5) / 5, False)
            for i in range(10)
            for baseline in range(2)
        ]
    )

    def test_equals_another_implementation(self):
        """Ten instructions; the rate and its error are what an independent implementation of the model gave."""
        preferences = [0.9, 0.8, None, 0.6, 0.5, 0.4, 0.3, None, 0.1, 0.0]
        lengths, baselines = [20 + i * i for i in range(10)], [12 + 3 * i for i in range(10)]
        found = alpaca_eval_2(preferences, lengths, baselines, range(10), self.SMALL, FEW)
        assert found.win_rate == pytest.approx(0.7497336730523078, abs=1e-9)
        assert found.standard_error == pytest.approx(0.04840456960699923, abs=1e-9)
        assert (found.n, found.unusable) == (8, 2)
        assert found.raw == pytest.approx(0.45)
        assert found.interval[0] < found.win_rate < found.interval[1]

    def test_gives_a_length_bias_away(self):
        """A judge that goes by length alone: the model that writes more wins, and is even at equal lengths."""
        rng = np.random.default_rng(0)
        n = 300
        difficulty = rng.normal(size=n)
        bias = rng.normal(0.8, 0.7, n)
        lengths = (1000 + 400 * bias).astype(int)
        standardised = (lengths - 1000) / (lengths - 1000).std(ddof=1)
        preferences = expit(2 * np.tanh(standardised))
        verbose = [(i, expit(2 * np.tanh(1.0)), -1.0, difficulty[i], False) for i in range(n)]
        concise = [(i, expit(2 * np.tanh(-1.0)), 1.0, difficulty[i], False) for i in range(n)]
        found = alpaca_eval_2(preferences, lengths, [1000] * n, range(n), gamed_rows(verbose + concise), FEW)
        assert found.raw > 0.65
        assert found.win_rate == pytest.approx(0.5, abs=0.01)
        assert found.weights["length"] == pytest.approx(2, abs=0.1)
        assert found.interval[0] <= found.win_rate <= found.interval[1]

    def test_rows_are_found_by_their_number(self):
        preferences = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
        lengths, baselines = np.array([20 + i * i for i in range(10)]), np.array([12 + 3 * i for i in range(10)])
        known = alpaca_eval_2(preferences, lengths, baselines, range(10), self.SMALL, FEW)
        order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
        other = alpaca_eval_2(preferences[order], lengths[order], baselines[order], order, self.SMALL, FEW)
        # Not quite the same: which rows form a fold follows their place.
        assert other.win_rate == pytest.approx(known.win_rate, abs=0.02)
        assert other.weights["difficulty"] == pytest.approx(known.weights["difficulty"], abs=0.2)

    def test_other_prompts_have_no_difficulty(self):
        with pytest.raises(UserError, match="1 instructions have no difficulty, instruction 10 for one") as told:
            alpaca_eval_2([1, 0], [5, 9], [6, 7], [9, 10], self.SMALL, FEW)
        assert "minimal" in told.value.hint

    def test_what_cannot_be(self):
        with pytest.raises(UserError, match="2 preferences and 1 instructions"):
            alpaca_eval_2([1, 0], [5, 9], [6, 7], [9], self.SMALL, FEW)
        with pytest.raises(UserError, match="lack the columns std_delta_len"):
            GamedBaselines.from_columns({name: [] for name in GAMED_COLUMNS if name != "std_delta_len"})
        with pytest.raises(UserError, match="says that it is none"):
            gamed_rows([(0, 0.5, 0.1, 0.2, True)])

    @pytest.mark.hub
    def test_equals_the_published_figures(self):
        import csv

        from huggingface_hub import hf_hub_download

        path = hf_hub_download("tatsu-lab/alpaca_eval", "df_gamed.csv", repo_type="dataset")
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        gamed = GamedBaselines.from_columns({name: [row[name] for row in rows] for name in rows[0]})
        for row in published():
            found = alpaca_eval_2(
                from_alpaca_eval(row["preference"]), row["model_length"], row["baseline_length"], range(805), gamed, FEW
            )
            known = row["published"]
            assert 100 * found.win_rate == pytest.approx(known["length_controlled_winrate"], abs=0.05)
            if "lc_standard_error" in known:
                assert 100 * found.standard_error == pytest.approx(known["lc_standard_error"], abs=0.05)


def matches_between(first, second, wins, losses, ties=0):
    outcomes = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Match(first, second, outcome, f"{first}{second}{i}") for i, outcome in enumerate(outcomes)]


def drawn_matches(count, seed, names="abcd", ties=0.2):
    rng = np.random.default_rng(seed)
    strength = dict(zip(names, rng.normal(size=len(names)), strict=True))
    pairs = list(permutations(names, 2))
    found = []
    for number in range(count):
        first, second = pairs[rng.integers(len(pairs))]
        chance = expit(strength[first] - strength[second])
        outcome = 0.5 if rng.random() < ties else float(rng.random() < chance)
        found.append(Match(first, second, outcome, str(number // 2)))
    return found, strength


class TestStrengths:
    def test_two_systems_have_the_log_odds(self):
        """6 wins, 1 loss, 2 ties: 7 against 2, so the difference is log 3.5."""
        found = bradley_terry([*matches_between("a", "b", 6, 1, 2), Match("a", "b", None, "x")], FEW)
        a, b = found.systems
        assert (a.system, a.n, a.win_rate) == ("a", 9, pytest.approx(7 / 9))
        assert a.strength - b.strength == pytest.approx(math.log(3.5))
        assert a.strength + b.strength == pytest.approx(0)
        assert (found.n, found.unusable, found.prompts) == (9, 1, 9)

    def test_a_chain_joins_systems_that_never_met(self):
        """a:b = 3:1 and b:c = 2:1, so that a:c = 6:1 by the model."""
        found = bradley_terry([*matches_between("a", "b", 3, 1), *matches_between("c", "b", 1, 2)], FEW)
        assert [one.system for one in found.systems] == ["a", "b", "c"]
        a, _, c = found.systems
        assert a.strength - c.strength == pytest.approx(math.log(6))

    def test_equals_logistic_regression(self):
        matches, _ = drawn_matches(400, seed=3)
        columns = np.zeros((400, 4))
        for row, match in enumerate(matches):
            columns[row, "abcd".index(match.first)] = 1
            columns[row, "abcd".index(match.second)] = -1
        weights = by_sklearn(columns[:, 1:], np.array([match.preference for match in matches]))
        known = np.concatenate([[0.0], weights])
        known -= known.mean()
        found = {one.system: one.strength for one in bradley_terry(matches, FEW).systems}
        assert [found[name] for name in "abcd"] == pytest.approx(known.tolist(), abs=1e-5)

    def test_a_lopsided_comparison_is_still_found(self):
        """One loss in 10,000, beside two systems that are even: where a solver that only follows slopes gets lost."""
        matches = [Match("a", "b", 0.9999, "1"), Match("b", "c", 0.5, "2"), Match("c", "a", 0.0001, "3")]
        found = bradley_terry(matches * 2, FEW)
        strengths = {one.system: one.strength for one in found.systems}
        assert expit(strengths["a"] - strengths["b"]) == pytest.approx(0.9999, abs=1e-8)

    @pytest.mark.slow
    def test_the_intervals_cover(self):
        hits = total = 0
        for seed in range(100):
            matches, strength = drawn_matches(300, seed, ties=0)
            centre = np.mean(list(strength.values()))
            for one in bradley_terry(matches, Resampling(resamples=200, seed=seed)).systems:
                hits += one.interval[0] <= strength[one.system] - centre <= one.interval[1]
                total += 1
        assert hits / total == pytest.approx(0.95, abs=0.03)

    def test_resamples_without_an_answer_widen_the_interval(self):
        """Of ten prompts one is a loss; it is missing from (9/10)^10 = 35 % of the resamples."""
        found = bradley_terry(matches_between("a", "b", 9, 1), Resampling(resamples=400))
        assert found.unbounded / found.resamples == pytest.approx(0.35, abs=0.08)
        assert found.systems[0].interval[1] == math.inf

    def test_prompts_are_drawn_with_all_their_matches(self):
        """The same 20 outcomes on 20 prompts, and ten times each on as many: no more is known."""
        once = bradley_terry(matches_between("a", "b", 12, 8), FEW).systems[0].interval
        ten = bradley_terry(matches_between("a", "b", 12, 8) * 10, FEW).systems[0].interval
        assert ten == pytest.approx(once)

    @pytest.mark.parametrize(
        ("matches", "words"),
        [
            (
                matches_between("a", "b", 1, 1) + matches_between("c", "d", 1, 1),
                r"No comparison joins 'a', 'b' with 'c', 'd': their strengths have no common scale",
            ),
            (
                matches_between("a", "b", 3, 0) + matches_between("b", "c", 1, 1) + matches_between("a", "c", 2, 0),
                r"'a' won every comparison: its strength is infinite",
            ),
            (
                matches_between("a", "b", 1, 1) + matches_between("b", "c", 2, 0),
                r"'c' lost every comparison: its strength is minus infinity",
            ),
            (
                matches_between("a", "b", 1, 1) + matches_between("b", "c", 2, 0) + matches_between("c", "d", 1, 1),
                r"'a', 'b' won every comparison with 'c', 'd': infinitely stronger",
            ),
            (matches_between("a", "a", 1, 1), r"'a' was compared with itself on prompt 'aa0'"),
            ([Match("a", "b", None, "1")], "no judgement"),
            ([Match("a", "b", 2.0, "1")], "Preference 1 is 2"),
        ],
        ids=["apart", "won all", "lost all", "groups", "itself", "nothing", "no share"],
    )
    def test_what_has_no_answer_is_refused(self, matches, words):
        with pytest.raises(UserError, match=words):
            bradley_terry(matches, FEW)
