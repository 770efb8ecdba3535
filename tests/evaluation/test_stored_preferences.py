"""Stored judgements in the conventions of their writers, told by the form of a file and never by its numbers."""

import numpy as np
import pytest

from tokenq.errors import UserError
from tokenq.evaluation.stored_preferences import read_preferences
from tokenq.evaluation.task_win_rate import from_preferences
from tokenq.stats.win_rate import win_rate


def annotation(preference, ours="mine", **more):
    """Return a row of AlpacaEval's `annotations.json`."""
    row = {
        "instruction": "Say it.",
        "output_1": "base",
        "generator_1": "gpt",
        "output_2": "mine!",
        "annotator": "judge",
    }
    return row | {"generator_2": ours, "preference": preference} | more


def shares(rows, place=0):
    return read_preferences(rows, "file")[place].shares.tolist()


def test_a_model_that_always_loses_in_alpaca_evals_file_has_a_win_rate_of_0():
    """1.0 means that output_1, the baseline's, was preferred; read as a share it would be a win each time."""
    found = read_preferences([annotation(1.0) for _ in range(6)], "annotations.json")
    assert [one.system for one in found] == ["mine"]
    assert win_rate(found[0].shares).win_rate == 0.0
    assert win_rate(read_preferences([annotation(2) for _ in range(6)], "file")[0].shares).win_rate == 1.0


def test_alpaca_evals_numbers():
    """2 a win, 1 a loss, 0 and 1.5 draws, 1.25 a quarter; null, NaN and an empty cell are no judgement."""
    given = [2, 1, 0, 1.5, 1.25, None, float("nan"), "2.0", ""]
    assert np.array_equal(
        shares([annotation(said) for said in given]),
        [1, 0, 0.5, 0.5, 0.25, np.nan, np.nan, 1, np.nan],
        equal_nan=True,
    )


def test_the_lengths_are_those_of_the_outputs_and_the_instruction_that_of_the_index():
    found = read_preferences([annotation(2, index=7), annotation(1, index="3")], "file")[0]
    assert (list(found.lengths), list(found.baseline_lengths)) == ([5, 5], [4, 4])
    assert list(found.instructions) == [7, 3]


def test_systems_of_one_file_are_told_apart():
    rows = [annotation(2, "a"), annotation(1, "b"), annotation(2, "a"), annotation(2, "b", generator_1="other")]
    found = {one.system: one.shares.tolist() for one in read_preferences(rows, "file")}
    assert found == {"a over gpt": [1, 1], "b over gpt": [0], "b over other": [1]}


def test_our_own_rows_keep_their_convention():
    assert shares([{"preference": said} for said in (1.0, 0, "tie", "second", 0.75)]) == [1, 0, 0.5, 0, 0.75]


def test_mt_bench_asks_in_both_orders():
    """A verdict that both orders share counts; two that differ are a tie, and an error is none."""
    said = [
        ("model_1", "model_1"),
        ("model_2", "model_2"),
        ("model_1", "model_2"),
        ("tie", "tie"),
        ("error", "model_1"),
    ]
    rows = [{"question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": g1, "g2_winner": g2} for g1, g2 in said]
    assert np.array_equal(shares(rows), [1, 0, 0.5, 0.5, np.nan], equal_nan=True)


def test_battles_of_an_arena():
    winners = ["model_a", "model_b", "tie", "tie (bothbad)", "vicuna"]
    rows = [{"model_a": "vicuna", "model_b": "koala", "winner": winner} for winner in winners]
    assert shares(rows) == [1, 0, 0.5, 0.5, 1]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([annotation(2), annotation(0.3)], r"row 2: preference 1 is 0.3: AlpacaEval writes 1 \(baseline\) to 2"),
        ([annotation(3)], "row 1: preference 1 is 3"),
        ([annotation("good")], "row 1"),
        ([annotation(True)], "row 1"),
        ([{"preference": 1.5}], "row 1: 'preference' is 1.5, not a share of 0 to 1"),
        ([{"preference": 1}, annotation(1)], "row 2 is in another form than the rows before"),
        ([{"prompt": "?"}], "row 1 holds no judgement: its columns are prompt"),
        ([{"model_a": "a", "model_b": "b", "winner": "nobody"}], "'winner' is 'nobody'"),
    ],
)
def test_what_is_no_judgement_is_named(rows, says):
    with pytest.raises(UserError, match=says):
        read_preferences(rows, "file")


def test_the_outcome_counts_as_alpaca_eval_does():
    """Of 2, 1, 0 and null: one win, one loss, one draw, one left out; the mean of three is ½."""
    rows = [annotation(said) for said in (2, 1, 0, None)]
    raw = from_preferences(read_preferences(rows, "file")).numbers["mine"]["raw"]
    assert (raw.n, raw.unusable, raw.wins, raw.losses, raw.ties, raw.win_rate) == (3, 1, 1, 1, 1, 0.5)
