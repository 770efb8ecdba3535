"""/v1/completions: numbers are those of whole forwards, echo reads, and choices follow from their seeds alone."""

import pytest
from told import asked, chunks, close, joined, of_tokens, table

PATH = "/v1/completions"
PROMPT = "The cat sat"
LETTERS = {str(one): 100 for one in range(71, 97)}
"""Bias that leaves the letters a to z: their ids in the tokenizer of bytes."""


@pytest.fixture(scope="module")
def models(pair):
    return pair.pair.models


def test_greedy_tokens_and_log_probs_are_those_of_a_whole_forward(client, models):
    answer = asked(client, PATH, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=2, return_token_ids=True)
    (choice,) = answer["choices"]
    prompt, ids = choice["prompt_token_ids"], choice["token_ids"]
    rows = table(models.policy, prompt, ids)
    assert ids == rows.argmax(-1).tolist()
    said = choice["logprobs"]
    assert said["token_logprobs"] == pytest.approx(of_tokens(rows, ids), abs=1e-5)
    for top, row in zip(said["top_logprobs"], rows, strict=True):
        assert sorted(top.values(), reverse=True) == pytest.approx(row.topk(2).values.tolist(), abs=1e-5)
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 6, "total_tokens": len(prompt) + 6}


def test_echo_reads_the_prompt_and_writes_nothing(client, models, tokenizer):
    answer = asked(client, PATH, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer["choices"]
    ids = tokenizer(PROMPT)["input_ids"]
    rows = table(models.policy, ids[:1], ids[1:])
    said = choice["logprobs"]
    assert choice["text"] == PROMPT
    assert said["token_logprobs"][0] is None
    assert said["top_logprobs"][0] is None
    assert said["token_logprobs"][1:] == pytest.approx(of_tokens(rows, ids[1:]), abs=1e-5)
    assert [max(top.values()) for top in said["top_logprobs"][1:]] == pytest.approx(rows.amax(-1).tolist(), abs=1e-5)
    assert said["tokens"] == ["<bos>", *PROMPT]
    assert said["text_offset"] == [0, *range(len(PROMPT))]


def test_echo_goes_on_with_what_is_written(client, tokenizer):
    ids = tokenizer(PROMPT)["input_ids"]
    how = {"prompt": ids, "max_tokens": 2, "temperature": 0, "logprobs": 0, "logit_bias": LETTERS}
    alone, both = (asked(client, PATH, **how, echo=echo)["choices"][0] for echo in (False, True))
    assert both["text"] == PROMPT + alone["text"]
    assert both["logprobs"]["token_logprobs"][-2:] == pytest.approx(alone["logprobs"]["token_logprobs"], abs=1e-5)
    assert len(both["logprobs"]["tokens"]) == len(ids) + 2
    assert both["logprobs"]["text_offset"][-2:] == [len(PROMPT), len(PROMPT) + 1]
    assert both["logprobs"]["top_logprobs"] is None


def test_every_form_of_prompt(client, tokenizer):
    ids = tokenizer(PROMPT)["input_ids"]
    how = {"max_tokens": 3, "temperature": 0, "return_token_ids": True}
    forms = [PROMPT, [PROMPT, PROMPT], ids, [ids, ids]]
    found = [asked(client, PATH, prompt=form, **how)["choices"] for form in forms]
    assert [len(one) for one in found] == [1, 2, 1, 2]
    assert [[choice["index"] for choice in some] for some in found] == [[0], [0, 1], [0], [0, 1]]
    assert len({tuple(choice["token_ids"]) for some in found for choice in some}) == 1
    assert all(choice["prompt_token_ids"] == ids for some in found for choice in some)


def test_choices_follow_from_the_seed_and_their_number(client):
    def texts(seed, n):
        choices = asked(client, PATH, prompt=PROMPT, max_tokens=8, seed=seed, n=n)["choices"]
        return [one["text"] for one in choices]

    three, five, other = texts(7, 3), texts(7, 5), texts(8, 3)
    assert five[:3] == three == texts(7, 3)
    assert len(set(five)) == 5
    assert other != three


def test_a_bias_decides_what_is_drawn_and_not_what_is_said_of_it(client, models):
    how = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logit_bias": {"80": 100}, "logprobs": 0}
    choice = asked(client, PATH, **how, return_token_ids=True)["choices"][0]
    assert choice["token_ids"] == [80, 80, 80]
    rows = table(models.policy, choice["prompt_token_ids"], [80, 80, 80])
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(of_tokens(rows, [80, 80, 80]), abs=1e-5)


def test_filters_are_those_of_the_search(client, pair):
    how = {"temperature": 0.8, "top_k": 20, "top_p": 0.7, "min_p": 0.05, "seed": 3}
    messages = [{"role": "user", "content": PROMPT}]
    found = asked(client, "/v1/chat/completions", messages=messages, max_tokens=6, return_token_ids=True, **how)
    own = pair.decode(PROMPT, method="sample", n=1, max_new_tokens=6, **how)[0].candidates[0]
    assert found["choices"][0]["token_ids"] == list(own.token_ids)


def test_rewards_are_those_of_scoring(client, pair):
    how = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "logit_bias": LETTERS, "return_token_ids": True}
    choice = asked(client, PATH, **how, logprobs=0, tokenq={"rewards": True, "alternatives": 2})["choices"][0]
    told, prompt, ids = choice["tokenq"], choice["prompt_token_ids"], choice["token_ids"]
    own, other = (
        of_tokens(table(lm, prompt, ids), ids) for lm in (pair.pair.models.policy, pair.pair.models.reference)
    )
    rewards = [0.2 * (a - b) for a, b in zip(own, other, strict=True)]
    assert told["beta"] == 0.2
    assert told["implicit_rewards"] == pytest.approx(rewards, abs=1e-5)
    assert told["ref_logprobs"] == pytest.approx(other, abs=1e-5)
    assert told["advantages"] == pytest.approx([0.2 * one for one in own], abs=1e-5)
    assert told["sequence_reward"] == pytest.approx(sum(rewards), abs=1e-5)
    rows = table(pair.pair.models.policy, prompt, ids)
    theirs = table(pair.pair.models.reference, prompt, ids)
    for some, row, other in zip(told["alternatives"], rows, theirs, strict=True):
        likely = dict.fromkeys([*row.topk(2).indices.tolist(), *other.topk(2).indices.tolist()])
        assert [one["id"] for one in some] == list(likely)
        for one in some:
            both = float(row[one["id"]]), float(other[one["id"]])
            assert (one["logprob"], one["ref_logprob"]) == pytest.approx(both, abs=1e-5)
            assert one["implicit_reward"] == pytest.approx(0.2 * (both[0] - both[1]), abs=1e-5)


