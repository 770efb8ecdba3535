"""Conversations with tools: what is read, and which tokens of them are learnt, with spans marked by hand.

In expected texts « and » stand around what the assistant wrote.
"""

import itertools
import json
from dataclasses import replace

import pytest
from tool_templates import BRACKETS, CHANNELS, FORGETS, GOES_ON, HERMES, IPYTHON, LAST_ENDED, NEXT_ENDS, TWO_ROLES
from toy_tokenizers import CHATML, MARKED, bytes_tokenizer

from tokenq.data.chat.messages import text_of_turn
from tokenq.data.digest import data_digest
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.prompts import load_prompts
from tokenq.data.sources import prompt_hash
from tokenq.data.stored.texts import from_json, to_json
from tokenq.data.tokenize import tokenize
from tokenq.errors import UserError
from tokenq.records.examples import ContextMessage, Example, Message, Response

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def called(a, b, number=1, **more):
    """Return a turn that calls, as OpenAI has it: arguments are JSON text."""
    function = {"name": "add", "arguments": json.dumps({"a": a, "b": b})}
    call = {"id": f"call{number:05d}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def result(content, number=1):
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": "add", "content": content}


def user(content):
    return {"role": "user", "content": content}


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


TURNS = [
    user("2+3?"),
    called(2, 3),
    result("5"),
    said("Five."),
    user("+1?"),
    called(5, 1, 2),
    result("6", 2),
    said("Six."),
]


def examples(*rows, selection="responses", **options):
    return read_examples(
        [Row(row, f"row {i}") for i, row in enumerate(rows, 1)], selection=selection, **options
    ).examples


def marked(template, turns=TURNS, eos="<eos>", bos=None, tools=(ADD,)):
    """Return a conversation's text, « » around what is learnt, without the system turn, and the summary."""
    tokenizer = bytes_tokenizer(bos=bos, eos=eos, chat_template=template)
    row = {"messages": turns} | ({"tools": list(tools)} if tools else {})
    data = tokenize(examples(row), tokenizer, max_length=None)
    ((response,),) = (group.responses for group in data.groups)
    text = tokenizer.decode(data.groups[0].prompt_ids)
    for own, run in itertools.groupby(range(len(response.ids)), lambda place: bool(response.mask[place])):
        part = tokenizer.decode(response.ids[list(run)])
        text += f"«{part}»" if own else part
    return text, data.summary


def test_calls_in_the_text_of_the_assistant():
    text, summary = marked(HERMES, eos="<|im_end|>")
    assert text == (
        f"<|im_start|>system\n{json.dumps(ADD)}\n<|im_end|>\n"
        "<|im_start|>user\n2+3?<|im_end|>\n"
        '<|im_start|>assistant\n«<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>5</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Five.<|im_end|>»\n"
        "<|im_start|>user\n+1?<|im_end|>\n"
        '<|im_start|>assistant\n«<tool_call>{"name": "add", "arguments": {"a": 5, "b": 1}}</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>6</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Six.<|im_end|>»"
    )
    assert summary.rewritten_turns == 0


def test_several_calls_and_results_in_one_step():
    both = called(1, 1)
    both["tool_calls"] += called(2, 2, 2)["tool_calls"]
    text, _ = marked(
        HERMES, [user("?"), both | {"content": "Wait. "}, result("2"), result("4", 2), said("Six.")], "<|im_end|>"
    )
    assert text.partition("assistant\n")[2] == (
        '«Wait. <tool_call>{"name": "add", "arguments": {"a": 1, "b": 1}}</tool_call>'
        '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>2</tool_response><tool_response>4</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Six.<|im_end|>»"
    )


@pytest.mark.parametrize(
    ("template", "bos", "expected"),
    [
        (
            IPYTHON,
            "<bos>",
            f"<bos>[user][{json.dumps(ADD)}] 2+3?<|eot|>"
            '[assistant]«{"name": "add", "parameters": {"a": 2, "b": 3}}<|eot|>»[ipython]"5"<|eot|>'
            "[assistant]«Five.<|eot|>»[user]+1?<|eot|>"
            '[assistant]«{"name": "add", "parameters": {"a": 5, "b": 1}}<|eot|>»[ipython]"6"<|eot|>'
            "[assistant]«Six.<|eot|><eos>»",
        ),
        (
            LAST_ENDED,
            None,
            f'([{json.dumps(ADD)}])[user]2+3?[assistant]«!add{{"a": 2, "b": 3}}»[tool]5[assistant]«Five.»'
            '[user]+1?[assistant]«!add{"a": 5, "b": 1}»[tool]6[assistant]«Six.<eos>»',
        ),
        (
            NEXT_ENDS,
            None,
            f'([{json.dumps(ADD)}])[user]2+3?[assistant]«!add{{"a": 2, "b": 3}}<eos>»[tool]5[assistant]«Five.<eos>»'
            '[user]+1?[assistant]«!add{"a": 5, "b": 1}<eos>»[tool]6[assistant]«Six.<eos>»',
        ),
        (
            GOES_ON,
            None,
            f'([{json.dumps(ADD)}])[user]2+3?[assistant]«!add{{"a": 2, "b": 3}}<eos>»<out>5</out>«Five.<eos>»'
            '[user]+1?[assistant]«!add{"a": 5, "b": 1}<eos>»<out>6</out>«Six.<eos>»',
        ),
    ],
    ids=["ipython", "last ended", "next ends", "goes on"],
)
def test_every_turn_of_the_assistant_is_learnt_and_nothing_else(template, bos, expected):
    text, summary = marked(template, bos=bos)
    assert text == expected
    assert summary.rewritten_turns == 0


def test_tools_that_move_leave_the_turns_that_stand_behind_them():
    """At the first call the tools stood elsewhere: that is not the text behind which it was generated."""
    text, summary = marked(BRACKETS, bos="<bos>")
    first = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}}]<eos>[RESULT] call00001 5[/RESULT] Five.<eos>'
    assert text == (
        f"<bos>[INST] 2+3?[/INST]{first}[TOOLS][{json.dumps(ADD)}][/TOOLS][INST] +1?[/INST]"
        '«[TOOL_CALLS] [{"name": "add", "arguments": {"a": 5, "b": 1}}]<eos>»[RESULT] call00002 6[/RESULT]« Six.<eos>»'
    )
    assert summary.rewritten_turns == 1
    assert "1 responses without earlier turns that the template rewrites" in summary.line()
    # With one turn of the user they stay where they are.
    text, summary = marked(BRACKETS, TURNS[:4], bos="<bos>")
    assert text.endswith(
        '[/TOOLS][INST] 2+3?[/INST]«[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}}]<eos>»'
        "[RESULT] call00001 5[/RESULT]« Five.<eos>»"
    )
    assert summary.rewritten_turns == 0


