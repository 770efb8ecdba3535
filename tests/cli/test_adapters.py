"""Adapters on the command line: a run that began from one, a base that has moved, layers on the head."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tokenq.cli.main import main
from tokenq.models.load import ModelSpec, add_lora
from tokenq.records.trace_files import read_traces
from tokenq.runs.places import models_of_run

# peft tells of layers that are tied, which is what is tried here.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*shared tensor", "ignore:Model.*tie_word_embeddings"),
]

PROMPT, RESPONSE = "Question: how many are there?", " Answer: 1 2 3."
ROWS = [{"prompt": f"the cat saw {n}", "chosen": " a bird.", "rejected": f" the dog {n}."} for n in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tied base, an adapter for it whose weights have moved, pairs, and a run that began from the adapter."""
    root = tmp_path_factory.mktemp("adapters")
    tiny_model("gemma3").save_pretrained(root / "base")
    tiny_tokenizer().save_pretrained(root / "base")
    model = AutoModelForCausalLM.from_pretrained(root / "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets=["q_proj", "lm_head"])
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
    adapted.save_pretrained(root / "adapter", save_embedding_layers=False)
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert train(root, "run", "--model", str(root / "base"), "--adapter", str(root / "adapter")) == 0
    return root


def train(root, run, *words):
    options = ["--learning-rate", "3e-2", "--batch-size", "4", "--max-steps", "3", "--schedule", "constant"]
    options += ["--device", "cpu", "--reference-store", "off"]
    return main(["train", "--data", str(root / "pairs.jsonl"), "--output", str(root / run), *options, *words])


def logp(model, tokenizer, response=RESPONSE):
    """Return log π of the response by one forward of the model, its EOS included."""
    prompt = tokenizer(PROMPT).input_ids
    ids = [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    row = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        logps = model(input_ids=row).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt), row.shape[1])
    return float(logps[places - 1, row[0, places]].sum())


def peft_logp(base, folder):
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return logp(model.eval(), tiny_tokenizer())


def read_by(root, name, *words):
    """Return (log π, log π_ref) of the response as `tokenq score` has them."""
    given = ["--prompt", PROMPT, "--response", RESPONSE, "--output", str(root / f"{name}.jsonl"), "--device", "cpu"]
    assert main(["score", *words, *given]) == 0
    totals = next(iter(read_traces(root / f"{name}.jsonl"))).totals
    return totals.logp, totals.ref_logp


def test_a_run_that_began_from_an_adapter_is_read_against_base_and_adapter(place):
    """Before, the reference was the bare base, which is nats away."""
    own, other = read_by(place, "run-traces", "--run", str(place / "run"))
    assert own == pytest.approx(peft_logp(place / "base", place / "run" / "policy"), abs=1e-4)
    assert other == pytest.approx(peft_logp(place / "base", place / "adapter"), abs=1e-4)
    bare = logp(AutoModelForCausalLM.from_pretrained(place / "base").eval(), tiny_tokenizer())
    assert abs(other - bare) > 0.5


def test_a_search_of_that_run_has_the_same_reference(place):
    words = ["--run", str(place / "run"), "--prompt", PROMPT, "--method", "sample", "--n", "2", "--max-new-tokens", "5"]
    assert main(["search", *words, "--output", str(place / "found.jsonl"), "--device", "cpu"]) == 0
    found = json.loads((place / "found.jsonl").read_text())
    for candidate in found["candidates"]:
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "base"), place / "adapter")
        ids = candidate["token_ids"]
        prompt = tiny_tokenizer()(PROMPT).input_ids
        with torch.no_grad():
            logps = model.eval()(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        want = [float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)]
        np.testing.assert_allclose(candidate["ref_logps"], want, atol=1e-4)


