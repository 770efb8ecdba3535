"""The device that was asked for is the one that is used, and a tracker that is asked for logs, or nothing runs."""

import json

import pytest
import torch
import yaml
from accelerate.tracking import get_available_trackers
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.jobs.training import machine

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_model("gpt_neox", layers=1).save_pretrained(folder / "model")
    tiny_tokenizer("bytes").save_pretrained(folder / "model")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(place, output):
    return ["--model", str(place / "model"), "--data", str(place / "rows.jsonl"), "--output", str(output)]


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "nonsense", "cpu:3", "gpu"])
def test_a_device_that_is_not_there_is_refused_as_score_does(place, tmp_path, capsys, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["train", *words(place, tmp_path / "run"), "--device", device]) == 2
    said = capsys.readouterr().err
    read = ["--policy", str(place / "model"), "--reference", str(place / "model"), "--data", str(place / "rows.jsonl")]
    assert main(["score", *read, "--output", str(tmp_path / "s.jsonl"), "--device", device]) == 2
    assert said.removeprefix("tokenq train") == capsys.readouterr().err.removeprefix("tokenq score")
    assert f"no device {device}." in said or f"Unknown device {device!r}" in said
    assert not (tmp_path / "run").exists()


def test_the_device_that_was_used_is_recorded(place, tmp_path):
    assert main(["train", *words(place, tmp_path / "run"), "--max-steps", "1"]) == 0
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["device"] == "cpu x 1"


def test_accelerate_is_told_of_one_device_among_several(monkeypatch):
    """It would take the first of its kind."""
    told = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    with machine._told(torch.device("cuda:1")):
        assert machine.os.environ["ACCELERATE_TORCH_DEVICE"] == "cuda:1"
    assert "ACCELERATE_TORCH_DEVICE" not in machine.os.environ
    assert told == [torch.device("cuda:1")]
    with machine._told(torch.device("cpu")):
        assert "ACCELERATE_TORCH_DEVICE" not in machine.os.environ


def test_one_device_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(machine.UserError, match=r"--device cuda:1 is one device(.|\n)*Give --device cuda"):
        machine.chosen_device("cuda:1")
    assert machine.chosen_device("cuda").type == "cuda"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wandb", "pip install 'tokenq[wandb]'"),
        ("tensorboard", "pip install 'tokenq[tensorboard]'"),
        ("trackio", "pip install 'tokenq[trackio]'"),
        ("mlflow", "pip install mlflow"),
        ("comet_ml", "pip install comet_ml"),
        ("clearml", "pip install clearml"),
        ("dvclive", "pip install dvclive"),
        ("swanlab", "pip install swanlab"),
        ("aim", "pip install aim"),
        ("wandbb", "Did you mean 'wandb'?"),
        ("foo", "Unknown tracker 'foo'"),
        ("all", "Unknown tracker 'all'"),
    ],
)
def test_a_tracker_that_is_not_there_is_an_error_before_anything_runs(place, tmp_path, capsys, name, says, monkeypatch):
    monkeypatch.setattr(machine, "get_available_trackers", list)
    assert main(["train", *words(place, tmp_path / "run"), "--report-to", name]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "tokenq[foo]" not in said
    assert not (tmp_path / "run").exists()


def test_every_tracker_of_accelerate_has_an_answer():
    from accelerate.utils import LoggerType

    assert set(machine.TRACKERS) == {str(name) for name in LoggerType.list()} - {"all"}
    assert {str(name) for name in get_available_trackers()} <= set(machine.TRACKERS)


def test_held_out_rows_that_are_trained_on_are_counted(place, tmp_path, capsys):
    assert (
        main(["train", *words(place, tmp_path / "a"), "--max-steps", "1", "--eval-data", f"{place}/rows.jsonl[:3]"])
        == 0
    )
    assert "warning: 3 of 3 held-out rows are trained on as well" in capsys.readouterr().err
    assert main(["train", *words(place, tmp_path / "b"), "--max-steps", "1", "--eval-size", "3"]) == 0
    assert "trained on as well" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ([], 1e-6),
        (["--lora-rank", "2"], 5e-5),
        (["--loss", "sft"], 1e-5),
        (["--loss", "sft", "--lora-rank", "2"], 2e-4),
        (["--loss", "bradley_terry"], 1e-5),
        (["--loss", "bradley_terry", "--lora-rank", "2"], 1e-4),
        (["--loss", "dpo+0.2*sft", "--lora-rank", "2"], 5e-5),
        (["--lora-rank", "2", "--learning-rate", "3e-5"], 3e-5),
    ],
)
def test_the_learning_rate_fits_the_kind_of_training(place, tmp_path, capsys, flags, rate):
    run = tmp_path / "run"
    assert main(["train", *words(place, run), "--max-steps", "1", "--schedule", "constant", *flags]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"] == rate
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["learning_rate"] == rate
    assert ("the default for" in capsys.readouterr().err) is ("--learning-rate" not in flags)
    assert main(["train", *words(place, run), "--max-steps", "1", "--schedule", "constant", *flags, "--resume"]) == 0