THOUGHT = [
    turn | ({"reasoning_content": f"t{place}"} if turn["role"] == "assistant" else {})
    for place, turn in enumerate(TURNS)
]


def test_turns_whose_thoughts_are_dropped_later_are_not_learnt():
    text, summary = marked(FORGETS, THOUGHT, eos="<|im_end|>")
    assert text.partition("2+3?<|im_end|>\n")[2] == (
        '<|im_start|>assistant\n<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>5</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nFive.<|im_end|>\n"
        "<|im_start|>user\n+1?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nt5\n</think>\n\n"
        '<tool_call>{"name": "add", "arguments": {"a": 5, "b": 1}}</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>6</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nt7\n</think>\n\nSix.<|im_end|>»"
    )
    assert summary.rewritten_turns == 1


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_turns_without_thoughts_are_learnt_where_those_of_others_are_dropped(field):
    """Empty thoughts, which the template writes into the last turn alone, are no part of an earlier one."""
    turns = [user("2+3?"), called(2, 3), result("5"), said("Five.", **{field: "t"})]
    text, summary = marked(FORGETS, turns, eos="<|im_end|>")
    assert text.partition("2+3?<|im_end|>\n")[2] == (
        '<|im_start|>assistant\n«<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>5</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nt\n</think>\n\nFive.<|im_end|>»"
    )
    assert summary.rewritten_turns == 0


def test_a_last_turn_stands_behind_the_thoughts_that_it_was_generated_behind():
    """Written whole, what was thought before the last answer is gone; when that was generated, it was there."""
    text, summary = marked(CHANNELS, THOUGHT)
    one = '<|im_start|>assistant{}.call {{"name": "add", "arguments": {{"a": {}, "b": {}}}}}<|eot|>'
    assert text.partition("2+3?<|im_end|>")[2] == (
        one.format("", 2, 3) + "<|im_start|>tool 5<|im_end|><|im_start|>assistant.think t3<|im_end|>"
        "<|im_start|>assistant.say Five.<|im_end|><|im_start|>user +1?<|im_end|>"
        "<|im_start|>assistant«.think t5<|im_end|>" + one.format("", 5, 1) + "»<|im_start|>tool 6<|im_end|>"
        "<|im_start|>assistant«.think t7<|im_end|><|im_start|>assistant.say Six.<eos>»"
    )
    assert summary.rewritten_turns == 1


