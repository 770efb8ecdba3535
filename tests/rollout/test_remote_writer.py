"""A writer behind a server: what is sent, what comes back, and what is refused in words."""

import json
import math

import numpy as np
import pytest
from rollout.stub_engine import StubEngine, table
from tiny import tiny_model

from tokenq.errors import UserError
from tokenq.judge.endpoint import Endpoint
from tokenq.models.forward.proof_cache import proven
from tokenq.models.forward.stepper import ModelStepper
from tokenq.rollout.remote import RemoteWriter, find_server
from tokenq.rollout.writer import LocalWriter
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling

pytestmark = pytest.mark.integration

PROMPTS = [[4, 5, 6, 7], [8, 9, 10]]
ENDS = Limits((2,), 10)
PATIENCE = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=3, backoff=0.001)


@pytest.fixture(scope="module")
def lm():
    return proven(tiny_model("llama", layers=1, vocab_size=32), max_length=64)


@pytest.fixture
def engine(lm):
    found = StubEngine(lm, text=lambda ids: " ".join(map(str, ids)))
    yield found
    found.close()


def remote(engine, **more):
    server = find_server(engine.url, None, PATIENCE)
    return RemoteWriter(server, ENDS, 32, server.endpoint.model, **more)


def local(lm, limits=ENDS):
    return LocalWriter(lambda: ModelStepper(lm), limits)


def test_greedy_ids_are_those_of_the_local_writer(engine, lm):
    found = remote(engine).write(PROMPTS, 2, Sampling(temperature=0.0), 3)
    own = local(lm).write(PROMPTS, 2, Sampling(temperature=0.0), 3)
    for some, others in zip(found, own, strict=True):
        assert len(some) == 2
        for one, other in zip(some, others, strict=True):
            assert (one.token_ids, one.finish) == (other.token_ids, other.finish)
            assert one.logps == pytest.approx(other.logps, abs=1e-5)


def test_log_probs_are_those_of_the_policy_and_every_sample_has_a_seed(engine, lm):
    writer = remote(engine, version=7)
    found = writer.write(PROMPTS, 4, Sampling(temperature=0.8, top_p=0.9), 3)
    for prompt, some in zip(PROMPTS, found, strict=True):
        for one in some:
            rows = table(lm, prompt, list(one.token_ids))
            own = [float(row[token]) for row, token in zip(rows, one.token_ids, strict=True)]
            assert one.logps == pytest.approx(own, abs=1e-5)
            assert (one.kept_mass, one.logps_of, one.version) == (None, "model", 7)
            assert (one.finish == "stop") == (one.token_ids[-1] == 2)
    assert len({one.token_ids for one in found[0]}) > 1
    assert writer.write(PROMPTS, 4, Sampling(temperature=0.8, top_p=0.9), 3) == found
    assert writer.write(PROMPTS, 4, Sampling(temperature=0.8, top_p=0.9), 4) != found


def test_a_request_says_every_setting(engine):
    """So that neither the server nor the model's generation_config.json adds one of its own."""
    remote(engine).write(PROMPTS[:1], 3, Sampling(temperature=0.5), 0)
    path, body = engine.requests[-1]
    assert path == "/v1/completions"
    assert body["prompt"] == PROMPTS[0]
    said = {
        "n": 3,
        "max_tokens": 10,
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "stop_token_ids": [2],
    }
    said |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "return_token_ids": True}
    assert said.items() <= body.items()
    assert 0 <= body["seed"] < 2**31


def test_what_computes_is_named(engine):
    server = find_server(f"{engine.url}/v1/", None, PATIENCE)
    assert (server.engine, server.longest, server.root) == ("stub 1.2 float32 tiny", 128, engine.url)


def test_a_model_that_is_not_served_is_named(engine):
    with pytest.raises(UserError, match=r"Unknown model of the writer at .*'tinny'") as problem:
        find_server(engine.url, "tinny", PATIENCE)
    assert "'tiny'" in problem.value.hint


def test_nobody_answers():
    with pytest.raises(UserError, match=r"does not answer: no connection.*3 attempts"):
        find_server("http://127.0.0.1:9", None, PATIENCE)


