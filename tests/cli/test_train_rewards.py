"""`tokenq train` for reward models: from a file to a classifier that transformers loads."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tokenq.cli.main import main
from tokenq.core.losses import find_sum
from tokenq.errors import UserError
from tokenq.jobs.training.merging import refuse_merge_in_shards
from tokenq.training.config import TrainConfig

pytestmark = pytest.mark.integration

ATTRIBUTES = {"helpfulness": 4, "correctness": 2, "coherence": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, and data of which a model can tell what is better."""
    folder = tmp_path_factory.mktemp("rewards")
    tiny_model("llama", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    tiny_model("mamba").save_pretrained(folder / "mamba")
    tiny_tokenizer("bytes").save_pretrained(folder / "mamba")
    numbers = range(24)
    write(
        folder / "pairs.jsonl",
        [{"prompt": f"{i}?", "chosen": f" {i} good", "rejected": f" {i} bad", "margin": i % 3} for i in numbers],
    )
    write(
        folder / "rated.jsonl",
        [
            {"prompt": f"{i}?", "response": "x" * (1 + i % 5), "helpfulness": i % 5, "coherence": 4 - i % 5}
            | ({} if i % 3 else {"correctness": 2})
            for i in numbers
        ],
    )
    write(
        folder / "steps.jsonl",
        [{"prompt": f"{i}?", "completions": ["good", "bad", f"{i}"], "labels": [True, False, i % 2]} for i in numbers],
    )
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    write(folder / "even.jsonl", [pair | {"margin": 0} for pair in pairs])
    write(folder / "right.jsonl", [{"prompt": f"{i}?", "completions": ["a", "b"], "labels": [1, 1]} for i in numbers])
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(place, output, data, *words, model="model"):
    arguments = ["train", "--model", str(place / model), "--data", str(place / f"{data}.jsonl")]
    arguments += ["--output", str(output), "--device", "cpu", "--batch-size", "6", "--learning-rate", "1e-2", *words]
    return main(arguments)


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("words", [(), ("--lora-rank", "4")], ids=["full", "adapter"])
def test_pairs(place, words, tmp_path):
    """Held-out pairs are told apart, and transformers gives the rewards that training reported."""
    options = ("--loss", "bradley_terry", "--eval-size", "6", "--epochs", "6", *words)
    assert train(place, tmp_path / "run", "pairs", *options) == 0
    first, *_, last = lines(tmp_path / "run")
    assert set(first) == {"step", "epoch", "eval_loss"} | {
        f"eval_rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")
    }
    assert first["eval_loss"] == pytest.approx(math.log(2), abs=0.7)
    assert last["eval_rewards/accuracies"] == 1.0
    assert last["eval_rewards/margins"] == pytest.approx(last["eval_rewards/chosen"] - last["eval_rewards/rejected"])
    folder = tmp_path / "run" / "reward_model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [f"{i}? {i} {word}{tokenizer.eos_token}" for i in range(24) for word in ("good", "bad")]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        chosen, rejected = model.eval()(batch["input_ids"], batch["attention_mask"]).logits[:, 0].reshape(-1, 2).T
    assert (chosen > rejected).all()
    assert (chosen - rejected).mean().item() == pytest.approx(last["eval_rewards/margins"], rel=0.2)
    assert not (tmp_path / "run" / "policy").exists()


def test_the_same_seed_gives_the_same_reward_model(place, tmp_path):
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        assert (
            train(place, tmp_path / name, "pairs", "--loss", "bradley_terry", "--max-steps", "2", "--seed", seed) == 0
        )
    weights = {
        name: AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "reward_model").score.weight
        for name in ("one", "same", "other")
    }
    assert torch.equal(weights["one"], weights["same"])
    assert not torch.allclose(weights["one"], weights["other"], atol=1e-2)


def test_margins(place, tmp_path):
    """Before the first update: −log σ(d − m) on average, and with all margins 0 that of Bradley-Terry."""
    found = {}
    for loss, words in (
        ("bradley_terry", ()),
        ("margin_bradley_terry", ()),
        ("margin_bradley_terry", ("--loss-options", "scale=0")),
        ("scaled_bradley_terry", ()),
    ):
        output = tmp_path / f"{loss}{len(found)}"
        options = ("--loss", loss, "--max-steps", "1", "--batch-size", "24", *words)
        assert train(place, output, "pairs", *options) == 0
        found[loss, words] = lines(output)[0]["loss"]
    plain = found["bradley_terry", ()]
    assert found["margin_bradley_terry", ()] > plain + 0.3
    assert found["margin_bradley_terry", ("--loss-options", "scale=0")] == pytest.approx(plain, rel=1e-6)
    assert found["scaled_bradley_terry", ()] == pytest.approx(plain, rel=0.2)  # margins are 1 on average