def test_thoughts_go_into_the_text_where_the_template_looks_for_them_there():
    looks = CHATML.replace("m.content +", "(m.content.split('</think>')[-1] if not loop.last else m.content) +")
    text, _ = marked(looks, [user("q"), said("yes", reasoning_content="so")], "<|im_end|>", tools=())
    assert text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n«<think>\nso\n</think>\n\nyes<|im_end|>»"


def test_a_turn_that_is_not_to_be_learnt_does_not_count_as_left_out():
    """A row for every turn: the turns up to it, those before with weight 0."""
    turns = [turn | ({"weight": 0} if turn["role"] == "assistant" else {}) for turn in THOUGHT[:3]] + THOUGHT[3:4]
    text, summary = marked(FORGETS, turns, eos="<|im_end|>")
    assert text.partition("2+3?<|im_end|>\n")[2] == (
        "<|im_start|>assistant\n<think>\nt1\n</think>\n\n"
        '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>5</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nt3\n</think>\n\nFive.<|im_end|>»"
    )
    assert summary.rewritten_turns == 0
    weighed = [turn | ({"weight": 0} if place == 3 else {}) for place, turn in enumerate(THOUGHT[2:], 2)]
    assert marked(FORGETS, [user("?"), said("!"), *weighed], eos="<|im_end|>")[1].rewritten_turns == 0


def test_what_a_marked_template_writes_otherwise_later_is_not_learnt():
    forgets = MARKED.replace(
        "{% generation %}{{ m.content",
        "{% generation %}{{ ('(' + m.reasoning_content + ')' if loop.last and m.reasoning_content else '') + m.content",
    )
    turns = [user("q"), said("one", reasoning_content="t"), user("r"), said("two", reasoning_content="u")]
    text, summary = marked(forgets, turns, "<|im_end|>", tools=())
    assert text.partition("q<|im_end|>\n")[2] == (
        "<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n«(u)two<|im_end|>»"
    )
    assert summary.rewritten_turns == 1


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (CHATML, {"messages": TURNS[:2], "tools": [ADD]}, "has tools, and the chat template does not write them"),
        (TWO_ROLES, {"messages": [user("?"), said("!")], "tools": [ADD]}, "has tools, and the chat template does not"),
        (CHATML, {"messages": TURNS[:2]}, "does not write the tool calls of turn 2"),
        (TWO_ROLES, {"messages": [user("?"), said("!"), *TURNS[1:4]]}, "does not write the tool calls of turn 3"),
        (TWO_ROLES, {"messages": [user("?"), said("!"), result("5"), said("!")]}, "refuses the conversation"),
        (IPYTHON + "{{ tools[7].name.lower() }}", {"messages": TURNS[:2], "tools": [ADD]}, "refuses the conversation"),
        (
            CHATML,
            {"messages": [user("?"), said("!", reasoning_content="t")]},
            "does not write the reasoning of the last",
        ),
        (
            HERMES.replace("{{ m.content }}</tool_r", "</tool_r"),
            {"messages": TURNS[:4]},
            "the result of a tool in turn 3",
        ),
        (
            HERMES.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"),
            {
                "messages": [
                    user("?"),
                    called(1, 1) | {"tool_calls": [*called(1, 1)["tool_calls"], *called(2, 2)["tool_calls"]]},
                ]
            },
            "does not write all the tool calls of turn 2",
        ),
        (HERMES, {"messages": [user("?"), called("<|im_end|>", 1)]}, "goes on after '<|im_end|>', which ends it"),
    ],
)
def test_what_a_template_would_leave_out_is_a_bad_row(template, row, message):
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=template)
    with pytest.raises(UserError) as refused:
        tokenize(examples(row), tokenizer, max_length=None)
    assert "row 1" in str(refused.value)
    assert message in str(refused.value)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (called(2, 3), Message("assistant", "", ({"id": "call00001", **CALL},))),
        ({"role": "assistant", "content": "", "tool_calls": [CALL["function"]]}, Message("assistant", "", (CALL,))),
        ({"role": "assistant", "tool_calls": json.dumps([CALL])}, Message("assistant", "", (CALL,))),
        ({"role": "assistant", "content": None, "function_call": CALL["function"]}, Message("assistant", "", (CALL,))),
        ({"from": "function_call", "value": json.dumps(CALL["function"])}, Message("assistant", "", (CALL,))),
        ({"role": "tool_call", "content": json.dumps([CALL, CALL])}, Message("assistant", "", (CALL, CALL))),
        (
            {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0},
            ContextMessage("assistant", "", (CALL,)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "now", "arguments": ""}]},
            Message("assistant", "", ({"type": "function", "function": {"name": "now", "arguments": {}}},)),
        ),
        (said("x", reasoning="t", reasoning_content="t"), Message("assistant", "x", reasoning="t")),
        (said("<tool_call>{}</tool_call>"), Message("assistant", "<tool_call>{}</tool_call>")),
    ],
)
def test_a_turn_of_the_assistant_in_every_spelling(turn, expected):
    (one,) = examples({"messages": [user("?"), said("."), user("?"), turn, said("!")]})
    found = one.responses[0].content[2]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (result("5"), Message("tool", "5", tool_call_id="call00001", name="add")),
        ({"from": "observation", "value": "5"}, Message("tool", "5")),
        ({"role": "tool_response", "content": "5"}, Message("tool", "5")),
        ({"role": "function", "name": "add", "content": "5"}, Message("tool", "5", name="add")),
        ({"role": "user", "name": "Ann", "content": "5"}, Message("user", "5")),
    ],
)
def test_a_turn_that_answers_a_call(turn, expected):
    (one,) = examples({"messages": [user("?"), said("."), turn, said("!")]})
    assert one.responses[0].content[1] == expected


