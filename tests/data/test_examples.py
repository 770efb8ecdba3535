"""Choosing, checking and counting examples; columns by other names; and what is said about rows that do not fit."""

import pytest

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.errors import UserError
from tokenq.records.examples import Message


def rows(*values):
    return [Row(dict(one), f"train.jsonl, row {number}") for number, one in enumerate(values, 1)]


def pair(prompt="q", chosen=" c", rejected=" r", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def contents(result):
    return [[response.content for response in example.responses] for example in result.examples]


def rated(*scores):
    return {"instruction": "q", "completions": [{"response": str(i), "overall_score": s} for i, s in enumerate(scores)]}


def test_where_and_order_are_kept():
    result = read_examples(rows(pair("one"), pair("two")))
    assert [(one.prompt, one.where) for one in result.examples] == [
        ("one", "train.jsonl, row 1"),
        ("two", "train.jsonl, row 2"),
    ]
    assert (result.rows, result.dropped) == (2, {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (pair(prompt=None), "a column without text"),
        (pair(chosen=""), "empty response"),
        (pair([{"role": "user", "content": "q"}], [{"role": "assistant", "content": ""}], "r"), "empty response"),
        (pair(rejected=" c"), "chosen equals rejected"),
        (pair(chosen=None), "a column without text"),
        ({"prompt": "q", "chosen": "c"}, "a missing column"),
        (pair([], [{"role": "assistant", "content": "c"}], "r"), "a column without text"),
        (pair(chosen=[{"role": "user", "content": "c"}]), "response without assistant"),
    ],
)
def test_an_unusable_row_is_an_error_or_is_counted(bad, reason):
    given = rows(pair(), bad, pair("other"), bad)
    with pytest.raises(UserError, match=f"^train.jsonl, row 2: .*2 of 4 rows cannot be used: 2 {reason}") as caught:
        read_examples(given)
    assert "--bad-rows drop" in caught.value.hint
    result = read_examples(given, bad_rows="drop")
    assert [one.where for one in result.examples] == ["train.jsonl, row 1", "train.jsonl, row 3"]
    assert result.dropped == {reason: 2}
    assert result.rows == 4


def test_one_unusable_row_is_named_without_a_list():
    with pytest.raises(UserError) as caught:
        read_examples(rows(pair(), pair(rejected="")))
    assert caught.value.message == "train.jsonl, row 2: the rejected response is empty."


def test_nothing_left_is_an_error():
    with pytest.raises(UserError, match=r"None of the 2 rows from train\.jsonl, row 1 on can be used: 2 tied ratings"):
        read_examples(rows(rated(3, 3), rated(1, 1)))


def test_an_empty_prompt_and_blanks_are_text():
    assert read_examples(rows({"text": "prose"}), selection="responses").examples[0].prompt == ""
    assert read_examples(rows(pair(prompt=""), pair(prompt=" \n", rejected="\n\n"))).dropped == {}


def test_the_first_bad_row_of_the_file_is_named():
    """A row is known to be bad when it is read, when it is checked, or when something is asked of it."""
    same, broken, tied = pair(rejected=" c"), pair(chosen=None), pair(chosen="")
    for first in (same, broken, tied):
        for second in (same, broken, tied):
            with pytest.raises(UserError, match=r"^train.jsonl, row 2: .*2 of 4 rows"):
                read_examples(rows(pair(), first, second, pair()))


def test_ratings_that_decide_nothing_are_counted():
    result = read_examples(rows(rated(3, 3), rated(4), rated(1, None), rated(2, 5, 2)))
    assert contents(result) == [["1", "0"]]
    assert result.dropped == {"tied ratings": 1, "fewer than two rated responses": 2}


def test_every_two_responses_of_different_rating():
    result = read_examples(rows(rated(1, 3, 1, 2)), pairing="all")
    assert contents(result) == [["1", "0"], ["1", "2"], ["1", "3"], ["3", "0"], ["3", "2"]]
    assert all(example.is_pair for example in result.examples)


def test_all_keeps_what_there_is():
    result = read_examples(rows(rated(3, 3, None)), selection="all")
    assert contents(result) == [["0", "1", "2"]]
    assert [response.score for response in result.examples[0].responses] == [3, 3, None]
    assert not result.examples[0].is_pair


def test_the_best_response_is_the_one_to_imitate():
    assert contents(read_examples(rows(rated(1, 3, 3)), selection="responses")) == [["1"]]


def test_a_row_unusable_as_a_pair_may_still_hold_a_response():
    assert contents(read_examples(rows(pair(rejected="")), selection="responses")) == [[" c"]]


def test_chat_style():
    hh = "\n\nHuman: hi\n\nAssistant:"
    result = read_examples(rows({"chosen": f"{hh} c", "rejected": f"{hh} r"}), style="chat")
    assert result.examples[0].prompt == (Message("user", "hi"),)
    assert contents(result) == [[(Message("assistant", "c"),), (Message("assistant", "r"),)]]
    orca = {"system": "s", "question": "q", "chosen": "c", "rejected": "r"}
    assert read_examples(rows(orca), style="chat").examples[0].prompt == (Message("system", "s"), Message("user", "q"))
    assert read_examples(rows(pair()), style="chat").examples[0].prompt == (Message("user", "q"),)


def test_a_system_column_goes_above_the_prompt_once():
    turns = {"chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]}
    asked = [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]
    with_own = read_examples(rows({"prompt": asked, **turns, "system": "s"})).examples[0]
    assert [turn.content for turn in with_own.prompt] == ["own", "q"]
    without = read_examples(rows({"prompt": asked[1:], **turns, "system": "s"})).examples[0]
    assert [turn.content for turn in without.prompt] == ["s", "q"]
    assert read_examples(rows(pair(system="s"))).examples[0].prompt == "s\n\nq"


def test_arguments_for_the_template_are_kept():
    tools = [{"name": "f", "parameters": {"x": None, "y": {"type": "int"}}}]
    expected = [{"name": "f", "parameters": {"y": {"type": "int"}}}]
    result = read_examples(rows(pair(tools=tools, chat_template_kwargs={"enable_thinking": False})))
    assert result.examples[0].context == {"enable_thinking": False, "tools": expected}
    result = read_examples(rows(pair(tools='[{"name": "f"}]'), pair(tools=None)))
    assert [example.context for example in result.examples] == [{"tools": [{"name": "f"}]}, {}]


def test_rows_of_one_prompt_with_other_tools_are_not_put_together():
    given = [{"prompt": "q", "completion": str(n), "label": n == 1, "tools": [{"name": n}]} for n in (1, 2, 2)]
    assert contents(read_examples(rows(*given), selection="all")) == [["1"], ["2", "2"]]


def test_columns_by_other_names():
    other = {"ask": "q", "good": " c", "bad": " r", "prompt": "not this"}
    names = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    result = read_examples(rows(other), columns=names)
    assert (result.examples[0].prompt, contents(result)) == ("q", [[" c", " r"]])
    with pytest.raises(UserError, match=r"train.jsonl, row 1: Unknown column 'god'.") as caught:
        read_examples(rows(other), columns={"chosen": "god"})
    assert "Did you mean 'good'?" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "theirs", "ours"),
    [
        ({"promt": "q", "chosen": "c", "rejected": "r"}, "promt", "prompt"),
        ({"prompts": "q", "chosen": "c", "rejected": "r"}, "prompts", "prompt"),
        ({"Prompt": "q", "chosen": "c", "rejected": "r"}, "Prompt", "prompt"),
        ({"prompt": "q", "chosen": "c", "rejeced": "r"}, "rejeced", "rejected"),
        ({"prompt": "q", "choosen": "c", "rejected": "r"}, "choosen", "chosen"),
        ({"prompt": "q", "completion": "c", "lable": True}, "lable", "label"),
        ({"prompt": "q", "completion": "c", "labels": True}, "labels", "label"),
        ({"message": []}, "message", "messages"),
    ],
)
@pytest.mark.parametrize("want", ["pairs", "responses"])
def test_a_misspelt_column_is_named_even_where_a_poorer_format_fits(values, theirs, ours, want):
    with pytest.raises(UserError, match=f"train.jsonl, row 1: .*'{theirs}' looks like '{ours}'") as caught:
        read_examples(rows(values), selection=want)
    assert f"--columns {ours}={theirs}" in caught.value.hint


