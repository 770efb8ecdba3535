"""Searches behind a chat are those of `tokenq.decode`, and what a method does not look at is refused as there."""

import pytest
from told import asked, chunks, refused

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "The cat"}]
METHODS = [
    {"method": "greedy"},
    {"method": "beam", "width": 3},
    {"method": "beam", "width": 2, "objective": "reward"},
    {"method": "best_of_n", "n": 3},
    {"method": "mcts", "simulations": 4, "children": 3},
    {"method": "lookahead", "width": 2, "lookahead_top_k": 3},
    {"method": "majority", "n": 3, "answer": "last_number"},
]


@pytest.mark.parametrize("how", METHODS, ids=[one["method"] + one.get("objective", "") for one in METHODS])
def test_a_search_finds_what_it_finds_in_process(client, pair, how):
    drawn = {"temperature": 0.9} if how["method"] in ("best_of_n", "mcts", "majority") else {}
    answer = asked(
        client, PATH, messages=MESSAGES, max_tokens=5, seed=2, n=2, logprobs=True, return_token_ids=True, **drawn,
        tokenq={**how, "rewards": True},
    )  # fmt: skip
    own = pair.decode("The cat", max_new_tokens=5, seed=2, **drawn, **how)[0]
    assert answer["tokenq"]["method"] == how["method"]
    assert answer["tokenq"]["objective"] == own.objective
    assert answer["tokenq"]["cost"]["policy_tokens"] == own.cost.policy_tokens
    for choice, one in zip(answer["choices"], own.candidates, strict=False):
        assert choice["message"]["content"] == one.text
        assert choice["token_ids"] == list(one.token_ids)
        assert choice["tokenq"]["score"] == pytest.approx(one.score, abs=1e-5)
        assert [t["logprob"] for t in choice["logprobs"]["content"]] == pytest.approx(one.logps, abs=1e-5)
        assert choice["tokenq"]["ref_logprobs"] == pytest.approx(one.ref_logps, abs=1e-5)
        assert choice["finish_reason"] == ("stop" if one.terminal else "length")
    assert len(answer["choices"]) == min(2, len(own.candidates))


def test_completions_are_searched_as_texts(client):
    how = {"prompt": ["The cat", "A dog"], "max_tokens": 4, "tokenq": {"method": "beam", "width": 2, "tree": True}}
    answer = asked(client, "/v1/completions", **how)
    assert [one["index"] for one in answer["choices"]] == [0, 1]
    assert [one["method"] for one in answer["tokenq"]] == ["beam", "beam"]
    assert answer["tokenq"][0]["tree"]["parents"][0] == -1


def test_a_stream_says_how_far_it_is_and_then_the_same(client):
    how = {"messages": MESSAGES, "max_tokens": 5, "tokenq": {"method": "beam", "width": 2}}
    whole, found = asked(client, PATH, **how), chunks(client, PATH, **how)
    told = [one["tokenq"] for one in found if not one["choices"]]
    assert all(set(one["progress"]) == {"done", "whole"} for one in told[:-1])
    assert told[0]["progress"]["whole"] == 1000
    assert told[-1]["method"] == "beam"
    content = "".join(part["delta"].get("content") or "" for one in found for part in one["choices"])
    assert content == whole["choices"][0]["message"]["content"]


BAD = [
    ({"method": "beem"}, {}, "tokenq.method", "Did you mean 'beam'?"),
    ({"width": 3}, {}, "tokenq.width", "tokenq.method is missing"),
    ({"method": "beam", "n": 3}, {}, "tokenq.n", "no effect on the method beam"),
    ({"method": "beam"}, {"temperature": 0.5}, "temperature", "no effect on the method beam"),
    ({"method": "beam", "width": 0}, {}, "tokenq.width", ""),
    ({"method": "best_of_n", "n": 1000}, {}, "tokenq.n", "128"),
    ({"method": "best_of_n", "ranking": "value"}, {}, None, "reward"),
    ({"method": "majority"}, {}, None, "answer"),
    ({"method": "beam", "proxy": "small"}, {}, None, "small"),
    ({"method": "beam"}, {"stop": "x"}, "stop", "search"),
    ({"method": "beam"}, {"logit_bias": {"5": 1}}, "logit_bias", "search"),
    ({"method": "beam"}, {"logprobs": True, "top_logprobs": 2}, "top_logprobs", "alternatives"),
    ({"method": "beam", "width": 2.5}, {}, "tokenq.width", ""),
]


@pytest.mark.parametrize(("how", "more", "param", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_a_search_does_not_do_is_refused(client, how, more, param, said):
    error = refused(client, PATH, messages=MESSAGES, max_tokens=3, tokenq=how, **more)
    assert said in error["message"]
    if param is not None:
        assert error["param"] == param


def test_token_ids_cannot_be_searched(client):
    assert refused(client, "/v1/completions", prompt=[5, 6], tokenq={"method": "beam"})["param"] == "prompt"
