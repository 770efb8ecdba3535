"""First errors by hand, by brute force over thresholds, by enumeration, and the published arithmetic."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from examples import share_of
from first_errors import ALWAYS, cross_validated, evaluate_at, predict, sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_traces import BETA, make_trace

from tokenq.errors import UserError
from tokenq.evaluation.first_error import (
    Solution,
    baselines,
    harmonic_mean,
    summary,
)
from tokenq.evaluation.step_scores import STEP_SCORES, first_wrong, read_label, step_bounds
from tokenq.evaluation.thresholds import RULES
from tokenq.stats.bootstrap import Resampling

FEW = Resampling(resamples=300)
DATA = Path(__file__).parents[3] / "shared" / "data"


def solution(scores, label, name="s", prompt=None):
    return Solution(name, np.array(scores, dtype=float), label, prompt)


# ---- from tokens to steps --------------------------------------------------------------------------------------------


def step_scores(trace, credits, convention, steps=None):
    return STEP_SCORES[convention](credits, step_bounds(trace, steps))


def test_step_scores_by_hand():
    trace = make_trace(
        "a", list("abcdef"), written=[True, True, False, True, True, True], steps=[(0, 2), (2, 4), (4, 6)]
    )
    credits = np.array([1.0, -2, 0.5, -3, 4])
    expected = {"sum": [-1, 0.5, 1], "cumulative": [-1, -0.5, 0.5], "min": [-2, 0.5, -3], "mean": [-0.5, 0.5, 0.5]}
    assert {*STEP_SCORES} == {*expected}
    for convention, numbers in expected.items():
        assert step_scores(trace, credits, convention).tolist() == numbers


def test_of_implicit_rewards_they_are_what_the_spans_say():
    trace = make_trace("a", list("abcdef"), steps=[(0, 3), (3, 4), (4, 6)])
    rewards = np.array([token.implicit_reward for token in trace.tokens])
    spans = trace.spans
    assert step_scores(trace, rewards, "sum", steps=3) == pytest.approx([span.sum for span in spans])
    assert step_scores(trace, rewards, "cumulative") == pytest.approx([span.end_value for span in spans])
    assert step_scores(trace, rewards, "min") == pytest.approx([span.min for span in spans])
    assert step_scores(trace, rewards, "mean") == pytest.approx([span.mean for span in spans])
    assert np.diff(step_scores(trace, rewards, "cumulative")) == pytest.approx(
        step_scores(trace, rewards, "sum")[1:].tolist()
    )


def test_steps_that_do_not_line_up_are_named():
    trace = make_trace("row 4", list("abc"), steps=[(0, 1), (1, 3)])
    with pytest.raises(UserError, match="row 4 has 2 steps, and its row has 5"):
        step_scores(trace, np.zeros(3), "sum", steps=5)
    with pytest.raises(UserError, match="has 0 steps"):
        step_scores(make_trace("row 4", list("abc")), np.zeros(3), "sum")
    with pytest.raises(UserError, match="row 4: step 1 has no token that the policy wrote"):
        step_scores(
            make_trace("row 4", list("abc"), written=[True, True, False], steps=[(0, 2), (2, 3)]), np.zeros(2), "sum"
        )


def test_labels_as_data_sets_write_them():
    assert [read_label(label, 3, "row") for label in (-1, None, 0, 2)] == [None, None, 0, 2]
    as_written = (-1.0, "-1", float("nan"), "NaN", 0.0, "2", "2.0")  # by pandas and in CSV
    assert [read_label(label, 3, "row") for label in as_written] == [None, None, None, None, 0, 2, 2]
    for label in (3, -2, 1.5, 3.0, True, "4", "one"):
        with pytest.raises(UserError, match=r"row 9: the label .* is none of its 3 steps"):
            read_label(label, 3, "row 9")
    assert [first_wrong(steps) for steps in ((True, True), (True, False, True, False), (), (False,))] == [
        None,
        1,
        None,
        0,
    ]


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_rules_by_hand():
    """Scores −1 1 −2 −5: mean −1.75, deviations .75 2.75 −.25 −3.25, differences −1 2 −3 −3."""
    scores = np.array([-1.0, 1, -2, -5])
    cases = {
        "threshold": [(-5, None), (-4, 3), (-2, 3), (-1.5, 2), (-1, 2), (-0.9, 0)],
        "centred_threshold": [(-3.25, None), (-3, 3), (0, 2), (1, 0)],
        "relative_to_first_step": [(-4, None), (-3, 3), (0, 2), (0.1, 0)],
        "worst_step": [(-5, None), (-4.9, 3), (ALWAYS, 3)],
        "largest_drop": [(-3, None), (-2.9, 2), (ALWAYS, 2)],
    }
    for name, expected in cases.items():
        for threshold, step in expected:
            assert predict(RULES[name], scores, threshold) == step, (name, threshold)
    sd = math.sqrt((0.75**2 + 2.75**2 + 0.25**2 + 3.25**2) / 4)
    assert predict(RULES["standardised_threshold"], scores, -3.25 / sd + 1e-9) == 3
    assert predict(RULES["standardised_threshold"], scores, -3.25 / sd - 1e-9) is None
    assert predict(RULES["standardised_threshold"], np.ones(4), 0.0) is None


def test_centred_rules_do_not_see_the_level_of_a_prompt():
    scores = np.array([0.5, 0.25, -1.0, 2.0])
    for name in ("centred_threshold", "standardised_threshold", "relative_to_first_step"):
        for threshold in (-1.5, -0.3, 0.2):
            assert predict(RULES[name], scores, threshold) == predict(RULES[name], scores + 4, threshold)
    assert predict(RULES["threshold"], scores, 0) != predict(RULES["threshold"], scores + 4, 0)


def test_the_worst_sum_is_the_largest_drop_of_the_value():
    """The largest drop of cumulative scores, from 0, is the lowest sum: also for the first step."""
    rng = np.random.default_rng(0)
    for sums in rng.normal(size=(50, 6)):
        drop = predict(RULES["largest_drop"], sums.cumsum(), ALWAYS)
        assert drop == predict(RULES["worst_step"], sums, ALWAYS) == sums.argmin()


def test_a_sigmoid_of_cumulative_scores_is_a_threshold_in_nats():
    """Implicit PRM's σ(0.005 Σ log-ratios) < 0.5005 is Σ log-ratios < 0.4 nats."""
    nats = math.log(0.5005 / 0.4995) / 0.005
    assert nats == pytest.approx(0.4, abs=1e-6)
    for ratios in np.random.default_rng(1).normal(scale=2, size=(100, 5)):
        below = np.flatnonzero(1 / (1 + np.exp(-0.005 * ratios.cumsum())) < 0.5005)
        expected = int(below[0]) if len(below) else None
        assert predict(RULES["threshold"], BETA * ratios.cumsum(), BETA * nats) == expected


