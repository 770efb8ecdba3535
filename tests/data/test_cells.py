"""One conversion for numbers and labels, one for text and turns in cells: what people's files hold, case by case."""

import json
from decimal import Decimal

import numpy as np
import pytest

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.layouts import cells
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Message

ASKED = [{"role": "user", "content": "It's 0, isn't it?"}]
GOOD, BAD = ([{"role": "assistant", "content": word}] for word in ("yes", "no"))


def read(*values, **options):
    rows = [Row(dict(one), f"file.csv, row {number}") for number, one in enumerate(values, 1)]
    return read_examples(rows, **options).examples


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (4, 4.0),
        ("4", 4.0),
        (" -0.50 ", -0.5),
        ("−3", -3.0),
        ("1e-3", 0.001),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (Decimal("2.5"), 2.5),
        *(
            (missing, None)
            for missing in (None, float("nan"), np.float32("nan"), "", " ", "NaN", "N/A", "<NA>", "null")
        ),
    ],
)
def test_a_number_is_one_however_it_is_written(value, found):
    assert cells.number(value) == found


@pytest.mark.parametrize(
    "value",
    [
        True,
        "good",
        "inf",
        float("inf"),
        "-Infinity",
        "1_000",
        "1,5",
        "0x10",
        "50%",
        10**400,
        "9" * 400,
        1j,
        [],
        {},
        b"1",
    ],
)
def test_what_is_no_number_is_a_bad_row(value):
    with pytest.raises(BadRow, match=r"score .* is no finite number") as caught:
        cells.number(value, "score")
    assert len(caught.value.detail) < 120  # four hundred digits are not repeated


@pytest.mark.parametrize(
    ("value", "found"), [(2, 2), (0.0, 0), ("-1", -1), ("2.0", 2), (float("nan"), None), (10**40, 10**40)]
)
def test_a_whole_number_may_come_as_a_float_or_as_text(value, found):
    assert cells.whole(value) == found


@pytest.mark.parametrize("value", [0.5, "1.5", True, "first"])
def test_half_a_step_is_a_bad_row(value):
    with pytest.raises(BadRow):
        cells.whole(value)


LABELS = [
    (True, False),
    (1, 0),
    (1.0, 0.0),
    (1, -1),
    ("1.0", "-1.0"),
    ("True", "False"),
    ("YES", "no"),
    ("good", "bad"),
    ("+", "-"),
    ("desirable", "undesirable"),
    ("👍", "👎"),
    (np.bool_(True), np.bool_(False)),
]


@pytest.mark.parametrize(("good", "bad"), LABELS)
def test_a_label_is_never_true_for_both(good, bad):
    assert (cells.label(good), cells.label(bad)) == (True, False)


@pytest.mark.parametrize("value", [0.7, 2, "0.7", "maybe", None, float("nan"), "", [1]])
def test_a_label_that_says_neither_is_a_bad_row(value):
    with pytest.raises(BadRow):
        cells.label(value)


WRITTEN = {
    "lists": lambda value: value,
    "JSON": json.dumps,
    "Python": repr,
    "Python over lines": lambda value: repr(value).replace("}, {", "},\n {"),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_turns_in_a_cell_of_text_are_turns(written):
    write = WRITTEN[written]
    (explicit,) = read({"prompt": write(ASKED), "chosen": write(GOOD), "rejected": write(BAD)})
    (implicit,) = read({"chosen": write(ASKED + GOOD), "rejected": write(ASKED + BAD)})
    for example in (explicit, implicit):
        assert example.prompt == (Message("user", "It's 0, isn't it?"),)
        assert [one.content for one in example.responses] == [(Message("assistant", w),) for w in ("yes", "no")]
    for name in ("messages", "conversations"):
        (one,) = read({name: write(ASKED + GOOD)}, selection="responses")
        assert (one.prompt, one.responses[0].content) == (explicit.prompt, explicit.responses[0].content)
    for name in ("completion", "response"):
        (one,) = read({"prompt": write(ASKED), name: write(GOOD)}, selection="responses")
        assert (one.prompt, one.responses[0].content) == (explicit.prompt, explicit.responses[0].content)


@pytest.mark.parametrize("written", WRITTEN)
def test_lists_in_a_cell_of_text_are_lists(written):
    write = WRITTEN[written]
    steps = {"prompt": "q", "completions": write(["It's so.", "done"]), "labels": write([True, False])}
    (one,) = read(steps, selection="steps")
    assert (one.responses[0].steps, one.responses[0].step_labels) == (("It's so.\n", "done"), (True, False))


@pytest.mark.parametrize("single", [json.dumps(GOOD[0]), repr(GOOD[0])])
def test_one_turn_in_a_cell_of_text_is_a_turn(single):
    (one,) = read({"prompt": json.dumps(ASKED), "chosen": single, "rejected": json.dumps(BAD)})
    assert one.responses[0].content == (Message("assistant", "yes"),)


@pytest.mark.parametrize(
    "cell",
    [
        "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",  # numpy's
        "array([{'role': 'user', 'content': 'a'}], dtype=object)",
        '[{"role": "user", "content": "cut in the mid',
        "[{'role': 'user', 'content': open('x')}]",
        '[{"role": "user", "content": "a"}' + "[" * 100_000,
        "[{'role': 'user', 'content': 'a'}, " + "[" * 5_000 + "]" * 5_000 + "]",
        "[{'role': 'user', 'content': '" + "a" * 1_000_001 + "'}]",
    ],
)
def test_turns_that_cannot_be_read_are_a_bad_row_and_never_literal_text(cell):
    with pytest.raises(UserError, match="row 1: column 'prompt' holds text that is not JSON"):
        read({"prompt": cell, "chosen": "c", "rejected": "r"})


def test_texts_that_numpy_prints_without_commas_are_not_joined():
    with pytest.raises(UserError, match="numpy prints lists like that"):
        read({"prompt": "q", "completions": "['It is.' 'So.']", "labels": "[True, False]"}, selection="steps")


@pytest.mark.parametrize(
    "text", ['["a", "b"]', '{"role": "admin", "level": 3}', "[1] is a footnote", "{x}", "[]", '{"a": 1}']
)
def test_an_answer_that_only_looks_like_data_stays_text(text):
    (one,) = read({"prompt": "q", "chosen": text, "rejected": "r"})
    assert one.responses[0].content == text


@pytest.mark.parametrize("value", ["NaN", "nan", "<NA>", float("nan"), None])
def test_no_text_is_no_response(value):
    with pytest.raises(UserError, match="row 1: column 'rejected'"):
        read({"prompt": "q", "chosen": "c", "rejected": value})


def test_an_integer_of_five_thousand_digits_is_a_bad_row_in_every_column():
    digits = 10**5000
    for given in (pair_of(score_chosen=digits, score_rejected=1), pair_of(chosen=digits)):
        with pytest.raises(UserError, match=r"row 1: .*thousands of digits"):
            read(given)
    with pytest.raises(UserError, match="row 1: label a whole number of thousands of digits"):
        read({"prompt": "q", "completion": "c", "label": digits}, selection="labelled")


def pair_of(**more):
    return {"prompt": "q", "chosen": "c", "rejected": "r", **more}
