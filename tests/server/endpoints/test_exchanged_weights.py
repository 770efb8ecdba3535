"""Weights that are exchanged while the server runs, in the way of vLLM; the writer of a run writes through it."""

import threading

import pytest
from accelerate import Accelerator
from conftest import listening
from peft import LoraConfig, get_peft_model
from starlette.testclient import TestClient
from tiny import tiny_model
from told import asked, close, of_tokens, refused, table

import tokenq
import tokenq.jobs.rollout.served as served
from tokenq.judge.endpoint import Endpoint
from tokenq.models.forward.proof_cache import proven
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.rollout.config import OnlineConfig
from tokenq.search.branches import Limits
from tokenq.search.settings import Sampling
from tokenq.server.app import create_app
from tokenq.server.engine.engine import Engine

HOW = {"prompt": "The cat", "max_tokens": 4, "temperature": 0, "logprobs": 0, "return_token_ids": True}
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """A model, another one, and an adapter on the first."""
    root = tmp_path_factory.mktemp("weights")
    for name, seed in (("model", 0), ("other", 5)):
        tiny_model("llama", layers=1, seed=seed).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(tiny_model("llama", layers=1), config).save_pretrained(root / "adapter")
    return root


@pytest.fixture
def served_pair(folders, settings, tokenizer):
    """A client and the engine of a pair from a folder, with a reference in memory."""
    reader = tokenq.load(folders / "model", (tiny_model("llama", layers=1, seed=1), tokenizer), device="cpu")
    engine = Engine(reader)
    with TestClient(create_app(engine, settings), raise_server_exceptions=False) as client:
        yield client, engine
    engine.close()


def agrees(choice, lm):
    """Whether log-probs of a response are those of a model."""
    rows = table(lm, choice["prompt_token_ids"], choice["token_ids"])
    return choice["logprobs"]["token_logprobs"] == pytest.approx(of_tokens(rows, choice["token_ids"]), abs=1e-5)


def test_an_adapter_has_a_name_and_leaves_the_policy_alone(served_pair, folders):
    client, _ = served_pair
    before = asked(client, PATH, **HOW)["choices"]
    said = asked(client, "/v1/load_lora_adapter", lora_name="a1", lora_path=str(folders / "adapter"))
    assert said.startswith("Success")
    cards = client.get("/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in cards] == [("tiny", None), ("a1", "tiny")]
    spec = ModelSpec(str(folders / "model"), "float32", "cpu", adapter=str(folders / "adapter"))
    (own,) = asked(client, PATH, **HOW, model="a1", tokenq={"rewards": True})["choices"]
    assert agrees(own, open_model(spec).lm)
    assert own["tokenq"]["ref_logprobs"] != own["logprobs"]["token_logprobs"]
    assert close(asked(client, PATH, **HOW)["choices"], before)
    error = refused(client, "/v1/load_lora_adapter", lora_name="a1", lora_path=str(folders / "adapter"))
    assert "taken" in error["message"]
    error = refused(client, "/collective_rpc", method="reload_weights", kwargs={"weights_path": str(folders / "other")})
    assert "a1" in error["message"]
    asked(client, "/v1/unload_lora_adapter", lora_name="a1")
    refused(client, PATH, 404, **HOW, model="a1")
    refused(client, "/v1/unload_lora_adapter", 404, lora_name="a1")
    refused(client, "/v1/unload_lora_adapter", 404, lora_name="tiny")


def test_an_adapter_of_another_model_is_refused(served_pair, tmp_path):
    client, _ = served_pair
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(tiny_model("qwen3"), config).save_pretrained(tmp_path / "adapter")
    error = refused(client, "/v1/load_lora_adapter", lora_name="b", lora_path=str(tmp_path / "adapter"))
    assert error["param"] == "lora_path"
    assert len(client.get("/v1/models").json()["data"]) == 1


def test_other_weights_take_the_place_of_the_policys(served_pair, folders):
    client, _ = served_pair
    first = asked(client, PATH, **HOW)["choices"][0]
    asked(client, "/collective_rpc", method="reload_weights", kwargs={"weights_path": str(folders / "other")})
    asked(client, "/update_weight_version", new_version="7")
    answer = asked(client, PATH, **HOW)
    assert answer["weight_version"] == "7"
    assert agrees(answer["choices"][0], open_model(ModelSpec(str(folders / "other"), "float32", "cpu")).lm)
    assert answer["choices"][0]["logprobs"] != first["logprobs"]
    trace = asked(client, "/trace", prompt="The cat", response="sat")
    assert trace["policy"]["path"] == str(folders / "other")


@pytest.mark.integration
def test_requests_wait_while_weights_are_exchanged(served_pair):
    client, _ = served_pair
    assert asked(client, "/pause?mode=keep")["status"] == "paused"
    refused(client, "/pause?mode=abort")
    found = []
    thread = threading.Thread(target=lambda: found.append(asked(client, PATH, **HOW)))
    thread.start()
    thread.join(0.3)
    assert not found
    assert asked(client, "/resume")["status"] == "resumed"
    thread.join(5)
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2], ids=["reload", "lora"])
def test_an_online_run_writes_through_it(folders, settings, tokenizer, tmp_path, monkeypatch, rank):
    """Each round publishes, asks which weights the server has, writes, and compares log-probs with its own."""
    patient = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=2, backoff=0.001)
    monkeypatch.setattr(served, "PATIENCE", patient)
    model = tiny_model("llama", layers=1)
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    lm = proven(model, max_length=64, known=False)
    reader = tokenq.load(folders / "model", (tiny_model("llama", layers=1, seed=1), tokenizer), device="cpu")
    engine = Engine(reader)
    prompts = [[7, 11, 40, 50, 60], [8, 9, 10, 70]]
    with listening(create_app(engine, settings)) as url:
        how = {"model": str(folders / "model"), "output": str(tmp_path / "run"), "prompts": ["p"], "lora_rank": rank}
        config = OnlineConfig(writer=url, **how)
        policy = served.served_policy(config, lm, tokenizer, Limits((2,), 12), prompts, Accelerator(cpu=True), Told())
        for version in (1, 2):
            for one in (one for one in lm.model.parameters() if one.requires_grad):
                one.data += 0.02 * version
            policy.refresh(version)
            samples = policy.write(prompts, 2, Sampling(), version)
            assert [len(some) for some in samples] == [2, 2]
            for prompt, some in zip(prompts, samples, strict=True):
                for one in some:
                    own = of_tokens(table(lm, prompt, one.token_ids), one.token_ids)
                    assert list(one.logps) == pytest.approx(own, abs=1e-4)
    engine.close()


class Told:
    """A listener that is told nothing worth keeping."""

    def say(self, text):
        pass

    def __call__(self, event):
        pass