# ---- accuracies ------------------------------------------------------------------------------------------------------


def test_accuracies_by_hand():
    """At −1: the first is found, the second is named one late, the third is rightly left, the fourth is not."""
    solutions = [
        solution([0, -2, -3], 1),
        solution([0, 0, -2], 1),
        solution([0, 0], None),
        solution([-2, 0], None),
        solution([0, 3], None),
    ]
    found = evaluate_at(solutions, RULES["threshold"], -1.0)
    assert found.hits.tolist() == [1, 0, 1, 0, 1]
    assert (found.erroneous.value, found.erroneous.n) == (0.5, 2)
    assert (found.correct.value, found.correct.n) == (pytest.approx(2 / 3), 3)
    assert found.f1.value == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert (found.accuracy.value, found.accuracy.n) == (0.6, 5)
    assert found.thresholds == (-1.0,)


chains = st.lists(
    st.tuples(st.lists(st.integers(-3, 3), min_size=1, max_size=5), st.integers(-1, 4)), min_size=1, max_size=12
)


@given(chains, st.sampled_from(sorted(RULES)))
@settings(max_examples=share_of(120), deadline=None)
def test_a_sweep_is_every_threshold_tried(rows, name):
    rule = RULES[name]
    solutions = [solution(scores, None if label < 0 else min(label, len(scores) - 1)) for scores, label in rows]
    found = sweep(solutions, rule)
    values = {float(number) for one in solutions for number in rule.transform(one.scores)}
    assert found.thresholds.tolist() == [*sorted(values), math.inf]
    for place, threshold in enumerate(found.thresholds):
        hits = [predict(rule, one.scores, threshold) == one.first_error for one in solutions]
        for kind, share in ((True, found.erroneous), (False, found.correct)):
            some = [h for h, one in zip(hits, solutions, strict=True) if (one.first_error is not None) == kind]
            assert share[place] == pytest.approx(np.mean(some) if some else np.nan, nan_ok=True)
        expected = harmonic_mean(found.erroneous[place], found.correct[place])
        assert found.f1[place] == pytest.approx(float(expected), nan_ok=True)
    at_best = evaluate_at(solutions, rule, found.best, Resampling(resamples=2))
    kinds = {one.first_error is None for one in solutions}
    reached, best = {
        frozenset((True, False)): (at_best.f1.value, found.f1),
        frozenset((True,)): (at_best.correct.value, found.correct),
        frozenset((False,)): (at_best.erroneous.value, found.erroneous),
    }[frozenset(kinds)]
    assert reached == pytest.approx(best.max())


