"""`tokenq export`: what is written loads with the numbers of the run, says truly what it is, and goes to the hub."""

import inspect
import json
import os
import re
import shutil
from dataclasses import MISSING, fields

import pytest
import torch
import yaml
from forked import done
from hub_stand_in import hub
from huggingface_hub import constants
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tokenq
from tokenq.cli.export import ExportConfig
from tokenq.cli.main import main
from tokenq.errors import UserError

# accelerate and transformers tell that tied weights are written once.
pytestmark = pytest.mark.filterwarnings("ignore:.*shared tensor")

PAIRS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}."} for n in range(8)]
SHORT = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "keep_checkpoints": 9, "batch_size": 4, "device": "cpu"}
SHORT |= {"learning_rate": 1e-2, "schedule": "constant", "eval_size": 2}
IDS = torch.arange(4, 28)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs: of all weights, of an adapter, of a reward model, and one without held-out numbers or checkpoints."""
    root = tmp_path_factory.mktemp("export")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer("bytes").save_pretrained(root / "model")
    (root / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    data = root / "pairs.jsonl"
    tokenq.train(root / "model", data, root / "full", beta=0.3, **SHORT)
    tokenq.train(root / "model", data, root / "lora", lora_rank=2, **SHORT)
    tokenq.train(root / "model", data, root / "rewards", loss="bradley_terry", **SHORT)
    bare = {"max_steps": 1, "keep_checkpoints": 0, "device": "cpu"}
    tokenq.train(root / "model", data, root / "bare", **bare)
    return root


def logits(folder, load=AutoModelForCausalLM):
    with torch.no_grad():
        return load.from_pretrained(folder, dtype=torch.float32)(IDS).logits


def same_files(one, two):
    return {path.name: path.read_bytes() for path in one.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in two.iterdir() if path.is_file()
    }


def run_card(folder, monkeypatch, capsys):
    """Run the code of a model card from the folder that holds the model's, and return its front matter."""
    text = (folder / "README.md").read_text()
    monkeypatch.chdir(folder.parent)
    capsys.readouterr()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_its_keywords_are_the_flags_of_the_command():
    signature = inspect.signature(tokenq.export).parameters
    assert {*signature} == {one.name for one in fields(ExportConfig)} | {"listener"}
    for one in fields(ExportConfig):
        assert signature[one.name].default == (inspect.Parameter.empty if one.default is MISSING else one.default)


def test_a_checkpoint_goes_out_as_it_is_with_a_card_that_is_true(place, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(["export", str(place / "full"), "--output", str(out), "--step", "2"]) == 0
    source = place / "full" / "checkpoints" / "step-2"
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert {path.name for path in source.iterdir()} - {path.name for path in out.iterdir()} == {
        "state",
        "tokenq_state.json",
    }
    head, text = run_card(out, monkeypatch, capsys)
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["tokenq", "dpo"],
    }
    lines = [json.loads(line) for line in (place / "full" / "metrics.jsonl").read_text().splitlines()]
    (found,) = (line for line in lines if line["step"] == 2 and "eval_loss" in line)
    for row in (
        "| data | pairs.jsonl |",
        "| steps | 2 |",
        "| beta | 0.3 |",
        f"| eval\\_loss | {found['eval_loss']:.4g} |",
    ):
        assert row in text
    assert str(place) not in text


