"""Every loss of the table: `tokenq doctor` examines its run, and `tokenq compare` sets it beside one of DPO.

The runs take one example a step, so that a step of labelled responses holds one label only, and hold rows out.
"""

import json

import pytest
from examples import cases
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.core.losses import LOSSES, find_sum

pytestmark = pytest.mark.integration

QUESTIONS = ["cat", "dog", "sea", "old", "red", "mat", "sun", "sky"]
FROM_PAIRS = ("pairs", "calibrated", "margins", "labelled", "ranked")
"""Kinds of data that a file of pairs gives too."""


def rows_for(want):
    """Return rows of the form that a loss asks for; pairs have what some losses read beside them."""
    if want == "weighted":
        for q in QUESTIONS:
            for word, weight in (("so", 0.75), ("no", 0.25)):
                yield {"prompt": f"{q}?", "completion": f" {word}", "target_weights": weight, "old_logps": -5.5}
        return
    for number, q in enumerate(QUESTIONS):
        forms = {
            "labelled": {"completion": f" {number} {q}", "label": number % 2 == 0},
            "rollouts": {"completion": f" {number} {q}", "advantages": number - 3.5, "old_logps": -5.5}
            | {"returns": number, "old_values": 0},
            "rewarded": {"completion": f" {number} {q}", "reward": number % 3 / 2},
            "ranked": {"answers": [{"answer": f" {q} {r}", "rank": r} for r in range(1, 3 + number % 2)]},
            "rated": {"completion": f" {number} {q}", "ratings": {"good": number % 4, "short": 1}},
            "steps": {"completions": [f" {q}.", " so.", " 7."], "labels": [True, number % 2 == 0, False]},
            "responses": {"completion": f" {number} {q}"},
        }
        pair = {"chosen": f" a {q}\nand {number}", "rejected": f" a {q}\nno"}
        yield {"prompt": f"{q}?"} | forms.get(want, pair | {"calibration": f" {q}", "margin": number % 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, rows of every kind, traces of the pairs, and a run of DPO on each kind of rows that holds pairs."""
    root = tmp_path_factory.mktemp("every-loss")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model("gpt_neox", layers=1, seed=seed).save_pretrained(root / name)
        tiny_tokenizer("bytes").save_pretrained(root / name)
    for want in {find_sum(loss).selection for loss in LOSSES}:
        name = "pairs" if want in ("calibrated", "margins") else want
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_for(want)))
    train(root, "beside", "dpo", "pairs")
    return root


def train(folder, output, loss, want, held_out=2):
    """Train two steps of one example, and evaluate on held-out rows where there are any."""
    data = folder / ("pairs.jsonl" if want in ("calibrated", "margins") else f"{want}.jsonl")
    words = ["train", "--model", str(folder / "model"), "--data", str(data), "--loss", loss]
    words += ["--output", str(folder / output), "--device", "cpu", "--max-steps", "2", "--batch-size", "1"]
    words += ["--eval-size", str(held_out), "--learning-rate", "1e-3", "--reference-store", str(folder / "store")]
    assert main([*words, "--keep-checkpoints", "0"]) == 0
    return folder / output


def first_of_each_kind():
    """Return the first loss of every kind of rows, of units and of what a model gives."""
    kinds = {}
    for name in LOSSES:
        found = find_sum(name)
        kinds.setdefault((found.selection, found.unit.name, found.output), name)
    return set(kinds.values())


BESIDE_LOG_PROBS = {"tdpo1", "step_dpo", "bco", "clipped_value", "kl_k3"}
"""Losses whose runs leave something of their own beside what others of their kind leave."""
BY_DEFAULT = first_of_each_kind() | BESIDE_LOG_PROBS


@pytest.mark.parametrize("loss", cases(LOSSES, BY_DEFAULT))
def test_a_run_is_examined_and_compared(loss, folder, capsys):
    """By default a loss of every kind: others of its kind leave the same files."""
    found = find_sum(loss)
    run = train(folder, loss, loss, found.selection)
    words = ["--output", str(folder / f"{loss}.json"), "--html", str(folder / f"{loss}.html")]
    assert main(["doctor", str(run), *words]) in (0, 1)
    assert json.loads((folder / f"{loss}.json").read_text())["unseen"] == []
    if found.selection in ("labelled", "ranked"):
        run = train(folder, f"{loss} of pairs", loss, "pairs")
    capsys.readouterr()
    code = main(["compare", str(run), str(folder / "beside"), "--resamples", "1000"])
    told = capsys.readouterr()
    if found.selection in FROM_PAIRS and found.output == "logps":
        assert code == 0, told.err
        assert "2 pairs of 2 prompts that all runs hold out" in " ".join(told.out.split())
    else:
        assert code == 2
        assert ("holds no pair" if found.output == "logps" else "trained a reward model") in " ".join(told.err.split())


@pytest.mark.parametrize("loss", [name for name in LOSSES if find_sum(name).unit.name == "labelled"])
def test_a_run_whose_steps_held_one_label_each_is_examined(loss, folder):
    run = train(folder, f"{loss} alone", loss, "labelled", held_out=0)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sides = [{side for side in ("chosen", "rejected") if step.get(f"rewards/{side}") is not None} for step in steps]
    assert [len(own) for own in sides] == [1, 1]
    assert main(["doctor", str(run), "--depth", "record"]) in (0, 1)