def test_an_address_off_this_network_needs_a_key_of_its_own(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"The writer at .* needs a key") as problem:
        find_server("https://writer.example.com", None, PATIENCE)
    assert "VLLM_API_KEY" in problem.value.hint


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_asked_again(engine, status):
    writer = remote(engine)
    engine.behaviour.fails["/v1/completions"] = 2, status
    again = writer.write(PROMPTS[:1], 2, Sampling(), 0)
    assert again == writer.write(PROMPTS[:1], 2, Sampling(), 0)
    engine.behaviour.fails["/v1/completions"] = 3, status
    with pytest.raises(UserError, match=f"status {status}.*3 attempts") as problem:
        writer.write(PROMPTS[:1], 2, Sampling(), 0)
    assert "--resume" in problem.value.hint


def test_a_prompt_that_is_refused_is_not_sent_again(engine):
    writer = remote(engine)
    before = len(engine.requests)
    with pytest.raises(UserError, match="Token id 40 is out of vocabulary"):
        writer.write([[4, 40]], 1, Sampling(), 0)
    assert len(engine.requests) == before + 1


def without(name):
    return lambda choice: {key: value for key, value in choice.items() if key != name}


def put(**values):
    return lambda choice: {**choice, **values}


def logps(change):
    return lambda choice: {**choice, "logprobs": {"token_logprobs": change(choice["logprobs"]["token_logprobs"])}}


def cut(choice):
    return {**logps(lambda some: some[:-1])(choice), "token_ids": choice["token_ids"][:-1]}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("text-only", without("token_ids"), "returns text, and no token ids"),
        ("text-only", without("prompt_token_ids"), "returns text, and no token ids"),
        ("prompt-changed", put(prompt_token_ids=[1, 4, 5, 6, 7]), "another token at place 0"),
        ("prompt-changed", put(prompt_token_ids=[4, 5, 6]), "3 tokens for 4"),
        ("no-logps", put(logprobs=None), "no log-probs"),
        ("retokenised", logps(lambda some: some[:-1]), "log-probs for"),
        ("not-finite", logps(lambda some: [None, *some[1:]]), "not all finite"),
        ("not-finite", logps(lambda some: [math.nan, *some[1:]]), "not all finite"),
        ("no-finish", put(finish_reason=None), "None"),
        ("no-finish", put(finish_reason="abort"), "abort"),
        ("other-tokenizer", lambda one: put(token_ids=[32, *one["token_ids"][1:]])(one), "token 32.*policy has 32"),
        ("end-inside", lambda one: put(token_ids=[2, *one["token_ids"][1:]])(one), "at place 0"),
        ("end-missing", put(finish_reason="stop"), "finish is 'stop'"),
        ("length-wrong", cut, "9 tokens, and 10 were allowed"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(engine, name, change, said):
    """Of a response of ten tokens without an end, one thing is changed."""
    writer = remote(engine)
    seed = next(n for n in range(50) if writer.write(PROMPTS[:1], 1, Sampling(), n)[0][0].finish == "length")
    engine.behaviour.choice = change
    with pytest.raises(UserError, match=said) as problem:
        writer.write(PROMPTS[:1], 1, Sampling(), seed)
    assert problem.value.fault.name == name
    assert problem.value.hint
    assert engine.url in problem.value.message


def test_fewer_responses_than_were_asked_for(engine, monkeypatch):
    writer = remote(engine)
    monkeypatch.setattr(engine, "_drawn", lambda *given: [])
    with pytest.raises(UserError, match="fewer responses than were asked for: 0 for 2"):
        writer.write(PROMPTS[:1], 2, Sampling(), 0)


def test_a_stamp_of_the_server_is_the_version(engine):
    writer = remote(engine, version=9)
    for said, version in (("000007", 7), ("run-v000008", 8), ("default", 9)):
        engine.behaviour.stamp = lambda number, said=said: said
        assert writer.write(PROMPTS[:1], 1, Sampling(), 0)[0][0].version == version


def test_frequencies_are_those_of_the_local_writer(engine, lm):
    """First tokens of 400 samples each: every difference within four standard errors."""
    drawn = [writer.write(PROMPTS[:1], 400, Sampling(), 0)[0] for writer in (remote(engine), local(lm))]
    counts = [np.bincount([one.token_ids[0] for one in some], minlength=32) / 400 for some in drawn]
    chances = table(lm, PROMPTS[0], [0])[0].exp().numpy()
    for found in counts:
        assert (np.abs(found - chances) <= 4 * np.sqrt(chances * (1 - chances) / 400) + 1e-9).all()


def test_a_response_goes_to_json_as_it_is(engine):
    one = remote(engine, version=3).write(PROMPTS[:1], 1, Sampling(), 0)[0][0]
    assert json.loads(json.dumps(one._asdict()))["logps"] == list(one.logps)
