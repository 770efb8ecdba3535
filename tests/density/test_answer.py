"""Answers of writers: what was asked for to the letter, what is mended with a count, and what is no chain."""

import json

import pytest

from tokenq.density.answer import Unreadable, named, read_answer

STEPS = [{"Missing_Entities": f"e{n}", "Denser_Summary": f"Summary {n}."} for n in range(5)]
TEXT = json.dumps(STEPS)
SPACED = json.dumps(
    [{"Missing Entities": one["Missing_Entities"], "Denser Summary": one["Denser_Summary"]} for one in STEPS]
)


def texts(answer):
    return [step.summary for step in answer.steps]


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        (TEXT, {}),
        (json.dumps(STEPS, indent=2), {}),
        (f"Here you are:\n{TEXT}\nI hope it helps.", {"beside prose": 1}),
        (f"```json\n{TEXT}\n```", {"in fences": 1}),
        (f"Sure!\n```\n{TEXT}\n```", {"in fences": 1, "beside prose": 1}),
        (f"```json\n{TEXT}", {"in fences": 1}),
        (json.dumps({"summaries": STEPS}), {"in a record": 1}),
        (SPACED, {"other keys": 5}),
        (TEXT.replace('"e0"', '["e0", "f"]'), {"entities as a list": 1}),
        (TEXT.replace("}]", "},]"), {"a comma too many": 1}),
        (TEXT.replace("Summary 1.", "Summary\n1."), {"line breaks in texts": 1}),
        (repr(STEPS), {"no JSON, but Python": 1}),
    ],
)  # fmt: skip
def test_five_steps(text, repairs):
    found = read_answer(text, 5)
    assert len(found.steps) == 5
    assert found.repairs == repairs
    assert found.strict == (not repairs)
    assert found.steps[2].missing == ("e2",)


def test_four_steps_and_six():
    assert read_answer(json.dumps(STEPS[:4]), 5).repairs == {"fewer steps": 1}
    six = read_answer(json.dumps([*STEPS, {"Missing_Entities": "x", "Denser_Summary": "More."}]), 5)
    assert (len(six.steps), six.repairs) == (5, {"more steps": 1})


def test_an_answer_that_was_cut_off():
    found = read_answer(TEXT[:-30], 5)
    assert texts(found) == [f"Summary {n}." for n in range(4)]
    assert found.repairs == {"cut off": 1, "fewer steps": 1}


def test_the_same_summary_twice_and_none():
    steps = [STEPS[0], {**STEPS[1], "Denser_Summary": " Summary  0. "}, {**STEPS[2], "Denser_Summary": ""}, *STEPS[3:]]
    found = read_answer(json.dumps(steps), 5)
    assert texts(found) == ["Summary 0.", "Summary 3.", "Summary 4."]
    assert found.repairs == {"the same summary twice": 1, "a step without a summary": 1}


@pytest.mark.parametrize("text", ["", "I cannot.", "[1, 2]", "{", '{"a": 1}', '[{"Missing_Entities": "x"}]', "[{]"])
def test_no_chain(text):
    with pytest.raises(Unreadable):
        read_answer(text, 5)


def test_names_that_are_listed():
    assert named('"Hven"; Maja Lindholm; 3 km.') == ["Hven", "Maja Lindholm", "3 km"]
    assert named("Hven, Lyon") == ["Hven", "Lyon"]
    assert named(" ; ") == []