def test_tools_within_a_request_reach_the_template():
    request = {"messages": TURNS[:1], "tools": [ADD]}
    row = {"input": request, "preferred_output": [called(2, 3)], "non_preferred_output": [said("Six.")]}
    (pair,) = examples(row, selection="pairs")
    assert pair.context == {"tools": [ADD]}
    assert [len(response.content[0].tool_calls) for response in pair.responses] == [1, 0]
    loaded = load_prompts([{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": request}])
    assert loaded.prompts[0].context == {"tools": [ADD]}


def test_calls_one_after_the_other_are_one_turn():
    turns = [{"from": "function_call", "value": json.dumps(one)} for one in (CALL["function"], CALL["function"])]
    row = {"conversations": [{"from": "human", "value": "?"}, *turns, {"from": "observation", "value": "5"}, said("!")]}
    (one,) = examples(row | {"tools": json.dumps([ADD])})
    assert [len(turn.tool_calls) for turn in one.responses[0].content] == [2, 0, 0]
    assert one.context == {"tools": [ADD]}


def test_arguments_lose_the_nulls_of_tables_and_keep_those_of_json():
    asked = {"name": "f", "arguments": {"a": 1, "b": None}}
    turns = [user("?"), said(None, tool_calls=[asked]), said(None, tool_calls=[asked | {"arguments": '{"b": null}'}])]
    (one,) = examples({"messages": turns})
    found = [turn.tool_calls[0]["function"]["arguments"] for turn in one.responses[0].content]
    assert found == [{"a": 1}, {"b": None}]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (said(None, tool_calls=[{"name": "f", "arguments": "a=1"}]), "'tool_calls of f' that is not JSON"),
        (said(None, tool_calls=[{"name": "f", "arguments": "[1]"}]), "arguments are no record"),
        (said(None, tool_calls=[{"name": "f", "arguments": 3}]), "arguments are no record"),
        (said(None, tool_calls=[{"arguments": {}}]), "no name or no arguments"),
        (said(None, tool_calls=[{"type": "custom", "name": "f", "arguments": {}}]), "type 'custom'"),
        (said(None, tool_calls="f(1)"), "'tool_calls' that is not JSON"),
        ({"from": "function_call", "value": "f(1)"}, "'function_call' that is not JSON"),
        ({"role": "function_call", "content": {"name": "f"}}, "no name or no arguments"),
        (user("x") | {"tool_calls": [CALL]}, "only an assistant's turn can have"),
        (said("x", reasoning=["t"]), "'reasoning' that is no text"),
        (said("x", reasoning="t", thinking="u"), "two that differ"),
        (said(None), "content of a 'assistant' turn is not text"),
    ],
)
def test_a_call_that_cannot_be_read_is_a_bad_row(turn, message):
    with pytest.raises(UserError) as refused:
        examples({"messages": [user("?"), turn, said("!")]})
    assert "row 1" in str(refused.value)
    assert message in str(refused.value)


def test_a_response_may_end_with_a_call_and_say_nothing_else():
    (one,) = examples({"messages": TURNS[:2]})
    assert one.responses[0].content[-1].tool_calls
    with pytest.raises(UserError, match="response is empty"):
        examples({"messages": [user("?"), said("")]})


def test_data_that_differ_in_a_call_alone_have_different_digests():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=HERMES)
    rows = [{"messages": [user("?"), called(2, b)]} for b in (3, 3, 4)]
    first, same, other = (data_digest(tokenize(examples(row), tokenizer, max_length=None).groups) for row in rows)
    assert first == same != other


