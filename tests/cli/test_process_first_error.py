"""A process reward model from training to first errors, all by the command line."""

import base64
import json
import re
import zlib

import pytest
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.integration

FIRST = [None, 0, 1, 2]


def write(path, numbers):
    """Write solutions of three steps; from its first wrong step on a solution says "bad"."""
    rows = [
        {
            "prompt": f"{i}?",
            "completions": ["good" if right else "bad" for right in rights],
            "labels": rights,
        }
        for i in numbers
        for rights in [[FIRST[i % 4] is None or step < FIRST[i % 4] for step in range(3)]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A reward model that has learned which steps are right, and solutions that it has not seen."""
    folder = tmp_path_factory.mktemp("process")
    tiny_model("llama", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    write(folder / "train.jsonl", range(32))
    write(folder / "test.jsonl", range(32, 44))
    words = ["train", "--loss", "process", "--model", str(folder / "model"), "--data", str(folder / "train.jsonl")]
    words += ["--epochs", "6", "--batch-size", "8", "--learning-rate", "1e-2", "--device", "cpu"]
    assert main([*words, "--output", str(folder / "run")]) == 0
    return folder


def numbers_of(place, name, *words):
    options = ["--folds", "3", "--resamples", "200", "--output", str(place / f"{name}.json")]
    assert main(["eval", "first-error", *words, *options]) == 0
    record = json.loads((place / f"{name}.json").read_text())
    rows = {(one["readout"], one["step_score"], one["rule"]): one for one in record["numbers"]["results"]}
    return record, rows


def test_a_process_reward_model_finds_first_errors(place, capsys):
    """9 of 12 solutions have an error, and its step is the first whose reward is below 0: a probability of ½.

    Cross-validation sees no such number and takes the lowest reward of a right step elsewhere for its threshold.
    """
    data, judge = str(place / "test.jsonl"), str(place / "run" / "reward_model")
    score = ["score", "--reward-model", judge, "--data", data, "--levels", "step", "--device", "cpu"]
    assert main([*score, "--output", str(place / "traces.jsonl")]) == 0
    page = place / "stored.html"
    record, stored = numbers_of(place, "stored", "--traces", str(place / "traces.jsonl"), "--html", str(page))
    assert (record["numbers"]["examples"], record["numbers"]["erroneous"]) == (12, 9)
    assert {readout for readout, _, _ in stored} == {"reward_model", "random"}
    scores = {trace.id: [span.reward for span in trace.spans] for trace in read_traces(place / "traces.jsonl")}
    below = [next((step for step, score in enumerate(row) if score < 0), None) for row in scores.values()]
    assert below == FIRST * 3
    usual, others = stored["reward_model", "cumulative", "threshold"], record["numbers"]["baselines"].values()
    assert usual["f1"]["value"] > max(one["f1"]["value"] for one in others)
    assert record["numbers"]["baselines"]["always_none"]["accuracy"]["value"] == pytest.approx(1 / 4)
    assert record["reward_model"]["outputs"] == ["reward"]
    packed = re.findall(
        r'<script type="application/zlib"[^>]*>([^<]*)<', page.with_name("stored-traces.html").read_text()
    )
    assert any('"label":[true,false,false]' in zlib.decompress(base64.b64decode(row)).decode() for row in packed)
    _, read = numbers_of(place, "read", "--reward-model", judge, "--data", data, "--device", "cpu")
    assert read["reward_model", "cumulative", "threshold"]["f1"] == pytest.approx(usual["f1"])
    assert "reward model" in capsys.readouterr().out
