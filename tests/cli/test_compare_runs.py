"""`tokenq compare` on real small trainings: its numbers are those that each run recorded, and files say the same."""

import json
import re
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs" / "artefacts.md").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of dpo, one of ipo under another β, one of simpo and one of kto, on the same pairs; and one of sft."""
    root = tmp_path_factory.mktemp("compare")
    tiny_model("gpt_neox", layers=1).save_pretrained(root / "model")
    tiny_tokenizer("bytes").save_pretrained(root / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}, or not."} for i in range(12)]
    for name, part in (("train", rows[:8]), ("test", rows[8:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    shared = [
        "--model",
        str(root / "model"),
        "--data",
        str(root / "train.jsonl"),
        "--max-steps",
        "4",
        "--device",
        "cpu",
    ]
    shared += ["--eval-data", str(root / "test.jsonl"), "--batch-size", "4", "--learning-rate", "1e-3"]
    shared += ["--reference-store", str(root / "store"), "--keep-checkpoints", "0"]
    for loss, words in {"dpo": [], "ipo": ["--beta", "0.5"], "simpo": [], "kto": [], "sft": []}.items():
        assert main(["train", *shared, "--loss", loss, "--output", str(root / loss), *words]) == 0
    return root


@pytest.fixture(scope="module")
def found(runs):
    names = [str(runs / name) for name in ("dpo", "ipo", "simpo", "kto")]
    words = ["--output", str(runs / "compare.json"), "--html", str(runs / "compare.html"), "--resamples", "1000"]
    assert main(["compare", *names, *words]) == 0
    return json.loads((runs / "compare.json").read_text())


def last_evaluation(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, last = (line for line in lines if "eval_loss" in line)
    return first, last


@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.1), ("ipo", 0.5), ("kto", 0.1)])
def test_numbers_are_those_of_the_run(name, beta, found, runs):
    first, last = last_evaluation(runs / name)
    told = found["numbers"]["runs"][name]
    assert told["beta"] == beta
    rewards = {side: last[f"eval_rewards/{side}"] for side in ("chosen", "rejected")}
    rewards["margin"] = rewards["chosen"] - rewards["rejected"]
    assert {side: one["value"] for side, one in told["rewards"].items()} == pytest.approx(rewards, abs=1e-5)
    held_out = {measure: one["value"] for measure, one in told["held_out"].items()}
    assert held_out["margin"] == pytest.approx(rewards["margin"] / beta, abs=1e-4)
    assert held_out["kl"] == pytest.approx(last["eval_kl"], abs=1e-4)
    for side in ("chosen", "rejected"):
        drift = last[f"eval_logps/{side}"] - first[f"eval_logps/{side}"]
        assert held_out[side] == pytest.approx(drift, abs=1e-4)
    if name != "kto":
        assert held_out["accuracy"] == last["eval_rewards/accuracies"]
        assert held_out["likelihood_accuracy"] == last["eval_logps/accuracies"]
        assert held_out["mean_likelihood_accuracy"] == last["eval_logps/mean_accuracies"]


def test_a_difference_is_that_of_the_numbers(found):
    numbers = found["numbers"]
    assert (numbers["baseline"], numbers["pairs"], numbers["prompts"]) == ("dpo", 4, 4)
    dpo, ipo = (numbers["runs"][name] for name in ("dpo", "ipo"))
    assert dpo["difference"] is None
    for measure, one in ipo["difference"].items():
        want = ipo["held_out"][measure]["value"] - dpo["held_out"][measure]["value"]
        assert one["value"] == pytest.approx(want, abs=1e-9)
    assert ipo["difference"]["margin"]["value"] != 0
    assert numbers["runs"]["simpo"]["rewards"] == {}


def test_every_field_is_explained(found):
    section = PAGE[PAGE.index("\n## Comparisons: ") :]
    section = section[: section.index("\n## ", 1)]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    run = found["numbers"]["runs"]["ipo"]
    assert set(found["numbers"]) | set(run) | set(run["held_out"]) | set(run["cost"]) == named
    assert found["task"] == "compare"
    assert found["model"]["path"].endswith("model")
    assert found["config"]["runs"][0].endswith("dpo")


def test_what_is_printed(runs, found, capsys):
    assert main(["compare", str(runs / "dpo"), str(runs / "ipo"), "--baseline", "ipo", "--resamples", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "difference from ipo" in printed
    assert "4 pairs of 4 prompts" in " ".join(printed.split())
    margin = found["numbers"]["runs"]["dpo"]["held_out"]["margin"]
    assert f"{margin['value']:.3f} [{margin['low']:.3f}, {margin['high']:.3f}]" in printed


def test_the_page_is_one_file_that_asks_nobody(runs, found):
    text = (runs / "compare.html").read_text()
    assert "<title>tokenq compare</title>" in text
    assert "difference from dpo" in text
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"http", text)


def test_a_mistake_is_a_short_message(runs, capsys):
    assert main(["compare", str(runs / "dpo"), str(runs / "sft")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "holds no pair" in err
    assert "Traceback" not in err


def test_the_help_says_that_runs_are_named_without_a_flag(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "usage: tokenq compare RUNS [--config FILE]" in capsys.readouterr().out