def test_two_misspelt_columns_at_once():
    with pytest.raises(UserError) as caught:
        read_examples(rows({"promt": "q", "chosen": "c", "rejeced": "r"}))
    assert caught.value.hint == "Rename with --columns prompt=promt rejected=rejeced."


def test_a_column_that_only_looks_misspelt_can_be_left_out():
    values = {"prompt": "q", "completion": "c", "labels": "unrelated"}
    with pytest.raises(UserError, match="looks like 'label'") as caught:
        read_examples(rows(values), selection="responses")
    assert "--columns unused=labels" in caught.value.hint
    assert contents(read_examples(rows(values), selection="responses", columns={"unused": "labels"})) == [["c"]]


def test_an_id_is_no_misspelt_prompt():
    turns = [{"role": "user", "content": "q"}]
    chosen, rejected = ([*turns, {"role": "assistant", "content": text}] for text in "cr")
    assert len(read_examples(rows({"prompt_id": "8f", "chosen": chosen, "rejected": rejected})).examples) == 1


def test_columns_of_no_format_list_what_is_known():
    with pytest.raises(UserError, match=r"columns 'x', 'y' fit no known format\.\n") as caught:
        read_examples(rows({"x": 1, "y": 2}))
    assert "prompt, chosen, rejected" in caught.value.hint
    with pytest.raises(UserError, match="The nearest format lacks rejected"):
        read_examples(rows({"prompt": "q", "chosen": "c"}))


def test_no_common_prompt_points_to_the_column_of_the_prompt():
    with pytest.raises(UserError, match="hold no prompt") as caught:
        read_examples(rows({"ask": "q", "chosen": "Yes", "rejected": "No"}))
    assert "--columns prompt=" in caught.value.hint


@pytest.mark.parametrize("option", ["selection", "pairing", "bad_rows", "style"])
def test_unknown_options_name_the_known(option):
    with pytest.raises(UserError, match=r"Unknown .* 'pears'"):
        read_examples(rows(pair()), **{option: "pears"})
