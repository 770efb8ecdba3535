"""Localisation against scikit-learn, against enumeration, and by hand."""

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from examples import share_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scored_traces import make_trace
from sklearn.metrics import average_precision_score, roc_auc_score

from tokenq.errors import UserError
from tokenq.evaluation.localisation import localise
from tokenq.evaluation.readouts import READOUTS
from tokenq.evaluation.token_labels import labels_from_step, labels_from_stretches
from tokenq.stats.areas import example_metrics, pooled_areas
from tokenq.stats.bootstrap import Resampling, intervals

FEW = Resampling(resamples=300)


def pieces_at(trace, wrong):
    return [token.text for token, bad in zip([t for t in trace.tokens if t.written], wrong, strict=True) if bad]


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_a_stretch_marks_the_tokens_that_share_a_character_with_it():
    trace = make_trace("a", ["The", " sum", " is", " 12", "3", ".", " Good", ""])
    start = trace.response.index("123")
    assert pieces_at(trace, labels_from_stretches(trace, [(start, start + 3)])) == [" 12", "3"]
    # One character of a token is enough, and a blank that a stretch ends or begins with is not.
    assert pieces_at(trace, labels_from_stretches(trace, [(start + 2, start + 3)])) == ["3"]
    assert pieces_at(trace, labels_from_stretches(trace, [(3, 7), (start, start + 3)])) == [" sum", " 12", "3"]
    assert pieces_at(trace, labels_from_stretches(trace, [(0, 4)])) == ["The"]
    assert not labels_from_stretches(trace, []).any()


def test_blank_tokens_and_tokens_without_a_piece():
    trace = make_trace("a", ["a", "\n", "ü", "", "b", ""])
    assert labels_from_stretches(trace, [(1, 2)]).tolist() == [False, True, False, False, False, False]
    # The fourth token is a part of the ü, the last is EOS and part of no character.
    assert labels_from_stretches(trace, [(2, 3)]).tolist() == [False, False, True, True, False, False]
    assert labels_from_stretches(trace, [(3, 4)]).tolist() == [False, False, False, False, True, False]


def test_labels_are_of_written_tokens_only():
    trace = make_trace("a", ["yes", " [tool]", " no"], written=[True, False, True], steps=[(0, 2), (2, 3)])
    assert labels_from_stretches(trace, [(0, 13)]).tolist() == [True, True]
    assert labels_from_step(trace, 1).tolist() == [False, True]
    assert labels_from_step(trace, 0).tolist() == [True, False]
    assert labels_from_step(trace, None).tolist() == [False, False]


@pytest.mark.parametrize("stretch", [(0, 0), (3, 2), (-1, 2), (2, 6)])
def test_a_span_outside_the_text_is_an_error_that_names_the_row(stretch):
    trace = make_trace("row 17", ["ab", "cde"])
    with pytest.raises(UserError, match=r"row 17: the span .* outside the response, which has 5 characters"):
        labels_from_stretches(trace, [(0, 1), stretch])


@pytest.mark.parametrize("step", [2, -1])
def test_a_step_that_is_not_there_is_an_error(step):
    with pytest.raises(UserError, match=rf"row 5: step {step} is labelled as wrong, and there are 2 steps"):
        labels_from_step(make_trace("row 5", ["1", "2"], steps=[(0, 1), (1, 2)]), step)


# ---- metrics of one example ------------------------------------------------------------------------------------------


def test_by_hand():
    """Scores 3 2 2 1 with the second and the last wrong.

    AUROC: of the four (wrong, right) pairs 2–3 loses, 2–2 is half, 1–3 and 1–2 lose: ½/4. Average precision: at 2 there
    are 3 tokens of which 1 is wrong, at 1 there are 4 of which 2: (⅓ + ½)/2. Top-1 is right; top-2 takes one of two
    tied tokens: ½; top-3 both.
    """
    scores, wrong = np.array([[3.0], [2.0], [2.0], [1.0]]), np.array([False, True, False, True])
    found = {name: float(value[0]) for name, value in example_metrics(scores, wrong, (1, 2, 3, 9)).items()}
    assert found == pytest.approx(
        {"auroc": 0.125, "average_precision": 5 / 12, "top_1": 0.0, "top_2": 0.5, "top_3": 1.0, "top_9": 1.0}
    )


tied_scores = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 6).map(float))


@given(tied_scores, st.data())
@settings(max_examples=share_of(60), deadline=None)
def test_areas_of_an_example_are_scikit_learns(scores, data):
    wrong = data.draw(hnp.arrays(np.bool_, len(scores)))
    found = example_metrics(scores, wrong, (1,))
    assert ("average_precision" in found, "auroc" in found) == (wrong.any(), wrong.any() and not wrong.all())
    for column in (0, 1):
        if "average_precision" in found:
            expected = average_precision_score(wrong, scores[:, column])
            assert found["average_precision"][column] == pytest.approx(expected, abs=1e-12)
        if "auroc" in found:
            assert found["auroc"][column] == pytest.approx(roc_auc_score(wrong, scores[:, column]), abs=1e-12)