def planted(rng, n, clear):
    """Return solutions whose wrong step is `clear` lower than the noise of the others."""
    rows = []
    for number in range(n):
        scores = rng.normal(size=rng.integers(3, 8))
        label = int(rng.integers(len(scores))) if rng.random() < 0.5 else None
        if label is not None:
            scores[label] -= clear
        rows.append(solution(scores, label, f"row {number}"))
    return rows


def test_a_threshold_is_judged_on_solutions_that_it_was_not_chosen_on():
    """Without any signal the best threshold in hindsight still looks better than one chosen elsewhere."""
    samples = [planted(np.random.default_rng(seed), 40, 0.0) for seed in range(20)]
    upper = np.mean([sweep(sample, RULES["threshold"]).f1.max() for sample in samples])
    honest = np.mean([cross_validated(s, RULES["threshold"], repeats=1, how=FEW).f1.value for s in samples])
    assert honest < upper - 0.03
    clear = cross_validated(planted(np.random.default_rng(0), 60, 9.0), RULES["threshold"], how=FEW)
    assert clear.f1.value > 0.95
    assert len(clear.thresholds) == 25
    assert -9 < np.median(clear.thresholds) < -2


def test_no_fold_chooses_its_own_threshold():
    """Two folds of two prompts: each is judged at the other's best threshold, to the letter."""
    first, second = [solution([0, -1], 1), solution([-0.5], None)], [solution([0, -5], 1), solution([-4.0], None)]
    solutions = [
        Solution(s.id, s.scores, s.first_error, prompt)
        for prompt, group in (("p", first), ("q", second))
        for s in group
    ]
    found = cross_validated(solutions, RULES["threshold"], folds=2, repeats=4, how=FEW)
    # p's best is −.5 (its own scores: −1 < τ ≤ −.5), at which −4 is called wrong; q's is −4, at which nothing of p is.
    assert sorted(found.thresholds) == [-4.0] * 4 + [-0.5] * 4
    assert found.hits.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert found.erroneous.n == 2


def test_splits_and_draws_keep_prompts_together():
    rng = np.random.default_rng(2)
    solutions = [
        Solution(f"{p}-{i}", np.array([0.0, -1 - p]), 1 if i else None, f"p{p}") for p in range(6) for i in range(2)
    ]
    assert evaluate_at(solutions, RULES["threshold"], -3.0, FEW).f1.n == 6
    with pytest.raises(UserError, match="6 prompts cannot be dealt to 7 folds"):
        cross_validated(solutions, RULES["threshold"], folds=7)
    assert cross_validated(planted(rng, 20, 3.0), RULES["worst_step"], how=FEW).f1.n == 20


def test_one_kind_of_solution_has_no_f1():
    found = evaluate_at([solution([0, 1], 0), solution([0, 1], 1)], RULES["threshold"], 0.5)
    assert found.erroneous.value == 0.5
    assert np.isnan(found.f1.value)
    assert (found.correct.n, np.isnan(found.correct.value)) == (0, True)


