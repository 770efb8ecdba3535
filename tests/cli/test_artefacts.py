"""docs/artefacts.md beside what a run leaves: every file and every field is explained, and nothing else is."""

import json
import re
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "artefacts.md").read_text()
ONLY_IN_SFT = {"logps/responses", "response_length"}


def explained(heading: str) -> set[str]:
    """Return the names in the first column of the tables under a heading."""
    section = PAGE[PAGE.index(f"\n## {heading}") + 4 :]
    section = section[: section.index("\n## ")]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture(scope="module", params=["dpo", "sft"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", str(folder / "model"), "--data", str(folder / "rows.jsonl"), "--output", str(folder / "run")]
    words += ["--loss", request.param, "--max-steps", "2", "--batch-size", "2", "--eval-size", "2", "--device", "cpu"]
    words += ["--reference-store", str(folder / "store")]
    assert main(["train", *words]) == 0
    return request.param, folder / "run"


def test_files(run):
    _, folder = run
    named = set(re.findall(r"^  ([a-z_.]+/?)$", PAGE, re.MULTILINE))
    assert {path.name + "/" * path.is_dir() for path in folder.iterdir()} == named


def test_fields_of_the_provenance(run):
    _, folder = run
    record = json.loads((folder / "provenance.json").read_text())
    assert set(record) == explained("provenance.json")


def test_fields_of_the_held_out_responses(run):
    loss, folder = run
    rows = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    assert all(set(row) == explained("held_out.jsonl") for row in rows)
    assert [row["side"] for row in rows] == (["chosen", "rejected"] * 2 if loss == "dpo" else [None] * 2)
    assert all((row["ref_logp"] is None) == (loss == "sft") for row in rows)


def test_fields_of_the_metrics(run):
    loss, folder = run
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in trained] == [1, 2]
    assert [line["step"] for line in evaluated] == [0, 2]
    if loss == "dpo":
        assert set(trained[0]) == explained("metrics.jsonl")
    else:
        assert set(trained[0]) - explained("metrics.jsonl") == ONLY_IN_SFT
        assert all(f"`{name}`" in PAGE for name in ONLY_IN_SFT)
        assert not {name for name in trained[0] if name.startswith(("rewards", "kl"))}
    names = {name.removeprefix("eval_") for name in evaluated[0] if name.startswith("eval_")}
    assert names < set(trained[0])
    assert set(evaluated[0]) == {"step", "epoch"} | {f"eval_{name}" for name in names}