@pytest.mark.parametrize("scores", [[2, 2, 1, 2, 0], [1, 1, 1, 1, 1], [3, 2, 2, 2, 1]])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_top_hit_is_the_mean_over_all_orders_of_ties(scores, k):
    wrong = np.array([False, True, False, True, False])
    orders = [p for p in permutations(range(5)) if all(scores[a] >= scores[b] for a, b in pairwise(p))]
    expected = np.mean([wrong[list(order[:k])].any() for order in orders])
    found = example_metrics(np.array(scores, dtype=float)[:, None], wrong, (k,))
    assert found[f"top_{k}"][0] == pytest.approx(expected)


# ---- pooled ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=share_of(40), deadline=None)
def test_pooled_areas_are_scikit_learns_with_counts_as_weights(seed):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(6), rng.integers(1, 9, 6))
    scores = rng.integers(0, rng.integers(1, 20), len(owner)).astype(float)
    wrong = rng.random(len(owner)) < 0.3
    counts = rng.integers(0, 4, (3, 6)).astype(float)
    found = pooled_areas(scores, wrong, owner, 6)(counts)
    for row, times in zip(found, counts, strict=True):
        weight = times[owner]
        if not weight[wrong].sum():
            assert np.isnan(row).all()
            continue
        kept = weight > 0
        inputs = {"y_true": wrong[kept], "y_score": scores[kept], "sample_weight": weight[kept]}
        assert row[1] == pytest.approx(average_precision_score(**inputs), abs=1e-12)
        if weight[~wrong].sum():
            assert row[0] == pytest.approx(roc_auc_score(**inputs), abs=1e-12)
        else:
            assert np.isnan(row[0])


def simulated(rng, n, gap, spread):
    """Return pooled tokens of n examples with 2 wrong and 10 right tokens each and levels that differ by `spread`."""
    owner = np.repeat(np.arange(n), 12)
    wrong = np.tile(np.arange(12) < 2, n)
    return rng.normal(size=12 * n) + gap * wrong + spread * rng.normal(size=n)[owner], wrong, owner


