"""Columns and fields that change what a row means: read, obeyed, or a bad row; never passed over."""

import pytest

from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.layouts.context import RESERVED, UNREAD
from tokenq.errors import UserError
from tokenq.records.examples import ContextMessage, Message

TURNS = (Message("user", "Remember blue."), Message("assistant", "I will."))


def read(*values, **options):
    rows = [Row(dict(one), f"file.jsonl, row {number}") for number, one in enumerate(values, 1)]
    return read_examples(rows, **options).examples


def pair(**more):
    return {"prompt": "q", "chosen": "c", "rejected": "r", **more}


@pytest.mark.parametrize(
    "history",
    [
        [["Remember blue.", "I will."]],
        '[["Remember blue.", "I will."]]',
        [("Remember blue.", "I will.")],
        ["Remember blue.", "I will."],
        [{"user": "Remember blue.", "assistant": "I will."}],
        [{"from": "human", "value": "Remember blue."}, {"from": "gpt", "value": "I will."}],
    ],
)
def test_earlier_turns_stand_before_the_prompt(history):
    asked = {"instruction": "Which?", "input": "", "output": "blue", "history": history, "system": "Be kind."}
    (one,) = read(asked, selection="responses", style="chat")
    assert one.prompt == (Message("system", "Be kind."), *TURNS, Message("user", "Which?"))
    (plain,) = read(asked, selection="responses")
    assert plain.prompt == "Be kind.\n\nRemember blue.\n\nI will.\n\nWhich?\n"
    (text,) = read(pair(history=history))
    assert text.prompt == "Remember blue.\n\nI will.\n\nq"
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Which?"}]}
    chat["messages"].append({"role": "assistant", "content": "blue"})
    (one,) = read(chat | {"history": history}, selection="responses")
    assert one.prompt == (Message("system", "s"), *TURNS, Message("user", "Which?"))


@pytest.mark.parametrize("history", [[], None, "", "[]", float("nan"), [None]])
def test_no_earlier_turns_change_nothing(history):
    assert read(pair(history=history))[0].prompt == "q"


@pytest.mark.parametrize("history", ["what was said", [["a", "b", "c"]], [["a", 1]], 7, ["odd"]])
def test_earlier_turns_that_cannot_be_read_are_a_bad_row(history):
    with pytest.raises(UserError, match=r"row 1: column 'history'"):
        read(pair(history=history))


@pytest.mark.parametrize("name", UNREAD)
def test_a_column_that_changes_the_meaning_is_a_bad_row(name):
    with pytest.raises(UserError, match=f"row 2: column '{name}' changes what the row means"):
        read(pair(**{name: None}), pair(**{name: "a.png"}))
    assert len(read(pair(**{name: []}), pair(**{name: ""}), pair(**{name: {"bytes": None, "path": None}}))) == 3
    assert len(read(pair(), pair(**{name: ["a.png"]}), bad_rows="drop")) == 1


@pytest.mark.parametrize(
    ("mark", "learnt"),
    [
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"weight": 1}, True),
        ({"weight": None}, True),
        ({"train": False}, False),
        ({"train": "false"}, False),
        ({"train": True}, True),
        ({"loss": False}, False),
        ({"masked": True}, False),
        ({"masked": False}, True),
    ],
)
def test_a_turn_that_is_not_to_be_learnt_is_context(mark, learnt):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "one", **mark},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "two"},
    ]
    (one,) = read({"messages": turns}, selection="responses")
    assert len(one.prompt) == (1 if learnt else 3)
    assert one.responses[0].content[-1] == Message("assistant", "two")
    assert all(type(turn) is Message for turn in one.prompt)
    (last,) = read({"messages": [*turns[2:], turns[0], turns[1]]}, selection="responses")
    assert [turn.content for turn in last.responses[0].content] == (["two", "Hi", "one"] if learnt else ["two"])
    (amid,) = read({"messages": [turns[0], turns[3], *turns[:2], turns[2], turns[3]]}, selection="responses")
    assert [isinstance(turn, ContextMessage) for turn in amid.responses[0].content] == [
        False,
        False,
        not learnt,
        False,
        False,
    ]


def test_turns_that_are_half_learnt_or_not_at_all_are_bad_rows():
    half = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one", "weight": 0.5}]
    with pytest.raises(UserError, match=r"row 1: a turn has weight 0\.5"):
        read({"messages": half}, selection="responses")
    none = [half[0], {"role": "assistant", "content": "one", "weight": 0}]
    with pytest.raises(UserError, match="row 1: every turn of the assistant is marked"):
        read({"messages": none}, selection="responses")
    with pytest.raises(UserError, match="row 1: every turn of the assistant is marked"):
        read({"prompt": half[:1], "chosen": none[1:], "rejected": [{"role": "assistant", "content": "two"}]})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x.png"}},
        {"type": "input_audio", "input_audio": {"data": "…"}},
        {"type": "image", "text": "a caption"},
        {"type": "video"},
        None,
    ],
)
def test_parts_that_are_no_text_are_a_bad_row(part):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}, part]},
        {"role": "assistant", "content": "ok"},
    ]
    with pytest.raises(UserError, match="row 1: the content of a 'user' turn is not text"):
        read({"messages": turns}, selection="responses")


@pytest.mark.parametrize("field", ["tool_calls", "reasoning_content", "images", "train_detail", "loss_mask"])
def test_fields_of_a_turn_that_are_not_read_are_a_bad_row(field):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "ok", field: ["x"]}]
    with pytest.raises(UserError, match=f"row 1: a turn has '{field}'"):
        read({"messages": turns}, selection="responses")


@pytest.mark.parametrize("given", [[1, 2], "[1, 2]", "word", 3, True, {"tokenize": True}, '{"messages": []}', {1: 2}])
def test_arguments_of_the_template_that_are_none_are_a_bad_row(given):
    with pytest.raises(UserError, match="row 1: column 'chat_template_kwargs'"):
        read(pair(chat_template_kwargs=given))


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_arguments_cannot_put_another_conversation_in_place(name):
    with pytest.raises(UserError, match=f"row 1: column 'chat_template_kwargs' may not set '{name}'"):
        read(pair(chat_template_kwargs={name: "x"}))


@pytest.mark.parametrize("tools", [{"name": "search"}, '{"name": "search"}', ["search"], "search", 3])
def test_tools_that_are_no_list_of_records_are_a_bad_row(tools):
    with pytest.raises(UserError, match="row 1: column 'tools'"):
        read(pair(tools=tools))


def test_a_system_turn_on_one_side_is_a_bad_row():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"}]
    other = [{"role": "system", "content": "s"}, turns[0], {"role": "assistant", "content": "r"}]
    with pytest.raises(UserError, match="row 1: chosen or rejected begins with a system turn"):
        read({"chosen": turns, "rejected": other})
