"""The recipes of HelpSteer2: each resolves with its published values, and one after the other they run on stand-ins."""

import json

import pytest
from test_recipes import FOLDER
from test_recipes import resolve as resolve_training
from tiny import CHATML, tiny_model, tiny_tokenizer

from tokenq.cli.flags import parse
from tokenq.cli.main import COMMANDS, main
from tokenq.data.layouts.ratings import HELPSTEER
from tokenq.files import JsonLines
from tokenq.rollout.config import OnlineConfig

RECIPES = sorted((FOLDER / "helpsteer2").glob("*.yaml"))
TRAININGS = [path for path in RECIPES if path.stem != "steerlm2"]


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_says_where_its_values_come_from(path):
    text = path.read_text()
    assert "# Source: " in text
    assert f"--config recipes/helpsteer2/{path.name}" in text


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("sft", {"loss": "sft", "learning_rate": 2e-6}),
        ("attribute_sft", {"loss": "sft", "condition_on": HELPSTEER, "condition_scale": ()}),
        ("regression", {"loss": "regression", "attributes": HELPSTEER, "learning_rate": 2e-6, "epochs": 2.0}),
        ("preference", {"loss": "scaled_bradley_terry", "learning_rate": 1e-6, "max_steps": 105}),
    ],
)
def test_the_published_values(name, published):
    config = resolve_training(FOLDER / "helpsteer2" / f"{name}.yaml")
    config.check()
    found = {field: getattr(config, field) for field in published}
    assert {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()} == published


def test_the_published_values_of_the_rounds():
    row = COMMANDS["online"]
    words = ["--config", str(FOLDER / "helpsteer2" / "steerlm2.yaml"), "--model", "m", "--output", "o"]
    words += ["--reference", "r", "--reward-model", "rm", "--prompts", "p"]
    config = parse(OnlineConfig, words, prog="online", sections=row.sections, spelt_elsewhere=row.spelt_elsewhere)
    config.check()
    assert (config.method, config.rounds, config.samples_of_prompt, config.epochs) == ("steerlm", 2, 10, 2.0)
    assert (config.learning_rate, config.batch_size, config.prompts_per_round) == (1e-7, 128, 20000)
    assert config.condition == {**dict.fromkeys(HELPSTEER[:3], 4), **dict.fromkeys(HELPSTEER[3:], 2)}


@pytest.mark.slow
def test_the_whole_of_helpsteer2_runs(tmp_path, monkeypatch):
    """From a tiny model to two rounds, on rows of the three data sets as they are published, columns and all."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", layers=1).save_pretrained("model")
    tiny_tokenizer("bytes", chat_template=CHATML).save_pretrained("model")
    rows = {
        "rated": [{"prompt": f"Say {i}", "response": f"{i}!", **{n: (i + k) % 5 for k, n in enumerate(HELPSTEER)}}
                  for i in range(6)],
        "preference": [{"split": "train", "prompt": f"Say {i}", "response_1": f"{i}!", "response_2": "No.",
                        "preference_strength": -3 + i, "preference_statement": "First."} for i in range(6)],
        "helpsteer3": [{"domain": "general", "language": "english", "context": [{"role": "user", "content": f"{i}?"}],
                        "response1": f"{i}!", "response2": "No.", "overall_preference": -3 + i,
                        "individual_preference": []} for i in range(6)],
    }  # fmt: skip
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    short = ["--device", "cpu", "--batch-size", "2"]

    def train(recipe, model, data, output):
        words = ["train", "--config", f"helpsteer2/{recipe}.yaml", "--model", model, "--data", f"{data}.jsonl"]
        assert main([*words, "--output", output, "--max-steps", "2", *short]) == 0

    train("sft", "model", "rated", "sft")
    train("attribute_sft", "model", "rated", "asked")
    train("regression", "model", "rated", "rm")
    train("preference", "model", "preference", "bt2")
    train("preference", "model", "helpsteer3", "bt3")
    for run in ("bt2", "bt3"):  # five pairs of strengths 3, 2, 1, 1, 2: the tie is left out
        told = json.loads((tmp_path / run / "provenance.json").read_text())["data"]["summary"]
        assert (told["pairs"], sum(told["dropped"].values())) == (5, 1)
    words = ["online", "--config", "helpsteer2/steerlm2.yaml", "--model", "asked/policy", "--reference", "sft/policy"]
    words += ["--reward-model", "rm/reward_model", "--prompts", "rated.jsonl", "--output", "steered", "--style", "chat"]
    assert main([*words, *short, "--max-new-tokens", "4", "--prompts-per-round", "3", "--samples", "3"]) == 0
    lines = JsonLines(tmp_path / "steered" / "metrics.jsonl").read()
    assert [line["round/weights"] for line in lines if "round" in line] == [3, 3]