@pytest.mark.slow
def test_the_interval_of_a_pooled_auroc_covers_it():
    """The truth by Φ(gap / √(2 + 2 spread²)), since almost all pairs are of different examples; 40 examples."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    truth = norm.cdf(1.0 / np.sqrt(2 + 2 * 0.5**2))
    covered = []
    for _ in range(2000):
        found = intervals(pooled_areas(*simulated(rng, 40, 1.0, 0.5), 40), 40, Resampling(resamples=1000))[0]
        covered.append(found.low <= truth <= found.high)
    assert abs(np.mean(covered) - 0.95) <= 0.015


# ---- the table -------------------------------------------------------------------------------------------------------


def corpus(n=12, seed=0):
    """Return traces of 8 tokens of which one number is wrong and one is right, and their labels."""
    rng = np.random.default_rng(seed)
    pieces = ["So", " 4", " and", " 7", " are", " more", ".", ""]
    traces = [
        make_trace(f"{i}", pieces, logits=tuple(rng.normal(size=(2, 8, 5))), prompt=f"P{i // 2}") for i in range(n)
    ]
    stretches = [(trace.response.index("47"[i % 2]),) for i, trace in enumerate(traces)]
    return traces, [labels_from_stretches(t, [(at, at + 1)]) for t, (at,) in zip(traces, stretches, strict=True)]


def test_the_table_holds_every_read_out_with_means_and_paired_differences():
    traces, labels = corpus()
    table = localise(traces, labels, tops=(1, 3), how=FEW)[0]
    assert [row.readout for row in table.rows] == list(READOUTS)
    assert (table.examples, table.tokens, table.wrong_tokens) == (12, 96, 12)
    assert (table.without_wrong, table.without_right) == (0, 0)
    base = table.rows[0]
    assert base.readout == table.against == "implicit_reward"
    for row in table.rows:
        assert set(row.metrics) == set(row.differences)
        for metric, estimate in row.metrics.items():
            other = base.metrics[metric]
            assert row.differences[metric].value == pytest.approx(estimate.value - other.value, abs=1e-12)
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.n == 12
            if metric in row.per_example:
                assert estimate.value == pytest.approx(np.mean(row.per_example[metric]))
    assert {estimate.low for estimate in base.differences.values()} == {0.0}
    assert {estimate.high for estimate in base.differences.values()} == {0.0}


@pytest.mark.integration
def test_the_values_are_scikit_learns():
    traces, labels = corpus()
    table = localise(traces, labels, how=FEW)[0]
    for row in table.rows:
        scores = [READOUTS[row.readout](trace) for trace in traces]
        each = [roc_auc_score(wrong, some) for wrong, some in zip(labels, scores, strict=True)]
        assert row.per_example["auroc"] == pytest.approx(each)
        assert row.metrics["auroc"].value == pytest.approx(np.mean(each))
        pooled = np.concatenate(labels), np.concatenate(scores)
        assert row.metrics["pooled_auroc"].value == pytest.approx(roc_auc_score(*pooled))
        assert row.metrics["pooled_average_precision"].value == pytest.approx(average_precision_score(*pooled))


def test_chance_is_that_of_a_score_that_is_the_same_everywhere():
    traces, labels = corpus()
    chance = localise(traces, labels, tops=(1, 2), how=FEW)[0].chance
    assert chance == pytest.approx(
        {
            "auroc": 0.5,
            "average_precision": 1 / 8,
            "top_1": 1 / 8,
            "top_2": 2 / 8,
            "pooled_auroc": 0.5,
            "pooled_average_precision": 1 / 8,
        }
    )


def where_errors_may_stand(trace):
    """Return a score that knows numbers, and not which of them is wrong."""
    return np.array([float(any(c.isdigit() for c in token.text)) for token in trace.tokens if token.written])


def test_a_score_that_knows_where_errors_may_stand_fails_among_them():
    """One of two numbers in eight tokens is wrong: AUROC 6½/7 in all, ½ among the numbers."""
    traces, labels = corpus()
    readouts = {"numbers": where_errors_may_stand, "random": READOUTS["random"]}
    tables = localise(
        traces, labels, readouts, against="random", classes={"all": "", "numbers": r"\d"}, tops=(1,), how=FEW
    )
    everywhere, among = (table.rows[0].metrics for table in tables)
    assert [table.token_class for table in tables] == ["all", "numbers"]
    assert everywhere["auroc"].value == pytest.approx(6.5 / 7)
    assert everywhere["pooled_auroc"].value == pytest.approx(6.5 / 7)
    assert among["auroc"].value == among["pooled_auroc"].value == 0.5
    assert everywhere["top_1"].value == among["top_1"].value == 0.5
    assert (tables[1].tokens, tables[1].wrong_tokens) == (24, 12)


def test_examples_without_wrong_or_right_tokens_are_counted_and_stay_in_the_pool():
    traces, labels = corpus(4)
    labels[0] = np.zeros(8, dtype=bool)
    labels[1] = np.ones(8, dtype=bool)
    table = localise(traces, labels, {"entropy": READOUTS["entropy"]}, against="entropy", tops=(1,), how=FEW)[0]
    row = table.rows[0]
    assert (table.examples, table.without_wrong, table.without_right) == (4, 1, 1)
    assert (row.metrics["auroc"].n, row.metrics["average_precision"].n, row.metrics["top_1"].n) == (2, 3, 3)
    assert row.metrics["pooled_auroc"].n == 4
    assert np.isnan(row.per_example["auroc"]).tolist() == [True, True, False, False]
    assert row.per_example["average_precision"][1] == row.per_example["top_1"][1] == 1.0
    pooled = np.concatenate([READOUTS["entropy"](trace) for trace in traces])
    assert row.metrics["pooled_auroc"].value == pytest.approx(roc_auc_score(np.concatenate(labels), pooled))


def test_a_class_that_an_example_does_not_have_leaves_it_out():
    traces, labels = corpus(3)
    tokens = tuple(replace(token, text="x" * len(token.text)) for token in traces[0].tokens)
    traces[0] = replace(traces[0], response="x" * len(traces[0].response), tokens=tokens)
    table = localise(traces, labels, classes={"numbers": r"\d"}, how=FEW)[0]
    assert (table.examples, table.without_wrong, table.without_right, table.tokens) == (3, 1, 0, 4)
    assert table.rows[0].metrics["auroc"].n == 2


def test_examples_of_one_prompt_are_drawn_together():
    traces, labels = corpus()
    table = localise(traces, labels, groups=[trace.prompt for trace in traces], how=FEW)[0]
    plain = localise(traces, labels, how=FEW)[0]
    for row, other in zip(table.rows, plain.rows, strict=True):
        for metric, estimate in row.metrics.items():
            assert estimate.n == 6
            assert estimate.value == pytest.approx(other.metrics[metric].value)


def test_a_read_out_that_finds_every_error_has_a_wilson_interval():
    traces, labels = corpus()
    oracle = {trace.id: wrong.astype(float) for trace, wrong in zip(traces, labels, strict=True)}
    readouts = {"oracle": lambda trace: oracle[trace.id], "random": READOUTS["random"]}
    row = localise(traces, labels, readouts, against="random", how=FEW)[0].rows[0]
    assert {estimate.value for estimate in row.metrics.values()} == {1.0}
    assert row.metrics["top_1"].low == pytest.approx(12 / (12 + 1.959964**2), abs=1e-6)
    assert row.differences["auroc"].low > 0


def test_what_does_not_line_up_is_named():
    traces, labels = corpus(2)
    with pytest.raises(UserError, match="2 traces and 1 labels"):
        localise(traces, labels[:1])
    with pytest.raises(UserError, match="0 traces and 0 labels"):
        localise([], [])
    with pytest.raises(UserError, match="Trace 1: 7 labels for the 8 tokens"):
        localise(traces, [labels[0], labels[1][1:]])
    with pytest.raises(UserError, match="Did you mean 'entropy'"):
        localise(traces, labels, against="entropi")
    with pytest.raises(UserError, match="no regular expression"):
        localise(traces, labels, classes={"odd": "("})
