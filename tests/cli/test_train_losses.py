"""`tokenq train` with losses that train on other data than pairs, or read more than log-probs: from file to policy."""

import json
import math
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.models.load import ModelSpec
from tokenq.runs.places import models_of_run

pytestmark = pytest.mark.integration

QUESTIONS = ["cat", "dog", "sea", "old", "red", "mat"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A tiny model on disk, another one, and data of every kind."""
    folder = tmp_path_factory.mktemp("stand-in")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model("gpt_neox", layers=1, seed=seed).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)
    pairs = [
        {"prompt": f"{q}?", "chosen": f" a {q}\nand more", "rejected": f" a {q}\nno", "calibration": f" {q}"}
        for q in QUESTIONS
    ]
    labelled = [{"prompt": f"{q}?", "completion": f" {i} {q}", "label": i % 2 == 0} for i, q in enumerate(QUESTIONS)]
    ranked = [
        {"prompt": f"{q}?", "answers": [{"answer": f" {q} {r}", "rank": r} for r in range(1, 3 + i % 2)]}
        for i, q in enumerate(QUESTIONS)
    ]
    rewarded = [{"prompt": f"{q}?", "completion": f" {i} {q}", "reward": i % 3} for i, q in enumerate(QUESTIONS)]
    alike = [row | {"reward": 2} for row in rewarded]
    liked = [row | {"label": True} for row in labelled]
    unclear = [*labelled[:2], labelled[2] | {"label": "fair"}]
    named = {"pairs": pairs, "labelled": labelled, "ranked": ranked, "rewarded": rewarded, "alike": alike}
    begun = "Step 1: so\nStep 2:"
    steps = [
        {"prompt": f"{q}?", "initial_reason_steps": begun, "chosen": f" {q}", "rejected": " no"} for q in QUESTIONS
    ]
    for name, values in (named | {"unclear": unclear, "liked": liked, "steps": steps}).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    return folder


def train(folder, output, data, *words):
    arguments = ["train", "--model", str(folder / "model"), "--data", str(folder / f"{data}.jsonl")]
    arguments += ["--output", str(output), "--device", "cpu", "--max-steps", "2", "--batch-size", "3"]
    arguments += ["--learning-rate", "1e-3", "--reference-store", str(output.parent / "store"), *words]
    assert main(arguments) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("loss", "data", "start"),
    [
        ("kto", "labelled", 0.5),
        ("kto", "pairs", 0.5),
        ("bco", "labelled", math.log(2)),
        ("ce", "pairs", math.log(2)),
        ("implicit_prm", "labelled", math.log(2)),
        ("implicit_prm", "pairs", math.log(2)),
        ("plackett_luce", "ranked", None),  # log 2 or log 6
        ("plackett_luce", "pairs", math.log(2)),
        ("dro", "rewarded", None),
        ("dro", "labelled", 1.0),  # V = 0 and d = 0 leave two halves of 1, the square of every normalised reward
        ("selm", "pairs", math.log(2)),
        ("step_dpo", "pairs", math.log(2)),
        ("step_dpo", "steps", math.log(2)),
        ("dpo", "steps", math.log(2)),
        ("tdpo2", "pairs", math.log(2)),
        ("wpo", "pairs", None),
        ("simpo", "pairs", None),
        ("aot", "pairs", math.log(2)),
    ],
)
def test_a_loss_trains_from_a_file(loss, data, start, stand_in, tmp_path):
    lines = train(stand_in, tmp_path / "run", data, "--loss", loss)
    assert [line["step"] for line in lines] == [1, 2]
    if start is not None:
        assert lines[0]["loss"] == pytest.approx(start, abs=1e-5)
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines)
    assert lines[0]["grad_norm"] > 0


def test_the_divergence_is_against_the_base_of_an_adapter(stand_in, tmp_path):
    """The first step starts at no divergence; with a reference of its own it does not."""
    lines = train(stand_in, tmp_path / "adapter", "pairs", "--loss", "tdpo1", "--lora-rank", "2")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    lines = train(
        stand_in, tmp_path / "other", "pairs", "--loss", "tdpo1", "--reference", str(stand_in / "other"), "--beta", "1"
    )
    assert abs(lines[0]["loss"] - math.log(2)) > 1e-3


def test_a_sum_reports_its_parts_and_their_total(stand_in, tmp_path):
    lines = train(stand_in, tmp_path / "run", "pairs", "--loss", "dpo+0.2*sft", "--beta", "0.5")
    assert lines[0]["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    # Mean of −log π over the tokens of the chosen responses.
    tokens = lines[0]["logps/chosen"] / lines[0]["response_length/chosen"]
    assert lines[0]["loss/sft"] == pytest.approx(-tokens, rel=1e-5)
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss/dpo"] + 0.2 * lines[0]["loss/sft"], rel=1e-6)


def test_options_of_a_loss_reach_it_and_the_record_of_the_run(stand_in, tmp_path):
    options = ("--loss-options", "gamma=0.25", "beta=3")
    lines = train(stand_in, tmp_path / "run", "pairs", "--loss", "simpo", *options)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["loss_options"] == {"gamma": "0.25", "beta": "3"}
    card = (tmp_path / "run" / "policy" / "README.md").read_text()
    assert "gamma" in card
    other = train(stand_in, tmp_path / "other", "pairs", "--loss", "simpo", "--beta", "3")
    assert lines[0]["loss"] != pytest.approx(other[0]["loss"], abs=1e-3)


def weighed(folder, weigh):
    """Write the pairs with a column of weights, (number of a token) → weight."""
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        row["mine"] = {side: [weigh(n) for n in range(len(row[side]))] for side in ("chosen", "rejected")}
    (folder / "weighed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "weighed"


def test_token_weights_come_from_traces_of_a_contrastive_pair(stand_in, tmp_path):
    """Scored by two models: the weights change the gradient, and not the loss before the first update."""
    traces = tmp_path / "traces.jsonl"
    score = ["score", "--policy", str(stand_in / "model"), "--reference", str(stand_in / "other"), "--device", "cpu"]
    assert main([*score, "--data", str(stand_in / "pairs.jsonl"), "--output", str(traces)]) == 0
    words = ["--token-weights", "readout:contrast", "--token-traces", str(traces)]
    weighted = train(stand_in, tmp_path / "run", "pairs", *words)
    plain = train(stand_in, tmp_path / "plain", "pairs", "--loss", "dpo")
    assert weighted[0]["loss"] == pytest.approx(plain[0]["loss"], abs=1e-6)
    assert weighted[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-2)
    (tmp_path / "none.jsonl").write_text("")
    again = ["train", "--model", str(stand_in / "model"), "--data", str(stand_in / "pairs.jsonl"), *words[:3]]
    assert main([*again, str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "bad"), "--device", "cpu"]) == 2


def test_token_weights_of_a_column(stand_in, tmp_path):
    """Of 1 they change no bit; of others the gradient, with the reference as stored; with others no run goes on."""
    plain = train(stand_in, tmp_path / "plain", "pairs")
    ones = train(stand_in, tmp_path / "ones", weighed(stand_in, lambda n: 1.0), "--token-weights", "mine")
    assert [line["loss"] for line in ones] == [line["loss"] for line in plain]
    same = [load_file(tmp_path / run / "policy" / "model.safetensors") for run in ("plain", "ones")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    stored = {path.name: path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file()}
    other = train(stand_in, tmp_path / "other", weighed(stand_in, lambda n: float(n < 4)), "--token-weights", "mine")
    assert other[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-3)
    assert {path.name: path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file()} == stored
    weighed(stand_in, lambda n: float(n < 5))
    again = ["train", "--config", str(tmp_path / "other" / "config.yaml"), "--resume", "--max-steps", "3"]
    assert main(again) == 2


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        ("pairs", ["--token-weights", "readout:contrast"], "readout:contrast needs traces, and there are none"),
        ("pairs", ["--token-weights", "readout:contrats"], "Did you mean 'contrast'"),
        ("pairs", ["--token-traces", "traces.jsonl"], "--token-traces is given without --token-weights"),
        ("pairs", ["--token-weights", "mine"], "row 1: there is no column 'mine' of token weights"),
        ("pairs", ["--token-weights", "mine", "--loss", "dmpo"], "loss 'dmpo' has no weights of tokens"),
        ("pairs", ["--token-weights", "mine", "--loss", "bradley_terry"], "has no weights of tokens"),
        (
            "pairs",
            ["--token-weights", "readout:confidence", "--token-traces", "traces.jsonl"],
            "readout:confidence reads no --token-traces",
        ),
        (
            "pairs",
            ["--token-weights", "readout:regret", "--token-traces", "t", "--token-weight-options", "fraction=0"],
            "fraction is 0",
        ),
        (
            "pairs",
            ["--token-weights", "readout:regret", "--token-traces", "t", "--token-weight-options", "mu=1"],
            "Unknown option of --token-weights readout:regret 'mu'",
        ),
        ("pairs", ["--loss", "simpo", "--reference", "model"], "--reference is given. Loss 'simpo' has no reference"),
        ("pairs", ["--loss", "tdpo2+wpo"], "Add only one loss that reads it"),
        ("labelled", ["--loss", "selm"], "row 1: the row has no pair with a text in column 'calibration'"),
        ("alike", ["--loss", "dro"], "All 6 rewards are 2"),
        *(("liked", ["--loss", loss], "All 6 labels are 1 (") for loss in ("kto", "bco", "ce")),
        ("liked", ["--loss", "kto+implicit_prm"], "All 6 labels are 1 ("),
        ("rewarded", ["--loss", "implicit_prm"], "row 3: an outcome of 2 is outside [0, 1]. 1 is right and 0 is wrong"),
        ("unclear", ["--loss", "dro"], "row 3: label 'fair' is neither true nor false"),
        ("rewarded", ["--loss", "dro", "--loss-options", "values=prompts"], "Did you mean 'prompt'"),
        ("ranked", ["--loss", "kto"], "row 1: no response of the row has a label"),
        ("pairs", ["--loss", "simpo", "--loss-options", "gama=1"], "Did you mean 'gamma'"),
        ("pairs", ["--loss", "dpo", "--beta", "1", "--loss-options", "beta=2"], "beta is given twice"),
        ("pairs", ["--label-smoothing", "0.1"], "Did you mean --loss-options"),
    ],
)
def test_what_a_loss_cannot_train_on_is_refused(data, words, said, stand_in, tmp_path, capsys):
    arguments = ["train", "--model", str(stand_in / "model"), "--data", str(stand_in / f"{data}.jsonl")]
    assert main([*arguments, "--output", str(tmp_path / "run"), "--device", "cpu", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "words", [[], ["--lora-rank", "2"], ["--gradient-checkpointing"]], ids=["full", "adapter", "checked"]
)
def test_a_run_with_a_value_network_leaves_a_policy_and_the_scale_of_its_rewards(words, stand_in, tmp_path):
    """The policy loads as any other and has moved; the value network is in the checkpoint; rewards are 0, 1 and 2."""
    words = ["--loss", "dro", "--beta", "0.5", "--loss-options", "values=prompt", "--eval-size", "2", *words]
    lines = train(stand_in, tmp_path / "run", "rewarded", *words)
    evaluated = [line for line in lines if "eval_loss" in line]
    assert {"eval_values/loss", "eval_values/explained_variance", "eval_rewards/responses"} <= evaluated[-1].keys()
    assert all(line["values/grad_norm"] > 0 for line in lines if "loss" in line)
    said = json.loads((tmp_path / "run" / "provenance.json").read_text())
    kept = [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    assert said["beta"] == 0.5
    assert min(kept) < said["rewards"]["mean"] < max(kept)
    assert 0.4 < said["rewards"]["sd"] < 1.0
    session = tokenq.load(str(tmp_path / "run" / "policy"), reference=str(stand_in / "model"), device="cpu")
    ratios = [token.logp - token.ref_logp for token in session.score("cat?", " 0 cat").tokens]
    assert max(map(abs, ratios)) > 1e-4
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    stored = load_file(checkpoint / "state" / "weights.safetensors")
    assert any(name.startswith("values.head") for name in stored)
    assert not any("values" in path.name for path in (tmp_path / "run" / "policy").iterdir())


@pytest.mark.parametrize(
    "words", [[], ["--lora-rank", "2"], ["--gradient-checkpointing"]], ids=["full", "adapter", "checked"]
)
def test_a_run_with_a_process_reward_model_leaves_the_policy_that_it_would_be_without(words, stand_in, tmp_path):
    """To the last bit; the process reward model has learnt, and lies in the checkpoint alone."""
    words = [*words, "--eval-size", "2"]
    lines = train(stand_in, tmp_path / "run", "labelled", "--loss", "kto+implicit_prm", *words)
    train(stand_in, tmp_path / "without", "labelled", "--loss", "kto", *words)
    name = "adapter_model.safetensors" if "--lora-rank" in words else "model.safetensors"
    found, want = (load_file(tmp_path / run / "policy" / name) for run in ("run", "without"))
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)
    assert lines[-1]["eval_loss/implicit_prm"] != pytest.approx(math.log(2), abs=1e-6)
    assert all(line["prm/grad_norm"] > 0 for line in lines if "loss" in line)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert {key.split(".")[0] for key in load_file(checkpoint / "state" / "weights.safetensors")} == {"prm"}
    assert models_of_run(str(tmp_path / "run"), ModelSpec("")).beta == 0.1


def test_a_run_with_a_value_network_resumes_from_the_command_line(stand_in, tmp_path):
    whole = train(stand_in, tmp_path / "whole", "rewarded", "--loss", "dro", "--max-steps", "4", "--save-steps", "2")
    folder = tmp_path / "cut"
    train(
        stand_in,
        folder,
        "rewarded",
        "--loss",
        "dro",
        "--max-steps",
        "4",
        "--save-steps",
        "2",
        "--keep-checkpoints",
        "9",
    )
    shutil.rmtree(folder / "checkpoints" / "step-4")
    shutil.rmtree(folder / "policy")
    assert main(["train", "--config", str(folder / "config.yaml"), "--resume"]) == 0
    again = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    moving = {"seconds", "tokens_per_second", "peak_memory_gb"}
    assert [{k: v for k, v in line.items() if k not in moving} for line in again] == [
        {k: v for k, v in line.items() if k not in moving} for line in whole
    ]


def test_a_run_says_what_later_readers_need(stand_in, tmp_path, capsys):
    """The loss's own β, and the data as it was read: without what stands beside it only to be compared with."""
    train(stand_in, tmp_path / "ce", "labelled", "--loss", "ce")
    assert models_of_run(str(tmp_path / "ce"), ModelSpec("")).beta == 0.05
    train(stand_in, tmp_path / "dro", "rewarded", "--loss", "dro", "--eval-size", "2")
    assert models_of_run(str(tmp_path / "dro"), ModelSpec("")).beta == 1.0
    train(stand_in, tmp_path / "simpo", "pairs", "--loss", "simpo")
    assert models_of_run(str(tmp_path / "simpo"), ModelSpec("")).beta is None
    train(stand_in, tmp_path / "kto", "labelled", "--loss", "kto", "--eval-size", "2")
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "kto")]) == 0
    assert "data-changed" not in capsys.readouterr().out
