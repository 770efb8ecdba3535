"""`tokenq doctor --writer`: an honest server, and findings of others by their names."""

import json

import pytest
from rollout.stub_engine import Behaviour, StubEngine
from tiny import tiny_model, tiny_tokenizer

import tokenq
import tokenq.jobs.doctor.writer as examined
from tokenq.cli.main import main
from tokenq.judge.endpoint import Endpoint
from tokenq.search.settings import Sampling

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("examined")
    for name, seed, size in (("model", 0, 288), ("other", 1, 288), ("small", 0, 280), ("large", 0, 300)):
        tiny_model("llama", layers=1, seed=seed, vocab_size=size).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    return root


@pytest.fixture
def serve(place, monkeypatch):
    patient = Endpoint("", role="writer", key_variable="VLLM_API_KEY", attempts=2, backoff=0.001)
    monkeypatch.setattr(examined, "PATIENCE", patient)
    engines = []

    def served(name="model", **how):
        engines.append(StubEngine(str(place / name)))
        engines[-1].behaviour = Behaviour(**how)
        return engines[-1]

    yield served
    for engine in engines:
        engine.close()


def names(found):
    return {one.name: one.severity for one in found.findings}


def test_an_honest_server_agrees(place, serve, tmp_path, capsys):
    engine = serve()
    words = ["doctor", "--writer", engine.url, "--policy", place / "model", "--device", "cpu"]
    assert (
        main([*map(str, words), "--output", str(tmp_path / "found.json"), "--html", str(tmp_path / "page.html")]) == 0
    )
    said = capsys.readouterr().out
    assert "writer-agrees" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["examined"] == f"{engine.url}/v1"
    assert [one["name"] for one in found["findings"]] == ["writer-agrees"]
    values = {one["what"]: one["value"] for one in found["findings"][0]["evidence"]}
    assert values["largest |Δ log π|, nats"] < 1e-4
    assert values["share of ratios outside [.9, 1.1]"] == 0


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("other", {}, "other-weights"),
        ("small", {}, "other-tokenizer"),
        pytest.param(*("large", {}, "other-tokenizer"), marks=pytest.mark.slow),
        pytest.param(*("model", {"text_only": True}, "text-only"), marks=pytest.mark.slow),
        ("model", {"own": Sampling(top_p=0.8), "processed": True}, "top-p"),
        pytest.param(
            *("model", {"own": Sampling(temperature=0.6), "processed": True}, "temperature"), marks=pytest.mark.slow
        ),
        ("model", {"tokens": [1, 2, 3]}, "template-drift"),
    ],
)
def test_others_are_found_by_their_names(place, serve, name, how, expected):
    found = tokenq.examine(writer=serve(name, **how).url, policy=str(place / "model"), device="cpu", max_new_tokens=16)
    assert names(found)[expected] == ("warning" if expected == "template-drift" else "error")


def test_log_probs_of_the_sampler_are_a_warning(place, serve):
    found = tokenq.examine(
        writer=serve(processed=True).url, policy=str(place / "model"), device="cpu", max_new_tokens=16
    )
    assert names(found) == {"logps-of-sampler": "warning"}


def test_a_writer_needs_a_policy_and_nothing_else(place, capsys):
    assert main(["doctor", "--writer", "http://h"]) == 2
    assert main(["doctor", "--policy", str(place / "model"), "--writer-model", "m", "--data", "x"]) == 2
    assert "--writer-model without a --writer" in capsys.readouterr().err