def test_what_cannot_be_judged_is_named():
    with pytest.raises(UserError, match="no solutions"):
        sweep([], RULES["threshold"])
    with pytest.raises(UserError, match="row 3: it has no steps"):
        baselines([solution([], None, "row 3")])
    with pytest.raises(UserError, match="without a finite score"):
        evaluate_at([solution([math.inf], None, "row 3")], RULES["threshold"], 0)
    with pytest.raises(UserError, match="row 3: the label 2 is none of its 2 steps"):
        evaluate_at([solution([0, 1], 2, "row 3")], RULES["threshold"], 0)


# ---- baselines -------------------------------------------------------------------------------------------------------


def test_baselines_by_hand():
    """Labels 1 of 2 steps, 1 of 4, 0 of 4, none of 3."""
    solutions = [solution([0, 0], 1), solution([0] * 4, 1), solution([0] * 4, 0), solution([0] * 3, None)]
    found = baselines(solutions, FEW)
    accuracies = {name: (one.erroneous.value, one.correct.value) for name, one in found.items()}
    assert accuracies["always_none"] == (0, 1)
    assert accuracies["always_first"] == (pytest.approx(1 / 3), 0)
    assert accuracies["always_last"] == (pytest.approx(1 / 3), 0)
    assert accuracies["best_fixed_step"] == (pytest.approx(2 / 3), 0)
    assert accuracies["random"] == (pytest.approx((1 / 3 + 1 / 5 + 1 / 5) / 3), pytest.approx(1 / 4))
    assert [found[name].f1.value for name in ("always_none", "always_first", "always_last")] == [0, 0, 0]
    assert found["always_none"].accuracy.value == 0.25


def test_random_baselines_are_the_means_of_draws():
    rng = np.random.default_rng(0)
    solutions = planted(rng, 30, 0.0)
    labels = np.array([-1 if s.first_error is None else s.first_error for s in solutions])
    steps = np.array([len(s.scores) for s in solutions])
    draws = rng.integers(-1, steps, (20_000, 30))
    drawn = summary(solutions, (draws == labels).mean(0), (), FEW)
    assert baselines(solutions, FEW)["random"].f1.value == pytest.approx(drawn.f1.value, abs=0.01)


def test_the_best_random_baseline_is_the_maximum_over_its_rate():
    solutions = planted(np.random.default_rng(5), 40, 0.0)
    share = np.mean([1 / len(s.scores) for s in solutions if s.first_error is not None])
    rates = np.linspace(0, 1, 100_001)
    f1s = harmonic_mean((1 - rates) * share, rates)
    best = baselines(solutions, FEW)["best_random"]
    assert best.f1.value == pytest.approx(f1s.max(), abs=1e-9)
    assert best.f1.value == pytest.approx(2 * share / (1 + math.sqrt(share)) ** 2)
    assert best.correct.value == pytest.approx(rates[f1s.argmax()], abs=1e-4)


# ---- published numbers -----------------------------------------------------------------------------------------------


def test_published_f1_from_published_accuracies():
    """Qwen2.5-Math-7B-PRM800K on ProcessBench: accuracy on erroneous, on correct, F1, and the mean of four."""
    rows = {(53.1, 95.3): 68.2, (48.0, 90.1): 62.6, (35.7, 87.3): 50.7, (29.8, 86.1): 44.3}
    f1s = [float(harmonic_mean(*row)) for row in rows]
    assert f1s == pytest.approx(list(rows.values()), abs=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the data lies beside the repository")
@pytest.mark.parametrize(("task", "correct"), [("multistep_arithmetic", 62), ("logical_deduction", 6)])
def test_big_bench_mistake_is_read_as_it_is_written(task, correct):
    rows = [json.loads(line) for line in (DATA / f"big_bench_mistake_{task}.jsonl").read_text().splitlines()]
    solutions = [
        solution(np.zeros(len(row["steps"])), read_label(row["mistake_index"], len(row["steps"]), f"row {number}"))
        for number, row in enumerate(rows, 1)
    ]
    found = baselines(solutions, FEW)
    assert found["always_none"].accuracy.value == pytest.approx(correct / 300)
    assert found["always_none"].correct.n == correct
