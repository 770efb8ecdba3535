"""Every job gives on an accelerator what it gives on the CPU: training by any kind of reference, reading, searching."""

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.files import JsonLines
from tokenq.records.results import read_results
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
PAIRS = [
    {"prompt": f"Count to {n}:", "chosen": f" {' '.join(map(str, range(n)))}", "rejected": f" {n} {n * 'again '}"}
    for n in range(1, 9)
]
SEARCHES = {
    "greedy": (),
    "sample": ("--n", "4"),
    "best_of_n": ("--n", "4"),
    "beam": ("--width", "3"),
    "beam_sample": ("--width", "3"),
    "chunk_beam": ("--width", "2"),
    "lookahead": ("--width", "2", "--lookahead-weight", "1"),
    "mcts": ("--simulations", "6"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("accelerator")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return root


def steps_of(place, output, device, *more):
    words = ["train", "--model", place / "policy", "--data", place / "pairs.jsonl", "--output", output]
    words += ["--device", device, "--learning-rate", "1e-3", "--batch-size", "4", *more]
    assert main([str(word) for word in words]) == 0
    return [line for line in JsonLines(output / "metrics.jsonl").read() if "loss" in line]


@pytest.mark.parametrize(
    "more",
    [
        ("--reference-store", "off"),
        ("--reference-store", "STORE"),
        ("--lora-rank", "2"),
        *(("--loss", name) for name in ("tdpo1", "kto", "aot", "simpo", "wpo")),
    ],
)
def test_training(place, tmp_path, more):
    runs = {}
    for device in ("cpu", DEVICE):
        given = [str(tmp_path / f"store-{device}") if word == "STORE" else word for word in more]
        runs[device] = steps_of(place, tmp_path / device, device, *given)
    assert len(runs["cpu"]) == len(runs[DEVICE]) == 2
    for ours, theirs in zip(runs[DEVICE], runs["cpu"], strict=True):
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-2, abs=2e-4), name


@pytest.mark.parametrize("top_k", ["0", "3"])
def test_reading(place, tmp_path, top_k):
    found = {}
    for device in ("cpu", DEVICE):
        output = tmp_path / f"{device}.jsonl"
        words = ["score", "--policy", place / "policy", "--reference", place / "reference", "--top-k", top_k]
        words += ["--data", place / "pairs.jsonl", "--output", output, "--device", device]
        assert main([str(word) for word in words]) == 0
        found[device] = [trace.totals for trace in read_traces(output)]
    for ours, theirs in zip(found[DEVICE], found["cpu"], strict=True):
        assert ours.logp == pytest.approx(theirs.logp, rel=1e-3)
        assert ours.ref_logp == pytest.approx(theirs.ref_logp, rel=1e-3)


ALONE = [method for method in SEARCHES if method not in ("best_of_n", "chunk_beam", "lookahead")]
"""Searches that need no reference."""


@pytest.mark.parametrize(
    ("method", "reference"), [*((method, True) for method in SEARCHES), *((method, False) for method in ALONE)]
)
def test_searching(place, tmp_path, method, reference):
    found = {}
    more = ("--reference", place / "reference") if reference else ()
    for device in ("cpu", DEVICE):
        output = tmp_path / f"{device}.jsonl"
        words = ["search", "--policy", place / "policy", "--prompts", place / "pairs.jsonl", "--output", output]
        words += ["--device", device, "--method", method, *SEARCHES[method], "--max-new-tokens", "8", *more]
        assert main([str(word) for word in words]) == 0
        found[device] = list(read_results(output))
    same = sum(
        ours.candidates[0].token_ids == theirs.candidates[0].token_ids
        for ours, theirs in zip(found[DEVICE], found["cpu"], strict=True)
    )
    assert same >= len(PAIRS) - 1  # rounding may decide one near tie


def test_a_device_that_is_not_there_is_named(place, tmp_path, capsys):
    beyond = f"cuda:{torch.cuda.device_count()}"
    words = ["score", "--policy", place / "policy", "--reference", place / "reference", "--device", beyond]
    words += ["--data", place / "pairs.jsonl", "--output", tmp_path / "t.jsonl"]
    assert main([str(word) for word in words]) == 2
    assert beyond in capsys.readouterr().err