def test_rewards_of_a_chat_are_those_of_its_trace(client):
    messages = [{"role": "user", "content": PROMPT}]
    how = {"messages": messages, "max_tokens": 5, "temperature": 0, "logit_bias": LETTERS}
    choice = asked(client, "/v1/chat/completions", **how, tokenq={"rewards": True})["choices"][0]
    trace = asked(
        client, "/trace", messages=[*messages, {"role": "assistant", "content": choice["message"]["content"]}]
    )
    assert choice["message"]["content"].islower()
    said = [one["implicit_reward"] for one in trace["tokens"]][:5]
    assert choice["tokenq"]["implicit_rewards"] == pytest.approx(said, abs=1e-5)


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"n": 2, "stop": ["e", "ab"]}], ids=["plain", "echo", "stop"])
def test_a_stream_says_what_a_whole_answer_says(client, more):
    how = {"prompt": [PROMPT, "A dog"], "max_tokens": 9, "seed": 5, "logprobs": 2, "return_token_ids": True, **more}
    how |= {"logit_bias": {str(one): 5 for one in range(71, 80)}, "tokenq": {"rewards": True}}
    whole = asked(client, PATH, **how)
    found = chunks(client, PATH, **how, stream_options={"include_usage": True})
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == whole["usage"]
    assert all(one["usage"] is None for one in found[:-1])
    for choice in whole["choices"]:
        own = [part for one in found for part in one["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        assert joined(part["token_ids"] for part in own) == choice["token_ids"]
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert close(joined(part["logprobs"][name] for part in own), choice["logprobs"][name])
        for name in ("implicit_rewards", "ref_logprobs", "advantages", "alternatives"):
            assert close(joined(part["tokenq"][name] for part in own), choice["tokenq"][name])
        assert close(own[-1]["tokenq"]["sequence_reward"], choice["tokenq"]["sequence_reward"])
