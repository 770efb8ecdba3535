"""A recipe for every loss: it resolves, says where its values come from, and trains."""

import json
import math

import pytest
from test_recipes import FOLDER, resolve
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.core.losses import LOSSES, find_sum
from tokenq.data.layouts.ratings import HELPSTEER

pytestmark = pytest.mark.integration

METHODS = sorted((FOLDER / "methods").glob("*.yaml"))
ALIKE = {
    "tis_dpo",
    "selm",
    "kto",
    "plackett_luce",
    "rpo",
    "simpo",
    "tdpo2",
    "dro",
    "scaled_bradley_terry",
    "regression",
    "steerlm",
    "ppo",
    "grpo",
}
"""Recipes that run in the fast tests: one of each kind of data or of computing; the others differ in a formula."""

TERMS = {"value", "clipped_value", "kl_k1", "kl_k2", "kl_k3", "implicit_prm"}
"""Losses that are only added to others; alone, `implicit_prm` is what the recipe of `ce` trains."""

OF_OTHERS = {"rpo": "dpo", "tis_dpo": "dpo", "sepo": "simpo", "confpo": "simpo"}
"""Recipes that make a method of its own of a loss."""

WORDS = {"ranked": "RANKED", "labelled": "LABELLED", "rewarded": "REWARDED", "rated": "RATED", "steps": "STEPS"}
WORDS |= {"rollouts": "ROLLOUTS", "weighted": "WEIGHTED"}
"""What a recipe's command calls data other than pairs."""

each_method = pytest.mark.parametrize("path", METHODS, ids=[path.stem for path in METHODS])


def test_every_loss_has_a_recipe():
    assert {path.stem for path in METHODS} == {*LOSSES, *OF_OTHERS} - TERMS


@each_method
def test_a_recipe_resolves_to_its_loss_and_says_where_its_values_come_from(path):
    config = resolve(path)
    config.check()
    given = {} if config.beta is None else {"beta": config.beta}
    loss = find_sum(config.loss, {**given, **config.loss_options})
    assert loss.terms[0].name == OF_OTHERS.get(path.stem, path.stem)
    text = path.read_text()
    assert "# Source: " in text
    assert f"--config recipes/methods/{path.name}" in text
    assert {word for word in WORDS if WORDS[word] in text} == {loss.unit.asks} & WORDS.keys()
    # What the recipe sets is what it names: β, where the loss has one.
    assert (config.beta is not None) == ("beta" in LOSSES[loss.terms[0].name].parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("dpo", {"beta": 0.1, "learning_rate": 1e-6, "batch_size": 64, "warmup_steps": 150, "optimizer": "rmsprop"}),
        ("simpo", {"beta": 2.0, "loss_options": {"gamma": "1.0"}, "learning_rate": 6e-7, "batch_size": 128}),
        ("selm", {"beta": 0.01, "loss_options": {"alpha": "1e-3"}, "learning_rate": 5e-7, "batch_size": 256}),
        ("rpo", {"beta": 0.01, "loss": "dpo+0.005*sft", "learning_rate": 5e-7}),
        ("tdpo2", {"beta": 0.1, "loss_options": {"alpha": "0.5"}}),
        ("ce", {"beta": 0.05, "learning_rate": 5e-7, "batch_size": 64, "max_length": 8192}),
        ("bco", {"beta": 0.01, "learning_rate": 5e-7, "batch_size": 128}),
        ("orpo", {"loss_options": {"odds_weight": "0.1"}, "learning_rate": 5e-6}),
        ("ld_dpo", {"loss_options": {"alpha": "0.5"}}),
        ("aot", {"beta": 0.01}),
        ("grpo", {"loss": "grpo+0.04*kl_k3", "learning_rate": 1e-6, "batch_size": 1024}),
        ("dapo", {"loss_options": {"clip_low": "0.2", "clip_high": "0.28"}, "batch_size": 512}),
        ("regression", {"learning_rate": 2e-6, "batch_size": 128, "epochs": 2.0, "warmup_steps": 10}),
        ("scaled_bradley_terry", {"learning_rate": 1e-6, "max_steps": 105}),
        ("steerlm", {"learning_rate": 1e-7, "batch_size": 128, "epochs": 2.0}),
    ],
)
def test_the_published_values(name, published):
    config = resolve(FOLDER / "methods" / f"{name}.yaml")
    assert {field: getattr(config, field) for field in published} == published


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A tiny model, data of every kind, and traces of a contrastive pair."""
    folder = tmp_path_factory.mktemp("stand-ins")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model("gpt_neox", layers=1, seed=seed).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)
    prompts = [f"Say {i}." for i in range(6)]
    rows = {
        "pairs": [
            {"prompt": p, "chosen": f" {p}\nyes", "rejected": " no", "calibration": " so", "margin": 1} for p in prompts
        ],
        "labelled": [{"prompt": p, "completion": f" {p}", "label": i % 2 == 0} for i, p in enumerate(prompts)],
        "rewarded": [{"prompt": p, "completion": f" {p}", "reward": i} for i, p in enumerate(prompts)],
        "rollouts": [
            {
                "prompt": p,
                "completion": f" {p}",
                "advantages": i - 2.5,
                "old_logps": -5.5,
                "returns": i,
                "old_values": 0,
            }
            for i, p in enumerate(prompts)
        ],
        "weighted": [
            {"prompt": p, "completion": f" {text}", "target_weights": weight, "old_logps": -5.5}
            for p in prompts
            for text, weight in (("so", 0.75), ("no", 0.25))
        ],
        "rated": [
            {"prompt": p, "response": " so"} | {name: i % 5 for name in HELPSTEER} for i, p in enumerate(prompts)
        ],
        "steps": [{"prompt": p, "completions": ["so", p], "labels": [True, False]} for p in prompts],
        "ranked": [{"prompt": p, "answers": [{"answer": f" {r}", "rank": r} for r in range(3)]} for p in prompts],
    }
    for name, values in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    score = ["score", "--policy", str(folder / "model"), "--reference", str(folder / "other"), "--device", "cpu"]
    assert main([*score, "--data", str(folder / "pairs.jsonl"), "--output", str(folder / "traces.jsonl")]) == 0
    return folder


def _case(path):
    return path if path.stem in ALIKE else pytest.param(path, marks=pytest.mark.slow)


@pytest.mark.parametrize("path", [_case(path) for path in METHODS], ids=[path.stem for path in METHODS])
def test_a_recipe_trains(path, stand_ins, tmp_path):
    loss = find_sum(resolve(path).loss)
    data = "pairs" if loss.unit.name == "responses" else loss.unit.asks
    words = ["train", "--config", str(path), "--model", str(stand_ins / "model"), "--device", "cpu"]
    words += ["--data", str(stand_ins / f"{data}.jsonl"), "--output", str(tmp_path / "run"), "--max-steps", "2"]
    traced = path.stem in ("tis_dpo", "sepo")
    words += ["--batch-size", "3", "--token-traces", str(stand_ins / "traces.jsonl")] if traced else []
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
