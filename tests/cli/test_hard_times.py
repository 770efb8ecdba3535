"""Commands on disks that are full or may not be written, and under kills: told in words, and nothing is lost."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from forked import done
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.frames import Frames
from tokenq.records.trace_files import read_traces

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("times")
    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, layers=1, vocab_size=320).save_pretrained(root / name)
        tiny_tokenizer("bpe").save_pretrained(root / name)
    rows = [{"prompt": f"{i}?", "chosen": f" {i}." * 9, "rejected": f" {i + 1}."} for i in range(30)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def score(place, output):
    words = ["score", "--policy", str(place / "policy"), "--reference", str(place / "reference"), "--device", "cpu"]
    return [*words, "--data", str(place / "rows.jsonl"), "--output", str(output)]


def train(place, output, *more):
    words = ["train", "--model", str(place / "policy"), "--data", str(place / "rows.jsonl"), "--output", str(output)]
    words += ["--max-steps", "6", "--save-steps", "2", "--batch-size", "4", "--device", "cpu"]
    return [*words, "--reference-store", "off", *more]


def limited(size, words):
    """Run a command whose files may not grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return main(words)


def test_scores_on_a_disk_that_gets_full_go_on_where_they_stopped(place, tmp_path):
    """A limit on the size of a file stands in for the disk: a hundred thousand bytes hold a few rows' traces."""
    words = score(place, tmp_path / "traces.jsonl")
    code, said = done(lambda: limited(100_000, words), tmp_path / "printed")
    assert code == 2
    assert "The disk is full" in said
    assert "Traceback" not in said
    assert not (tmp_path / "traces.jsonl").exists()
    kept = len(list(Frames(next(tmp_path.glob(".*.partial-*"))))) - 1
    assert kept > 0
    assert main(words) == 0
    assert main(score(place, tmp_path / "whole.jsonl")) == 0
    assert list(read_traces(tmp_path / "traces.jsonl")) == list(read_traces(tmp_path / "whole.jsonl"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", [score, train])
def test_a_folder_that_may_not_be_written_is_named(place, tmp_path, command, capsys):
    (tmp_path / "mine").mkdir(mode=0o555)
    assert main(command(place, tmp_path / "mine" / "out.jsonl")) == 2
    assert "could not be written" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
    """A disk of sixteen megabytes, where one can be had."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can have a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_training_on_a_full_disk_keeps_its_last_checkpoint_and_goes_on(place, small_disk, tmp_path, capsys):
    """The disk holds one checkpoint of the tiny model, and not two."""
    filler = small_disk / "filler"
    assert main(train(place, tmp_path / "whole")) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoints" / "step-6").iterdir())
    filler.write_bytes(bytes(16 * 2**20 - size * 3 // 2))
    assert main(train(place, small_disk / "run")) == 2
    err = capsys.readouterr().err
    assert "The disk is full" in err
    filler.unlink()
    assert main(train(place, small_disk / "run", "--resume")) == 0
    one, two = (
        (folder / "policy" / "model.safetensors").read_bytes() for folder in (tmp_path / "whole", small_disk / "run")
    )
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "score", "search", "sweep", "win-rate"])
def test_a_few_kills_of_every_command_change_nothing(command, tmp_path):
    """`bench/kills.py` has the campaign; here are three kills of each."""
    words = [
        sys.executable,
        "-m",
        "bench.kills",
        "--commands",
        command,
        "--kills",
        "3",
        "--folder",
        str(tmp_path / "k"),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = re.search(rf"{command}: 3 kills in (\d+) runs: (\d+) bit-equal\n", done.stdout)
    assert counted, done.stdout
    assert counted[1] == counted[2]