def test_the_end_of_the_run_and_its_best_checkpoint(place, tmp_path):
    last = tokenq.export(place / "full", tmp_path / "last")
    assert (last / "model.safetensors").read_bytes() == (place / "full" / "policy" / "model.safetensors").read_bytes()
    best = tokenq.export(place / "full", tmp_path / "best", best=True)
    lines = [json.loads(line) for line in (place / "full" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"]}
    step = min(losses, key=losses.get)
    source = place / "full" / "checkpoints" / f"step-{step}"
    assert (best / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    of_checkpoint = tokenq.export(source, tmp_path / "checkpoint")
    assert same_files(of_checkpoint, tokenq.export(place / "full", tmp_path / "other" / "checkpoint", step=step))


def test_an_adapter_is_merged_to_the_same_numbers(place, tmp_path, monkeypatch, capsys):
    out = tokenq.export(place / "lora", tmp_path / "merged", step=2, merge=True)
    assert not list(out.glob("adapter*"))
    want = logits(place / "lora" / "checkpoints" / "step-2", AutoPeftModelForCausalLM).log_softmax(-1)
    torch.testing.assert_close(logits(out).log_softmax(-1), want, rtol=0, atol=3e-5)
    assert (want - logits(place / "model").log_softmax(-1)).abs().max() > 1e-3
    assert run_card(out, monkeypatch, capsys)[0]["library_name"] == "transformers"
    kept = tokenq.export(place / "lora", tmp_path / "kept")
    assert (kept / "adapter_model.safetensors").exists()
    assert run_card(kept, monkeypatch, capsys)[0]["library_name"] == "peft"


@pytest.mark.parametrize("name", ["full", "lora", "rewards"])
def test_the_type_of_the_weights_is_what_was_asked_for(place, tmp_path, name):
    out = tokenq.export(place / name, tmp_path / "half", dtype="bfloat16")
    source = place / name / ("reward_model" if name == "rewards" else "policy")
    (file,) = out.glob("*.safetensors")
    stored, written = load_file(source / file.name), load_file(file)
    assert stored.keys() == written.keys()
    assert all(torch.equal(stored[one].bfloat16(), written[one]) for one in stored)
    if name != "lora":
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.integration
def test_a_merge_is_of_the_type_of_its_base(place, tmp_path):
    tiny_model("llama", layers=1, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "model")
    tokenq.train(tmp_path / "model", place / "pairs.jsonl", tmp_path / "run", lora_rank=2, **SHORT)
    merged = AutoModelForCausalLM.from_pretrained(
        tokenq.export(tmp_path / "run", tmp_path / "a", merge=True), dtype="auto"
    )
    assert merged.dtype == torch.bfloat16
    whole = tokenq.export(tmp_path / "run", tmp_path / "b", merge=True, dtype="float32")
    want = logits(tmp_path / "run" / "policy", AutoPeftModelForCausalLM).log_softmax(-1)
    torch.testing.assert_close(logits(whole).log_softmax(-1), want, rtol=0, atol=3e-5)


def test_a_reward_model_goes_out_as_one(place, tmp_path, monkeypatch, capsys):
    out = tokenq.export(place / "rewards", tmp_path / "rewards", step=4)
    torch.testing.assert_close(
        logits(out, AutoModelForSequenceClassification),
        logits(place / "rewards" / "reward_model", AutoModelForSequenceClassification),
        rtol=0,
        atol=1e-6,
    )
    assert run_card(out, monkeypatch, capsys)[0]["pipeline_tag"] == "text-classification"


BAD = {
    "a step that is not there": ("full", {"step": 3}, r"no checkpoint of step 3\.\n  There are .* steps 2, 4"),
    "a step of none": ("bare", {"step": 3}, r"no checkpoint of step 3\.\n  It kept none"),
    "no held-out numbers": ("bare", {"best": True}, r"has no held-out numbers to be best by \(eval_loss\)"),
    "both": ("full", {"best": True, "step": 2}, "--step and --best are both given"),
    "no adapter": ("full", {"merge": True}, "holds no adapter that could be merged"),
    "no run": ("model", {}, "holds no run"),
    "no token": ("full", {"push_to_hub": "me/x"}, "needs a token of the hub"),
    "no id": ("full", {"push_to_hub": "me/x/y"}, "--push-to-hub me/x/y"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_cannot_be_is_an_error_before_anything_is_written(place, tmp_path, monkeypatch, case):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tokenq.jobs.export.get_token", lambda: None)
    run, settings, says = BAD[case]
    with pytest.raises(UserError, match=says):
        tokenq.export(place / run, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_not_ended_names_its_checkpoints(place, tmp_path):
    shutil.copytree(place / "full", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policy")
    with pytest.raises(UserError, match=r"has not ended\.\n  Export a checkpoint with --step N: 2, 4"):
        tokenq.export(tmp_path / "run", tmp_path / "out")
    tokenq.export(tmp_path / "run", tmp_path / "out", step=4)


def test_the_best_of_the_log_that_was_not_kept_is_said(place, tmp_path):
    shutil.copytree(place / "full", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"]}
    step = min(losses, key=losses.get)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step}")
    said = []
    tokenq.export(tmp_path / "run", tmp_path / "out", best=True, listener=Told(said))
    assert f"eval_loss was best at step {step}, which was not kept" in said[0]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=f"eval_loss was best at step {step}, which was not kept"):
        tokenq.export(tmp_path / "run", tmp_path / "out", best=True)


class Told:
    def __init__(self, said):
        self.say = said.append

    def __call__(self, event):
        pass


def test_only_a_folder_of_its_own_is_replaced(place, tmp_path):
    out = tokenq.export(place / "full", tmp_path / "out", step=2)
    before = (out / "model.safetensors").read_bytes()
    tokenq.export(place / "full", out)
    assert (out / "model.safetensors").read_bytes() != before
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="tokenq export did not write it"):
        tokenq.export(place / "full", other)
    assert (other / "mine.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is a file"):
        tokenq.export(place / "full", other / "mine.txt")
    tokenq.export(place / "full", other, overwrite=True)
    assert not (other / "mine.txt").exists()


@pytest.mark.integration
def test_the_hub_gets_every_file_but_the_record(place, tmp_path):
    """Processes of their own, which take another hub for the one that the environment named at their start."""
    words = ["export", str(place / "lora"), "--output", str(tmp_path / "out"), "--merge", "--push-to-hub", "me/mine"]
    with hub() as server:

        def pushed(token):
            def work():
                constants.HF_HUB_OFFLINE, constants.ENDPOINT = False, server.url
                os.environ |= {"HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
                return main(words)

            return done(work, tmp_path / "printed")

        accepted = pushed(server.token)
        assert accepted.code == 0, accepted.text
        own = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert server.files == {"me/mine": {name: own[name] for name in own if name != "tokenq_export.json"}}
        assert b"name = 'me/mine'" in own["README.md"]
        refused = pushed("hf_wrong")
    assert refused.code == 2
    assert "me/mine could not be uploaded" in refused.text
    assert "Traceback" not in refused.text
    assert "hf_wrong" not in refused.text


def test_from_python_a_checkpoint_is_merged(place):
    run = tokenq.jobs.run.Run(place / "lora")
    merged = run.checkpoint(2).merge()
    assert merged.folder == place / "lora" / "merged" / "step-2"
    want = logits(run.checkpoint(2), AutoPeftModelForCausalLM).log_softmax(-1)
    torch.testing.assert_close(logits(merged).log_softmax(-1), want, rtol=0, atol=3e-5)
    assert run.merge().folder == place / "lora" / "merged" / "policy"
    assert tokenq.load(merged, place / "model", device="cpu").score("1?", " 1.").tokens
    with pytest.raises(UserError, match="holds no adapter"):
        tokenq.jobs.run.Run(place / "full").merge()


def test_from_python_it_goes_to_the_hub_as_it_was_asked_for(place, monkeypatch):
    pushed = {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tokenq.jobs.export.get_token", lambda: "hf_x")
    monkeypatch.setattr(
        "tokenq.jobs.export._push",
        lambda folder, name: pushed.update({name: {path.name for path in folder.iterdir()}}),
    )
    run = tokenq.jobs.run.Run(place / "lora")
    run.push_to_hub("me/adapter")
    run.checkpoint(2).merge().push_to_hub("me/whole")
    assert "adapter_model.safetensors" in pushed["me/adapter"]
    assert "model.safetensors" in pushed["me/whole"]