def test_pairs_may_differ_in_a_call_alone():
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=HERMES)
    row = {"chosen": [user("?"), called(2, 3)], "rejected": [user("?"), called(2, 4)]}
    (group,) = tokenize(examples(row, selection="pairs"), tokenizer, max_length=None).groups
    texts = [tokenizer.decode(response.ids) for response in group.responses]
    assert texts == [
        f'<tool_call>{{"name": "add", "arguments": {{"a": 2, "b": {b}}}}}</tool_call><|im_end|>' for b in (3, 4)
    ]
    with pytest.raises(UserError, match="chosen equals rejected"):
        examples({"chosen": row["chosen"], "rejected": [user("?"), called(2, 3)]}, selection="pairs")


def test_turns_at_rest_have_the_fields_that_are_set():
    plain = Message("user", "2+3?")
    asks = Message("assistant", "", (CALL,), reasoning="Add.")
    answers = Message("tool", "5", tool_call_id="1", name="add")
    assert plain.to_dict() == {"role": "user", "content": "2+3?"}
    assert repr(plain) == "Message(role='user', content='2+3?')"
    assert asks.to_dict() == {"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [CALL]}
    assert answers.to_dict() == {"role": "tool", "content": "5", "tool_call_id": "1", "name": "add"}
    assert text_of_turn(asks) == '{"name": "add", "arguments": {"a": 2, "b": 3}}'
    for turn in (plain, asks, answers):
        assert Message.from_dict(json.loads(json.dumps(turn.to_dict()))) == turn
    assert len({asks, Message("assistant", "", (CALL, CALL), reasoning="Add.")}) == 2
    example = Example((plain,), (Response((asks, answers, ContextMessage("assistant", "5"))),), False, "row 1")
    assert from_json(to_json([(0, example)])) == [(0, example)]
    assert prompt_hash((plain,)) != prompt_hash((plain, asks)) != prompt_hash((plain, replace(asks, tool_calls=())))


ROLES = ("system_turns_cut", "user_turns_cut", "assistant_turns_cut", "tool_turns_cut")


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (0, (0, 0, 0, 0)),
        (1, (1, 0, 0, 0)),
        (14, (1, 0, 0, 0)),
        (15, (1, 1, 0, 0)),
        (26, (1, 1, 0, 0)),
        (27, (1, 1, 1, 0)),
    ],
)
def test_the_turns_that_a_prompt_loses_are_counted(lost, expected):
    """Marks and bytes are a token each: the system's turn has 1 + 6 + 1 + 4 + 1 + 1, the user's 1 + 4 + 1 + 4 + 2."""
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=HERMES)
    turns = [{"role": "system", "content": "Sum."}, user("2+3?"), said("Five."), user("+1?")]
    row = examples({"prompt": turns, "completion": [said("Six.")]})
    (group,) = tokenize(row, tokenizer, max_length=None).groups
    limit = len(group.prompt_ids) + len("Six.") + 1 - lost
    summary = tokenize(row, tokenizer, max_length=limit, truncation="prompt_left").summary
    assert tuple(getattr(summary, role) for role in ROLES) == expected
    assert ("1 turns of the system cut" in summary.line()) == (lost > 0)


@pytest.mark.parametrize(("lost", "expected"), [(1, (0, 0, 1, 0)), (18, (0, 0, 1, 0)), (19, (0, 0, 1, 1))])
def test_the_turns_that_a_response_loses_are_counted(lost, expected):
    """The last turn has 1 + 9 + 1 + 6 + 1 tokens, and the line break before it ends the result's."""
    tokenizer = bytes_tokenizer(eos="<|im_end|>", chat_template=HERMES)
    row = examples({"messages": [user("?"), called(1, 2), result("3"), said("Three.")]})
    (group,) = tokenize(row, tokenizer, max_length=None).groups
    limit = len(group.prompt_ids) + len(group.responses[0].ids) - lost
    summary = tokenize(row, tokenizer, max_length=limit, truncation="response_right").summary
    assert tuple(getattr(summary, role) for role in ROLES) == expected
