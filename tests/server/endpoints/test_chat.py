"""/v1/chat/completions: the chat template's tokens, tool calls, stop texts and characters, streamed or not."""

import json

import pytest
from told import asked, chunks, joined, of_tokens, refused, table

from tokenq.data.prompts import encode_prompts, given_prompts

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "The cat"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def streamed(client, **body):
    """Return what a stream of one choice says: content, calls, finish, tokens."""
    found = chunks(client, PATH, **body)
    choices = [one["choices"][0] for one in found]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    deltas = [one["delta"] for one in choices]
    calls = joined(one.get("tool_calls", []) for one in deltas)
    assert [one["index"] for one in calls] == [*range(len(calls))]
    finishes = [one["finish_reason"] for one in choices]
    assert finishes[:-1] == [None] * (len(finishes) - 1)
    tokens = joined((one["logprobs"] or {}).get("content") or [] for one in choices)
    return "".join(one.get("content") or "" for one in deltas), calls, finishes[-1], tokens


def test_a_chat_is_what_the_search_writes_greedily(client, pair, tokenizer):
    how = {"max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    answer = asked(client, PATH, messages=MESSAGES, **how)
    own = pair.decode("The cat", method="greedy", max_new_tokens=6)[0].candidates[0]
    choice = answer["choices"][0]
    assert choice["token_ids"] == list(own.token_ids)
    assert [one["logprob"] for one in choice["logprobs"]["content"]] == pytest.approx(own.logps, abs=1e-5)
    assert choice["message"]["content"] == own.text
    (ids,) = encode_prompts(given_prompts("The cat", chat=True), tokenizer)
    assert answer["prompt_token_ids"] == list(ids)
    assert all(one["top_logprobs"][0]["logprob"] == one["logprob"] for one in choice["logprobs"]["content"])


def test_log_probs_are_those_of_a_whole_forward(client, pair):
    how = {"max_tokens": 7, "seed": 1, "logprobs": True, "top_logprobs": 3, "return_token_ids": True}
    answer = asked(client, PATH, messages=MESSAGES, **how)
    choice = answer["choices"][0]
    rows = table(pair.pair.models.policy, answer["prompt_token_ids"], choice["token_ids"])
    said = choice["logprobs"]["content"]
    assert [one["logprob"] for one in said] == pytest.approx(of_tokens(rows, choice["token_ids"]), abs=1e-5)
    for one, row in zip(said, rows, strict=True):
        assert [top["logprob"] for top in one["top_logprobs"]] == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)


def test_a_smile_over_four_tokens(scripted):
    client = scripted("a😀b")
    how = {"messages": MESSAGES, "logprobs": True}
    choice = asked(client, PATH, **how)["choices"][0]
    said = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "a😀b"
    assert bytes(joined(one["bytes"] for one in said)).decode() == "a😀b"
    assert [one["token"] for one in said][1:3] == ["bytes:\\xf0", "bytes:\\x9f"]
    content, _, finish, tokens = streamed(client, **how)
    assert (content, finish, tokens) == ("a😀b", "stop", said)
    assert not any("�" in json.dumps(one, ensure_ascii=False) for one in chunks(client, PATH, **how))


def test_a_stop_text_over_tokens_hides_them_and_they_are_counted(scripted):
    client = scripted("one STOP two")
    how = {"messages": MESSAGES, "stop": "STOP", "logprobs": True, "return_token_ids": True}
    answer = asked(client, PATH, **how)
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
    assert "".join(one["token"] for one in choice["logprobs"]["content"]) == "one "
    assert len(choice["token_ids"]) == 4
    assert answer["usage"]["completion_tokens"] == len("one STOP")
    assert client.engine.slips[0].stopped == {0}
    assert streamed(client, **how)[:3] == ("one ", [], "stop")
    assert client.engine.slips[1].stopped == {0}


@pytest.mark.parametrize("written", [CALL, json.dumps({"name": "add", "arguments": {"a": 1}})], ids=["tags", "bare"])
def test_a_call_is_read(scripted, written):
    client = scripted(written)
    how = {"messages": MESSAGES, "tools": [ADD], "logprobs": True}
    choice = asked(client, PATH, **how)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    content, calls, finish, tokens = streamed(client, **how)
    assert (content, finish, tokens) == ("", "tool_calls", choice["logprobs"]["content"])
    assert [one["function"] for one in calls] == [call["function"]]


def test_text_before_two_calls(scripted):
    client = scripted(f"Let me see. \n{CALL}\n{CALL}")
    message = asked(client, PATH, messages=MESSAGES, tools=[ADD])["choices"][0]["message"]
    assert message["content"] == "Let me see."
    assert len({one["id"] for one in message["tool_calls"]}) == 2
    content, calls, finish, _ = streamed(client, messages=MESSAGES, tools=[ADD])
    assert (content, len(calls), finish) == ("Let me see.", 2, "tool_calls")


@pytest.mark.parametrize(
    ("written", "more"),
    [
        ('<tool_call>{"name": </tool_call>', {}),
        ('{"name": "unknown", "arguments": {}}', {}),
        ("a < b and <tool> \n", {}),
        (CALL, {"tool_choice": "none"}),
    ],
    ids=["broken", "unknown", "no call", "not looked for"],
)
def test_what_is_no_call_is_text(scripted, written, more):
    client = scripted(written)
    how = {"messages": MESSAGES, "tools": [ADD], **more}
    choice = asked(client, PATH, **how)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (written, "stop")
    assert "tool_calls" not in choice["message"]
    assert streamed(client, **how)[:3] == (written, [], "stop")


def test_tools_and_their_results_go_through_the_template(client, tokenizer):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    talk = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    talk += [{"role": "tool", "content": "2", "tool_call_id": "1"}]
    answer = asked(client, PATH, messages=talk, tools=[ADD], max_tokens=1, return_token_ids=True)
    text = tokenizer.decode(answer["prompt_token_ids"])
    assert 'add({"a": 1})' in text
    assert "Tools: add\n" in text


def test_parts_of_text_are_one_text(client):
    parts = [{"type": "text", "text": "The "}, {"type": "text", "text": "cat"}]
    both = [
        asked(client, PATH, messages=[{"role": "user", "content": one}], max_tokens=1, return_token_ids=True)
        for one in (parts, "The cat")
    ]
    assert both[0]["prompt_token_ids"] == both[1]["prompt_token_ids"]


def test_what_the_template_refuses_is_said(client):
    error = refused(client, PATH, messages=[{"role": "user"}])
    assert error["param"] == "messages"
    error = refused(client, PATH, messages=[{"role": "king", "content": "x"}])
    assert error["param"] == "messages.0.role"


def test_the_length_is_what_the_context_leaves(scripted):
    client = scripted("x")
    for text, most in (("The cat", 200), ("x" * 150, None)):  # the most that this server writes, or what is left
        answer = asked(client, PATH, messages=[{"role": "user", "content": text}])
        left = 256 - answer["usage"]["prompt_tokens"]
        assert client.engine.asked[-1].max_new_tokens == (most or left)
        assert left < 200 or most
