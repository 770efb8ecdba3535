"""Recipes of online runs: each resolves, has the values that its source publishes, and runs on a tiny stand-in."""

import json

import pytest
from test_recipes import FOLDER
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.flags import parse
from tokenq.cli.main import COMMANDS, main
from tokenq.rollout.config import OnlineConfig

pytestmark = pytest.mark.integration

RECIPES = sorted((FOLDER / "online").glob("*.yaml"))
GIVEN = ["--model", "m", "--output", "o", "--reference", "r"]

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])


def acts(path):
    """Return whether a recipe is of episodes, and not of prompts."""
    return "\nenvironment: " in path.read_text()


def beside(path, data, run):
    """Return what a recipe asks for on its command line, of pairs and of a run of DPO."""
    text = path.read_text()
    return [*(["--data", data] if "PAIRS" in text else []), *(["--credit-run", run] if "--credit-run" in text else [])]


def resolve(path):
    row = COMMANDS["online"]
    asked = [] if acts(path) else ["--prompts", "p", "--answer", "text", "--gold", "answer"]
    words = ["--config", str(path), *GIVEN, *asked, *beside(path, "d", "r")]
    return parse(OnlineConfig, words, prog="online", sections=row.sections, spelt_elsewhere=row.spelt_elsewhere)


@each_recipe
def test_a_recipe_says_where_its_values_come_from(path):
    resolve(path).check()
    text = path.read_text()
    assert "# Source: " in text
    assert f"--config recipes/online/{path.name}" in text


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("iterative_dpo_llama3", {"rounds": 3, "samples": 8, "beta": 0.1, "learning_rate": 5e-7, "batch_size": 128}),
        ("selm_zephyr", {"rounds": 3, "loss_options": {"alpha": "1e-3"}, "learning_rate": 5e-7, "batch_size": 256}),
        (
            "ppo_hh",
            {
                "top_k": 200,
                "beta": 0.1,
                "reward_clip": 20,
                "gamma": 1.0,
                "normalise_values": True,
                "value_learning_rate": 5e-6,
            },
        ),
        ("grpo_math", {"samples": 64, "beta": 0.04, "learning_rate": 1e-6, "batch_size": 1024}),
        ("dapo_math", {"samples": 16, "prompts_per_round": 512, "truncated": "mask", "filter_accuracy": (0, 1)}),
        ("rloo", {"samples": 2, "beta": 0.05, "learning_rate": 1e-6}),
        ("prime", {"prompts_per_round": 256, "samples": 4, "filter_accuracy": (0.2, 0.8), "prm_learning_rate": 1e-6}),
        ("rto", {"prompts_per_round": 1024, "batch_size": 128, "reward_clip": 10, "value_learning_rate": 9e-6}),
        ("dice_llama3", {"rounds": 2, "samples": 16, "temperature": 0.9, "replay": 0.5, "warmup_steps": 50}),
    ],
)
def test_the_published_values(name, published):
    config = resolve(FOLDER / "online" / f"{name}.yaml")
    assert {field: getattr(config, field) for field in published} == published


TALK = """
from tokenq.envs.environment import Step


class Talk:
    def __init__(self, times: int = 1) -> None:
        self.times = times

    def reset(self, seed: int) -> str:
        self.said = 0
        return f"What is {seed}?"

    def step(self, action: str) -> Step:
        self.said += 1
        return Step("What?", float(len(action)), self.said == self.times)

    def close(self) -> None: ...
"""
"""An environment that likes long answers, so that a random model learns something from it."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Two models of few words, of which a random one says "What" now and then, and rows."""
    folder = tmp_path_factory.mktemp("stand-ins")
    for seed, name in enumerate(("model", "reference")):
        tiny_model("llama", layers=1, seed=seed, vocab_size=32).save_pretrained(folder / name)
        tiny_tokenizer("words", texts=("What is and ? 0 1 2 3 4 5 6 7 8 9 .",)).save_pretrained(folder / name)
    rows = [{"prompt": f"What is {n}?", "answer": "What", "chosen": f" {n}", "rejected": " 9."} for n in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "talk.py").write_text(TALK)
    trained = ["--model", folder / "model", "--data", folder / "rows.jsonl", "--output", folder / "dpo"]
    trained += ["--learning-rate", "1e-2", "--max-steps", "2", "--device", "cpu"]
    assert main([str(word) for word in ("train", *trained)]) == 0
    return folder


@each_recipe
def test_a_recipe_takes_two_steps_with_a_tiny_model(path, stand_ins, tmp_path):
    given = ["--model", stand_ins / "model", "--reference", stand_ins / "reference", "--output", tmp_path / "run"]
    asked = ["--prompts", stand_ins / "rows.jsonl", "--answer", "regex:What", "--gold", "answer"]
    if acts(path):
        asked = ["--environment", f"{stand_ins / 'talk.py'}:Talk", "--environment-options", "times=2"]
        asked += ["--environment-seeds", "2", "--eval-size", "1"]
    given += [*asked, "--device", "cpu"]
    small = ["--max-new-tokens", "6", "--max-length", "64", "--batch-size", "2", "--rounds", "1"]
    small += [] if path.stem.startswith("selm") else ["--samples", "4"]
    more = beside(path, stand_ins / "rows.jsonl", stand_ins / "dpo")
    assert main([str(word) for word in ("online", "--config", path, *given, *small, *more)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in lines) >= 2
    assert sum(line.get("loss") is not None for line in lines) >= 1