def test_the_models_of_a_run_keep_revision_and_adapter(place):
    folder = place / "noted"
    shutil.copytree(place / "run", folder)
    record = json.loads((folder / "provenance.json").read_text())
    record["config"]["revision"] = "v2"
    (folder / "provenance.json").write_text(json.dumps(record))
    made = models_of_run(str(folder), ModelSpec("", trust_remote_code=True))
    assert made.reference is not None
    assert made.reference.revision == "v2"
    assert made.reference.adapter == str(place / "adapter")
    assert made.reference.trust_remote_code


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["v_proj", "embed_tokens"]])
def test_an_adapter_on_head_or_embedding_comes_back(targets, place):
    name = "-".join(targets)
    words = ["--model", str(place / "base"), "--lora-rank", "2", "--lora-targets", *targets]
    assert train(place, name, *words) == 0
    want = peft_logp(place / "base", place / name / "policy")
    own, _ = read_by(place, f"{name}-traces", "--run", str(place / name))
    assert own == pytest.approx(want, abs=1e-4)
    again = ["--model", str(place / name / "policy"), "--lora-rank", "2"]
    assert train(place, f"{name}-on", *again) == 0
    _, other = read_by(place, f"{name}-on-traces", "--run", str(place / f"{name}-on"))
    assert other == pytest.approx(want, abs=1e-4)


@pytest.fixture
def moved(place, tmp_path):
    """The adapter in a folder of its own, which names a base on another machine."""
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/mnt/elsewhere/models/base"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return str(tmp_path / "adapter")


def commands(place, adapter, folder):
    """Return every command that opens an adapter, with what it needs besides."""
    pairs, prompt = str(place / "pairs.jsonl"), ["--prompt", PROMPT]
    short = ["--learning-rate", "1e-3", "--max-steps", "1", "--reference-store", "off"]
    (folder / "asked.jsonl").write_text(json.dumps({"prompt": PROMPT, "answer": "3"}) + "\n")
    sweep = ["--prompts", str(folder / "asked.jsonl"), "--gold", "answer", "--answer", "last_number"]
    sweep += ["--settings", "greedy", "--pool", "2", "--max-new-tokens", "3", "--output", str(folder / "swept")]
    trained = ["--data", pairs, "--output", str(folder / "run"), *short]
    return {
        "score": ["score", "--policy", adapter, *prompt, "--response", RESPONSE],
        "search": ["search", "--policy", adapter, *prompt, "--max-new-tokens", "3"],
        "eval": ["eval", "preference", "--policy", adapter, "--data", pairs],
        "sweep": ["sweep", "--policy", adapter, *sweep],
        "doctor": ["doctor", "--policy", adapter, "--data", pairs],
        "train": ["train", "--model", adapter, *trained],
        "train against": ["train", "--model", str(place / "base"), "--reference", adapter, *trained],
    }


@pytest.mark.parametrize("command", ["score", "search", "eval", "sweep", "doctor", "train", "train against"])
def test_a_base_that_has_moved_is_named(command, place, moved, tmp_path, capsys):
    words = [*commands(place, moved, tmp_path)[command], "--device", "cpu"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "was made for /mnt/elsewhere/models/base, which is not here" in said
    assert "--base MODEL" in said
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert main([*words, "--base", str(place / "base")]) in ((0, 1) if command == "doctor" else (0,))


def test_what_is_exported_names_its_base_for_good(place, moved, tmp_path, monkeypatch):
    """A relative base path, and the dead one of the adapter that training began from, are written down absolute."""
    monkeypatch.chdir(place)
    assert train(place, str(tmp_path / "run"), "--model", "base", "--adapter", moved) == 0
    config = json.loads((tmp_path / "run" / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place / "base")


def test_the_reason_of_a_foreign_error_is_told(place, tmp_path, capsys):
    """torch's first line is a heading; the sizes that do not match stand in the second."""
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    assert main(["score", "--policy", str(tmp_path / "adapter"), "--prompt", "a", "--response", "b"]) == 2
    assert "size mismatch for" in capsys.readouterr().err
