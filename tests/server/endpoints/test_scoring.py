"""Endpoints that read: each number is that of a trace, or of the reward model read by itself."""

import json

import pytest
import torch
from starlette.testclient import TestClient
from told import asked, refused
from transformers import LlamaForSequenceClassification

import tokenq
from tokenq.files import plain
from tokenq.records.traces import TokenTrace
from tokenq.server.app import create_app
from tokenq.server.engine.engine import Engine

QUERY, DOCUMENTS = "The cat", ["sat", "ran home", "is it?"]


def trace_of(pair, prompt, response):
    rows, _ = pair.rows([pair.example(prompt, response)])
    return next(iter(pair.traces(rows)))[0]


@pytest.fixture(scope="module")
def rewarded(pair, settings, tokenizer):
    """A client of a pair with a reward model of two outputs, and the model."""
    config = pair.pair.models.policy.lm.config.to_dict() | {"num_labels": 2, "id2label": {0: "good", 1: "short"}}
    config = type(pair.pair.models.policy.lm.config).from_dict(config | {"label2id": {"good": 0, "short": 1}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForSequenceClassification(config).eval()
        torch.nn.init.normal_(model.score.weight)
    weights = {"good": "1", "short": "-0.5"}
    policy, reference = ((one.lm, tokenizer) for one in (pair.pair.models.policy, pair.pair.models.reference))
    del policy, reference
    reader = tokenq.load(
        pair_of(pair, tokenizer)[0],
        pair_of(pair, tokenizer)[1],
        reward_model=(model, tokenizer),
        reward_weights=weights,
        dtype="float32",
        device="cpu",
    )
    engine = Engine(reader)
    with TestClient(create_app(engine, settings), raise_server_exceptions=False) as client:
        yield client, model
    engine.close()


def pair_of(pair, tokenizer):
    from tiny import tiny_model

    return [(tiny_model("llama", layers=1, seed=seed), tokenizer) for seed in (0, 1)]


def test_a_trace_is_what_scoring_keeps(client, pair):
    own = trace_of(pair, QUERY, "sat 😀")
    found = asked(client, "/trace", prompt=QUERY, response="sat 😀")
    assert found == json.loads(json.dumps(plain(own.to_dict())))
    assert TokenTrace.from_dict(found).to_dict()["tokens"] == own.to_dict()["tokens"]


def test_a_trace_has_the_alternatives_and_levels_that_are_asked_for(client):
    found = asked(client, "/trace", prompt=QUERY, response="sat. ran", top_k=2, levels=["sentence"])
    assert all(len(one["likely"]) == 2 for one in found["tokens"])
    assert {one["level"] for one in found["spans"]} == {"sentence"}


def test_a_conversation_is_read_at_its_last_turn(client):
    talk = [{"role": "user", "content": QUERY}, {"role": "assistant", "content": "sat"}]
    both = asked(client, "/trace", messages=talk), asked(client, "/trace", prompt=QUERY, response="sat")
    assert both[0]["totals"] == both[1]["totals"]
    assert asked(client, "/trace", prompt=talk[:1], response="sat")["totals"] == both[0]["totals"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_stand_in_the_order_of_their_rewards(client, pair, path):
    traces = [trace_of(pair, QUERY, one) for one in DOCUMENTS]
    found = asked(client, path, query=QUERY, documents=DOCUMENTS, return_documents=True)["results"]
    rewards = {place: one.totals.implicit_reward for place, one in enumerate(traces)}
    assert [one["index"] for one in found] == sorted(rewards, key=rewards.__getitem__, reverse=True)
    for one in found:
        assert one["relevance_score"] == pytest.approx(rewards[one["index"]], abs=1e-5)
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}
        assert one["tokenq"]["logp"] == pytest.approx(traces[one["index"]].totals.logp, abs=1e-5)


def test_other_rankings(client, pair):
    totals = [trace_of(pair, QUERY, one).totals for one in DOCUMENTS]
    for name, worth in (
        ("mean_reward", lambda one: one.implicit_reward / one.tokens),
        ("likelihood", lambda one: one.logp),
        ("mean_likelihood", lambda one: one.logp / one.tokens),
    ):
        found = asked(client, "/rerank", query=QUERY, documents=[{"text": one} for one in DOCUMENTS], ranking=name)
        said = {one["index"]: one["relevance_score"] for one in found["results"]}
        assert [said[place] for place in range(3)] == pytest.approx([worth(one) for one in totals], abs=1e-5)
    best = asked(client, "/rerank", query=QUERY, documents=DOCUMENTS, top_n=1)["results"]
    assert len(best) == 1
    assert "document" not in best[0]


def test_all_documents_go_through_the_model_in_one_group(client, pair, monkeypatch):
    seen = []
    policy = pair.pair.models.policy
    forward = type(policy).logits
    monkeypatch.setattr(
        type(policy), "logits", lambda self, batch, *more: seen.append(batch) or forward(self, batch, *more)
    )
    asked(client, "/rerank", query=QUERY, documents=DOCUMENTS * 5)
    assert len(seen) == 2  # one of the policy, one of the reference
    prefixes = [(one.prefix_start, one.prefix_stop) for one in seen[0].segments if one.prefix_stop > one.prefix_start]
    assert len(prefixes) == 5 * len(DOCUMENTS) - 1  # the first stands behind the query itself
    assert len(set(prefixes)) == 1


def test_scores_are_rewards_in_the_order_of_the_pairs(client, pair):
    own = [trace_of(pair, QUERY, one).totals.implicit_reward for one in DOCUMENTS]
    found = asked(client, "/score", text_1=QUERY, text_2=DOCUMENTS)
    assert [one["score"] for one in found["data"]] == pytest.approx(own, abs=1e-5)
    assert found["comparable"] is True
    queries = [QUERY, "A dog", QUERY]
    found = asked(client, "/v1/score", queries=queries, documents=DOCUMENTS)
    own = [trace_of(pair, *one).totals.implicit_reward for one in zip(queries, DOCUMENTS, strict=True)]
    assert [one["score"] for one in found["data"]] == pytest.approx(own, abs=1e-5)
    assert found["comparable"] is False


def test_rewards_in_the_way_of_openrlhf(client, pair, tokenizer):
    from tokenq.records.examples import Example, Response

    prompts, responses = ["The ", "A "], ["cat", "dog"]
    texts = [a + b for a, b in zip(prompts, responses, strict=True)]
    found = asked(client, "/get_reward", query=[texts[0], texts[1] + tokenizer.eos_token], prompts=prompts)
    examples = [Example(a, (Response(b),), False, "x") for a, b in zip(prompts, responses, strict=True)]
    own = [trace.totals.implicit_reward for row in pair.traces(pair.rows(examples)[0]) for trace in row]
    assert found["rewards"] == found["scores"] == pytest.approx(own, abs=1e-5)


def test_a_reward_model_says_what_transformers_says(rewarded, tokenizer):
    client, model = rewarded
    ids = tokenizer("The cat")["input_ids"]
    with torch.no_grad():
        own = model(torch.tensor([ids])).logits[0].tolist()
    for given in ("The cat", ids):
        (found,) = asked(client, "/classify", input=given)["data"]
        assert found["probs"] == pytest.approx(own, abs=1e-4)
        assert (found["num_classes"], found["label"]) == (2, "good" if own[0] > own[1] else "short")
    (found,) = asked(client, "/classify", input="The cat", use_activation=True)["data"]
    assert found["probs"] == pytest.approx(torch.tensor(own).softmax(-1).tolist(), abs=1e-4)
    (pooled,) = asked(client, "/pooling", input=["The cat"])["data"]
    assert len(pooled["data"]) == len(ids)
    assert pooled["data"][-1] == pytest.approx(own, abs=1e-4)
    with torch.no_grad():
        own = model(torch.tensor([[*ids, tokenizer.eos_token_id]])).logits[0].tolist()
    (reward,) = asked(client, "/get_reward", query="The cat")["rewards"]
    assert reward == pytest.approx(own[0] - 0.5 * own[1], abs=1e-4)


def test_a_search_and_a_ranking_ask_the_reward_model(rewarded):
    client, _ = rewarded
    found = asked(client, "/rerank", query=QUERY, documents=DOCUMENTS, ranking="value")["results"]
    assert [one["relevance_score"] for one in found] == [one["tokenq"]["reward"] for one in found]
    messages = [{"role": "user", "content": QUERY}]
    how = {"method": "best_of_n", "n": 3, "ranking": "value"}
    answer = asked(client, "/v1/chat/completions", messages=messages, max_tokens=3, n=3, tokenq=how)
    scores = [one["tokenq"]["score"] for one in answer["choices"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["tokenq"]["objective"] == "value"


def test_tokens_there_and_back(client, tokenizer):
    found = asked(client, "/tokenize", prompt="cat 😀", return_token_strs=True)
    assert found["tokens"] == tokenizer("cat 😀")["input_ids"]
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 256)
    assert found["token_strs"][:4] == ["<bos>", "c", "a", "t"]
    assert asked(client, "/tokenize", prompt="cat", add_special_tokens=False)["count"] == 3
    assert asked(client, "/detokenize", tokens=found["tokens"])["prompt"] == "<bos>cat 😀"
    turns = asked(client, "/tokenize", messages=[{"role": "user", "content": "x"}])["tokens"]
    assert tokenizer.decode(turns).endswith("<|im_start|>assistant\n")
    assert refused(client, "/tokenize", messages=[{"role": "user", "content": "x"}], add_generation_prompt=False)
