"""Whatever type a checkpoint is stored in, training moves its weights, begins at its reference, and says its types."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tokenq.cli.main import main

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"{i} and?", "chosen": f" {i % 7} yes", "rejected": f" no, {i}"} for i in range(24)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a folder with one model in three types; float32 holds the numbers of bfloat16."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model("llama", dtype=torch.bfloat16)
    for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}.items():
        model.to(dtype).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def train(models, output, model, *words):
    flags = ["--model", str(models / model), "--data", str(models / "rows.jsonl"), "--output", str(output)]
    flags += ["--max-steps", "8", "--batch-size", "4", "--eval-size", "4", "--device", "cpu", "--learning-rate", "1e-6"]
    assert main(["train", *flags, *words]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((output / "provenance.json").read_text())["precision"]


def share_moved(models, model, policy):
    before = AutoModelForCausalLM.from_pretrained(models / model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).state_dict()
    moved = sum(int((before[name] != after[name]).sum()) for name in before)
    return moved / sum(value.numel() for value in before.values())


def test_a_half_precision_checkpoint_learns_as_the_same_in_float32(models, tmp_path):
    """Rounded to bfloat16 after each step, at 1e-6, hardly a weight would move."""
    low, types = train(models, tmp_path / "low", "bfloat16")
    full, _ = train(models, tmp_path / "full", "float32")
    assert [line.get("loss") for line in low] == [line.get("loss") for line in full]
    assert low[-1]["eval_rewards/margins"] == full[-1]["eval_rewards/margins"] != 0
    moved = share_moved(models, "bfloat16", tmp_path / "low" / "policy")
    assert moved == share_moved(models, "float32", tmp_path / "full" / "policy") > 0.75  # a fifth is of unseen bytes
    assert (types["weights"], types["master"], types["compute"]) == ("float32", None, "float32")


@pytest.mark.parametrize("model", ["bfloat16", "float16"])
def test_it_begins_at_its_reference(models, tmp_path, model, capsys):
    lines, _ = train(models, tmp_path / "run", model)
    assert lines[0]["step"] == 0
    assert abs(lines[0]["eval_rewards/margins"]) < 1e-6
    assert abs(lines[0]["eval_kl"]) < 1e-5
    assert lines[1]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    said = capsys.readouterr().err
    assert "weights trained in float32, no master copy needed, computed in float32, adamw state in float32" in said


def test_bfloat16_on_demand_has_a_master_copy(models, tmp_path, capsys):
    _, types = train(models, tmp_path / "run", "float32", "--dtype", "bfloat16", "--save-steps", "8")
    assert (types["weights"], types["master"], types["optimizer_state"]) == ("bfloat16", "float32", "float32")
    assert "float32 master copy in the optimiser" in capsys.readouterr().err
    assert share_moved(models, "float32", tmp_path / "run" / "policy") > 0.75  # the policy is written from the copy
    checkpoint = tmp_path / "run" / "checkpoints" / "step-8"
    copies = load_file(checkpoint / "model.safetensors")
    assert all(value.dtype == torch.float32 for value in copies.values())
    total = sum(copy.numel() for copy in copies.values())
    apart = sum(int((copy != copy.bfloat16().float()).sum()) for copy in copies.values())
    assert apart / total > 0.75  # the copies have moved where their weights could not
    assert AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").dtype == torch.float32
    state = torch.load(checkpoint / "state" / "optimizer.bin", weights_only=True)
    assert set(state) == {"state", "param_groups"}  # not written twice


def test_below_an_adapter_the_checkpoints_type_stays(models, tmp_path):
    _, types = train(models, tmp_path / "low", "bfloat16", "--lora-rank", "2")
    assert (types["weights"], types["frozen"]) == ("float32", "bfloat16")
    # Nothing scales the gradients that pass through it: float16 is read as float32.
    _, types = train(models, tmp_path / "half", "float16", "--lora-rank", "2")
    assert (types["weights"], types["frozen"]) == ("float32", "float32")


def test_a_reward_model_is_held_in_float32(models, tmp_path):
    """Its adapter is merged at the end, where a base in half precision would round it away."""
    for name, words in {"full": [], "adapter": ["--lora-rank", "2"]}.items():
        lines, types = train(models, tmp_path / name, "bfloat16", "--loss", "bradley_terry", *words)
        assert types["weights"] == "float32"
        assert types["frozen"] in (None, "float32")
        weights = load_file(tmp_path / name / "reward_model" / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float32}
        assert lines


def test_scores_of_a_run_are_read_in_the_type_of_its_training(models, tmp_path):
    """The reference of the training was float32; read as bfloat16, it would differ from the policy by rounding."""
    lines, _ = train(
        models, tmp_path / "run", "bfloat16", "--eval-data", str(models / "rows.jsonl"), "--eval-size", "0"
    )
    words = ["--run", str(tmp_path / "run"), "--data", str(models / "rows.jsonl"), "--device", "cpu"]
    assert main(["score", *words, "--output", str(tmp_path / "traces.jsonl")]) == 0
    traces = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    rewards = [trace["totals"]["implicit_reward"] for trace in traces]
    margin = sum(a - b for a, b in zip(rewards[::2], rewards[1::2], strict=True)) / (len(rewards) / 2)
    assert margin == pytest.approx(lines[-1]["eval_rewards/margins"], abs=2e-6)
    assert abs(margin) > 1e-5


def test_the_doctor_finds_weights_that_an_update_cannot_move(models, tmp_path, capsys):
    """A run whose record says nothing of a copy had none, as before there were copies."""
    run = tmp_path / "run"
    train(models, run, "bfloat16", "--dtype", "bfloat16")
    assert main(["doctor", str(run), "--output", str(tmp_path / "sound.json")]) in (0, 1)
    names = {finding["name"] for finding in json.loads((tmp_path / "sound.json").read_text())["findings"]}
    assert not names & {"weights-out-of-reach", "stale-reference", "weights-not-compared"}
    provenance = json.loads((run / "provenance.json").read_text())
    del provenance["precision"]
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert main(["doctor", str(run), "--output", str(tmp_path / "sick.json")]) == 1
    (finding,) = (
        found for found in json.loads((tmp_path / "sick.json").read_text())["findings"]
        if found["name"] == "weights-out-of-reach"
    )  # fmt: skip
    evidence = {one["what"]: one["value"] for one in finding["evidence"]}
    assert evidence["largest update of a weight"] == 1e-6
    assert float(evidence["weights that an update can move"].removesuffix(" %")) < 15
    assert "updated in bfloat16" in finding["found"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dtype", "float16"], "their gradients vanish"),
        (["--dtype", "float16", "--lora-rank", "2"], "Add --mixed-precision fp16"),
        (["--dtype", "bfloat16", "--mixed-precision", "fp16"], "cannot be computed with in float16"),
    ],
)
def test_types_that_cannot_learn_are_refused(models, tmp_path, capsys, words, says):
    flags = ["--model", str(models / "bfloat16"), "--data", str(models / "rows.jsonl"), "--output", str(tmp_path / "r")]
    assert main(["train", *flags, *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
