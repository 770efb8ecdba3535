"""A node is taken away: SIGTERM at random moments of a training; what is resumed is the run that nobody disturbed."""

import json
import os
import random
import re
import signal
import time
from collections import Counter

import pytest
from forked import done, ended, started
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.rundir import RunDir

pytestmark = pytest.mark.slow

STOPS = 30
STEPS = 40
COST = {"tokens_per_second", "seconds", "peak_memory_gb", "tokens"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preempted")
    tiny_model("llama", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(place, output):
    named = ["train", "--model", str(place / "model"), "--data", str(place / "rows.jsonl"), "--output", str(output)]
    named += ["--reference-store", str(place / "store"), "--lora-rank", "2", "--lora-dropout", "0.1"]
    named += ["--eval-size", "6", "--eval-steps", "7", "--save-steps", "5", "--keep-best", "eval_loss"]
    return [*named, "--device", "cpu", "--max-steps", str(STEPS), "--batch-size", "4", "--learning-rate", "1e-3"]


def result(folder):
    """Return what a finished run leaves: the weights to the last bit, and every number that is no cost."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{name: value for name, value in line.items() if name not in COST} for line in lines]
    return (folder / "policy" / "adapter_model.safetensors").read_bytes(), lines, RunDir(folder).steps()


def begun(folder, child):
    """Wait until a run has done its first step, and return whether it goes on."""
    for _ in range(6000):
        lines = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
        if '"loss"' in lines:
            return True
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.01)
    return False


def test_whenever_it_is_stopped_it_goes_on_to_the_same_end(place, tmp_path):
    draw, counts, number = random.Random(0), Counter(), 0
    began = time.monotonic()
    assert done(lambda: main(words(place, tmp_path / "whole")), tmp_path / "whole.log").code == 0
    life, want = time.monotonic() - began, result(tmp_path / "whole")
    assert want[2][-1] == STEPS
    while counts["stops"] < STOPS:
        number += 1
        folder, log = tmp_path / f"run-{number}", tmp_path / f"{number}.log"
        child = started(lambda folder=folder: main(words(place, folder)), log)
        assert begun(folder, child), log.read_text()
        time.sleep(draw.uniform(0, 0.7 * life))
        os.kill(child, signal.SIGTERM)
        code, said = ended(child, log)
        if code == 0:  # it had ended by then
            continue
        counts["stops"] += 1
        assert code == 143, said
        assert f"Continue with: tokenq train --config {folder}/config.yaml --resume" in said
        assert "Traceback" not in said
        stopped = re.search(rf"Stopped after step (\d+) of {STEPS}, with a checkpoint of it\.", said)
        steps = RunDir(folder).steps()
        assert steps[-1] == (int(stopped[1]) if stopped else STEPS), said  # else it was writing its policy
        counts["within the run" if stopped else "at its end"] += 1
        again = ["train", "--config", str(folder / "config.yaml"), "--resume"]
        code, said = done(lambda again=again: main(again), log)
        assert code == 0, said
        assert result(folder) == want
        counts["bit-equal"] += 1
    assert counts["bit-equal"] == STOPS
    assert counts["within the run"] >= STOPS / 2