def test_ratings(place, tmp_path):
    """Three attributes, one of them given for a third of the responses; its errors are averaged over those."""
    options = ("--loss", "regression", "--eval-size", "8", "--epochs", "20")
    assert train(place, tmp_path / "run", "rated", *options) == 0
    trained = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert {name for name in trained[0] if name.startswith("mse/")} == {
        "mse/helpfulness",
        "mse/coherence",
        "mse/correctness",
    }
    last = lines(tmp_path / "run")[-1]
    assert last["eval_mse/helpfulness"] < 1.0
    assert last["eval_pearson/helpfulness"] > 0.7
    assert last["eval_spearman/coherence"] > 0.7
    assert last["eval_pearson/correctness"] is None  # all of its ratings are 2
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "reward_model")
    assert model.config.id2label == {0: "helpfulness", 1: "correctness", 2: "coherence"}


def test_the_loss_of_ratings_is_the_mean_over_all_of_them(place, tmp_path):
    assert (
        train(place, tmp_path / "run", "rated", "--loss", "regression", "--max-steps", "1", "--batch-size", "24") == 0
    )
    (line,) = lines(tmp_path / "run")
    mean = (24 * line["mse/helpfulness"] + 24 * line["mse/coherence"] + 8 * line["mse/correctness"]) / 56
    assert line["loss"] == pytest.approx(mean, rel=1e-5)


def test_attributes_that_are_asked_for(place, tmp_path, capsys):
    options = ("--loss", "regression", "--max-steps", "1", "--attributes", "coherence", "helpfulness")
    assert train(place, tmp_path / "run", "rated", *options) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "reward_model")
    assert model.config.id2label == {0: "coherence", 1: "helpfulness"}
    capsys.readouterr()
    options = ("--loss", "regression", "--max-steps", "1", "--attributes", "correctness")
    assert train(place, tmp_path / "one", "rated", *options) == 0
    assert "left out: 16 responses that are rated on none of correctness" in capsys.readouterr().err
    assert train(place, tmp_path / "no", "rated", "--loss", "regression", "--attributes", "helpfullness") == 2
    assert "Did you mean 'helpfulness'" in capsys.readouterr().err


def test_steps(place, tmp_path):
    assert train(place, tmp_path / "run", "steps", "--loss", "process", "--eval-size", "8", "--epochs", "8") == 0
    first, *_, last = lines(tmp_path / "run")
    assert last["eval_loss"] < first["eval_loss"]
    # The first step is always right, the second always wrong; the third is told by a digit.
    assert last["eval_rewards/accuracies"] > 0.6
    assert last["eval_rewards/chosen"] > last["eval_rewards/rejected"]


def test_training_goes_on_from_a_reward_model_and_after_a_kill(place, tmp_path):
    options = ("--loss", "bradley_terry", "--max-steps", "4", "--save-steps", "2")
    assert train(place, tmp_path / "run", "pairs", *options) == 0
    again = ("--loss", "bradley_terry", "--max-steps", "1", "--batch-size", "24")
    assert train(tmp_path, tmp_path / "second", "../pairs", *again, model="run/reward_model") == 2  # no such data
    write(tmp_path / "pairs.jsonl", [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()])
    assert train(tmp_path, tmp_path / "second", "pairs", *again, model="run/reward_model") == 0
    fresh = ("--loss", "bradley_terry", "--max-steps", "1", "--batch-size", "24")
    assert train(place, tmp_path / "fresh", "pairs", *fresh) == 0
    assert lines(tmp_path / "second")[0]["rewards/margins"] > lines(tmp_path / "fresh")[0]["rewards/margins"] + 0.5
    assert train(place, tmp_path / "run", "pairs", *options, "--resume") == 0


