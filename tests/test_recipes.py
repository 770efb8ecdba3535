"""Recipes: every file is a configuration that resolves, with the values that its source publishes, and runs."""

import json
import math
from pathlib import Path

import jinja2
import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.flags import parse
from tokenq.cli.main import COMMANDS, main
from tokenq.errors import UserError
from tokenq.jobs.training.recipes import find
from tokenq.training.config import TrainConfig

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
INPUTS = {"model": "some/model", "data": "rows.jsonl", "output": "runs/none"}

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])


def resolve(path: Path, *words: str) -> TrainConfig:
    """Return what `tokenq train --config path` means, with stand-ins for what the recipe leaves to the command line."""
    keys = {line.split(":")[0] for line in path.read_text().splitlines() if ":" in line and line[0] not in " #-"}
    missing = [word for name, value in INPUTS.items() if name not in keys for word in (f"--{name}", value)]
    command = COMMANDS["train"]
    config = parse(
        TrainConfig,
        ["--config", str(path), *missing, *words],
        prog="tokenq train",
        sections=command.sections,
        spelt_elsewhere=command.spelt_elsewhere,
    )
    assert config is not None
    return config


def test_the_recipes_are_there():
    assert len(RECIPES) == 9


@each_recipe
def test_a_recipe_resolves_to_a_configuration(path):
    config = resolve(path)
    config.check()
    assert config.data
    assert config.loss == path.stem.rsplit("_", 1)[1]


def test_a_recipe_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = FOLDER / "hh_pythia2.8b_dpo.yaml"
    for name in ("recipes/hh_pythia2.8b_dpo.yaml", "hh_pythia2.8b_dpo.yaml", "hh_pythia2.8b_dpo"):
        assert find(name) == wanted
    assert find("recipes/methods/dpo.yaml") == FOLDER / "methods" / "dpo.yaml"
    (tmp_path / "mine.yaml").touch()
    assert find("mine.yaml") == Path("mine.yaml")
    with pytest.raises(UserError, match="There is no file hh_pythia_dpo") as caught:
        find("hh_pythia_dpo")
    assert "hh_pythia2.8b_dpo" in caught.value.hint


@each_recipe
def test_a_recipe_says_where_its_values_come_from_and_how_to_run_it(path):
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "Source: " in comments or "Our own settings" in comments
    assert f"--config recipes/{path.name}" in comments


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("tldr_pythia2.8b_sft", {"learning_rate": 5e-7, "batch_size": 128, "epochs": 1.0}),
        (
            "tldr_pythia2.8b_dpo",
            {"learning_rate": 5e-7, "batch_size": 32, "warmup_steps": 150, "max_grad_norm": 10.0, "beta": 0.1},
        ),
        (
            "hh_pythia2.8b_dpo",
            {"optimizer": "rmsprop", "batch_size": 64, "max_length": 512, "max_prompt_length": 256, "beta": 0.1},
        ),
        ("ultrafeedback_zephyr_sft", {"learning_rate": 2e-5, "batch_size": 128, "max_length": 2048}),
        (
            "ultrafeedback_zephyr_dpo",
            {"beta": 0.01, "learning_rate": 5e-7, "schedule": "cosine", "warmup_ratio": 0.1, "batch_size": 128},
        ),
    ],
)
def test_the_published_values(name, published):
    config = resolve(FOLDER / f"{name}.yaml")
    assert {field: getattr(config, field) for field in published} == published


@pytest.mark.parametrize("name", ["tldr_pythia2.8b", "hh_pythia2.8b", "ultrafeedback_zephyr"])
def test_the_second_step_starts_from_the_first(name):
    first, second = (resolve(FOLDER / f"{name}_{step}.yaml") for step in ("sft", "dpo"))
    assert second.model == f"{first.output}/policy"


def test_flags_override_a_recipe():
    assert resolve(FOLDER / "hh_pythia2.8b_dpo.yaml", "--beta", "0.5").beta == 0.5


def test_files_that_a_recipe_names_are_beside_it():
    named = {config.chat_template for config in map(resolve, RECIPES)} - {None}
    assert {Path(name).name for name in named} == {path.name for path in FOLDER.glob("*.jinja")}


def test_the_zephyr_template():
    template = jinja2.Template((FOLDER / "zephyr.jinja").read_text())
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompt = "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n"
    reply = [{"role": "assistant", "content": "Ho"}]
    assert template.render(messages=turns, eos_token="</s>") == prompt
    assert template.render(messages=turns, eos_token="</s>", add_generation_prompt=True) == prompt + "<|assistant|>\n"
    assert template.render(messages=turns + reply, eos_token="</s>") == prompt + "<|assistant|>\nHo</s>\n"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A tiny model on disk and a few pairs in chat form, which every recipe can read."""
    folder = tmp_path_factory.mktemp("stand-ins")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes", chat_template=TEMPLATE).save_pretrained(folder / "model")
    rows = [
        {name: [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": text}]
         for name, text in (("chosen", f"{i}!"), ("rejected", f"No {i}."))}
        for i in range(6)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


TEMPLATE = (FOLDER / "zephyr.jinja").read_text()


@each_recipe
def test_a_recipe_runs_for_two_steps_with_a_tiny_model(path, stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    rows = str(stand_ins / "rows.jsonl")
    words = ["train", "--config", str(path), "--model", str(stand_ins / "model"), "--data", rows]
    words += ["--output", str(tmp_path / "run"), "--device", "cpu", "--max-steps", "2", "--batch-size", "2"]
    words += ["--eval-data", rows, "--eval-size", "0"]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    if resolve(path).loss == "dpo":
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert (tmp_path / "run" / "policy" / "README.md").exists()