def test_the_doctor_and_others_know_a_run_of_a_reward_model(place, tmp_path, capsys):
    """It is finished, and began from the weights that are there; there is no policy to score."""
    options = ("--loss", "bradley_terry", "--eval-size", "4", "--max-steps", "2")
    assert train(place, tmp_path / "run", "pairs", *options) == 0
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "run")]) == 1  # for the data, whose chosen responses are the longer ones
    said = capsys.readouterr().out
    assert "unfinished" not in said
    assert "start-model-changed" not in said
    assert "data-changed" not in said
    assert main(["doctor", str(tmp_path / "run"), "--answer-prompts", "2"]) == 2
    assert "A reward model writes nothing" in capsys.readouterr().err
    assert main(["score", "--run", str(tmp_path / "run"), "--prompt", "a", "--response", "b"]) == 2
    assert "holds a reward model and no policy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        ("rated", ["--loss", "margin_bradley_terry"], "None of the 24 rows"),
        ("pairs", ["--loss", "regression"], "row 1: no response of the row has a rating"),
        ("pairs", ["--loss", "process"], "row 1: no response of the row comes in steps"),
        ("pairs", ["--loss", "bradley_terry", "--beta", "0.1"], "has no parameter 'beta'"),
        ("pairs", ["--loss", "bradley_terry", "--attributes", "reward"], "reads none"),
        ("pairs", ["--loss", "bradley_terry", "--reference", "model"], "A reward model has no reference"),
        ("even", ["--loss", "scaled_bradley_terry"], "All 24 margins are 0"),
        ("right", ["--loss", "process"], "All 48 labels of steps are 1"),
        ("pairs", ["--loss", "regression"], "The loss needs a column for each rating"),
        ("rated", ["--loss", "regression", "--attributes", "coherence", "coherence"], "names one twice"),
        ("pairs", ["--loss", "bradley_terry", "--attention", "full"], "Unknown attention 'full'"),
        ("pairs", ["--loss", "bradley_terry", "--adapter", "somewhere"], "--adapter does not go with a reward model"),
        ("pairs", ["--loss", "bradley_terry+0.1*sft"], "adds a loss of a reward model"),
        ("pairs", ["--loss", "bradley_tery"], "Did you mean 'bradley_terry'"),
    ],
)
def test_what_a_reward_model_cannot_be_trained_on(data, words, said, place, tmp_path, capsys):
    assert train(place, tmp_path / "run", data, *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_adapter_in_shards_is_refused(place, tmp_path, monkeypatch, capsys):
    """`accelerate launch` says by this flag that it shards; without an adapter nothing is merged."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    words = ["--loss", "bradley_terry", "--max-steps", "1"]
    assert train(place, tmp_path / "run", "pairs", *words, "--lora-rank", "2") == 2
    assert "weights in shards cannot be merged" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
    assert train(place, tmp_path / "whole", "pairs", *words) == 0


@pytest.mark.parametrize("flag", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_what_would_be_merged_is_refused_in_shards(flag, tmp_path, monkeypatch):
    """A reward model's adapter, and a policy's on a base that is itself a base with an adapter."""
    (tmp_path / "adapter_config.json").write_text("{}")
    whole = TrainConfig(model="m", data=["d"], output="o")
    twice = replace(whole, model=str(tmp_path))
    refused = [(whole, "bradley_terry", 2), (twice, "dpo", 2), (replace(twice, adapter="a"), "dpo", 0)]
    allowed = [
        (whole, "bradley_terry", 0),
        (whole, "dpo", 2),
        (twice, "dpo", 0),
        (replace(whole, adapter="a"), "dpo", 0),
    ]
    monkeypatch.setenv(flag, "true")
    for config, loss, rank in refused:
        with pytest.raises(UserError, match="weights in shards cannot be merged"):
            refuse_merge_in_shards(replace(config, lora_rank=rank), find_sum(loss))
    for config, loss, rank in allowed:
        refuse_merge_in_shards(replace(config, lora_rank=rank), find_sum(loss))
    monkeypatch.delenv(flag)
    for config, loss, rank in refused:
        refuse_merge_in_shards(replace(config, lora_rank=rank), find_sum(loss))


def test_an_architecture_without_a_classifier(place, tmp_path, capsys):
    assert train(place, tmp_path / "run", "pairs", "--loss", "bradley_terry", model="mamba") == 2
    assert "transformers has no sequence classifier for MambaForCausalLM" in capsys.readouterr().err
