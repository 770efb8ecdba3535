"""A run goes on from any directory and to another end: paths are recorded absolute, more steps stretch the schedule."""

import json

import pytest
import yaml
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from tokenq.cli.main import main
from tokenq.jobs.training.absolute import absolute_source, with_absolute_paths
from tokenq.training.config import TrainConfig

pytestmark = pytest.mark.integration


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder with a model and pairs, the working directory being inside it."""
    tiny_model("gpt_neox", layers=1).save_pretrained(tmp_path / "models" / "tiny")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "models" / "tiny")
    rows = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


WORDS = ["--model", "../models/tiny", "--data", "../rows.jsonl[:8]", "--batch-size", "4", "--device", "cpu"]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_more_steps_continue_with_the_optimisers_state(place, monkeypatch, capsys, finished):
    """Six steps, then ten: from step 7 on the rate is that of ten steps, 1e-3 (1 − step/10), the moments are those of
    the first six, and a run of ten steps that begins at the first one's checkpoint would say the same.
    """
    options = [*WORDS, "--learning-rate", "1e-3", "--eval-data", "../rows.jsonl[8:]", "--output", "run"]
    assert main(["train", *options, "--max-steps", "6"]) == 0
    run = place / "here" / "run"
    six = lines(run)
    if not finished:
        (run / "policy").rename(place / "policy before")
    assert main(["train", *options, "--max-steps", "10", "--resume"]) == 0
    assert "max_steps was 6, now 10): the schedule is stretched to it" in capsys.readouterr().err
    trained = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, 11))
    assert [line["loss"] for line in trained[:6]] == [line["loss"] for line in six if "loss" in line]
    rates = [line["learning_rate"] for line in trained]
    assert rates == pytest.approx([1e-3 * (1 - s / 6) for s in range(6)] + [1e-3 * (1 - s / 10) for s in range(6, 10)])
    assert [line["step"] for line in lines(run) if "eval_loss" in line] == [0, 6, 10]
    assert (run / "policy" / "model.safetensors").exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["max_steps"] == 10
    (again,) = json.loads((run / "provenance.json").read_text())["resumed"]
    assert again["changed"] == {"max_steps": [6, 10]}
    assert load_file(run / "policy" / "model.safetensors")


def test_more_epochs_and_fewer_steps(place, capsys):
    options = [*WORDS, "--output", "run"]
    assert main(["train", *options, "--epochs", "2"]) == 0  # two steps each
    assert main(["train", *options, "--epochs", "3", "--resume"]) == 0
    assert lines(place / "here" / "run")[-1]["epoch"] == 3
    assert main(["train", *options, "--epochs", "1", "--resume"]) == 2
    assert "The run has done 6 steps, and 2 are asked for." in capsys.readouterr().err
    assert main(["train", *options, "--epochs", "3", "--seed", "1", "--resume"]) == 2
    assert "seed was 0, now 1" in capsys.readouterr().err


def test_a_finished_run_without_a_checkpoint_cannot_be_longer(place, capsys):
    options = [*WORDS, "--output", "run", "--keep-checkpoints", "0"]
    assert main(["train", *options, "--max-steps", "2"]) == 0
    before = (place / "here" / "run" / "metrics.jsonl").read_bytes()
    assert main(["train", *options, "--max-steps", "4", "--resume"]) == 2
    assert "is finished, and there is no checkpoint to go on from" in capsys.readouterr().err
    assert (place / "here" / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_is_read_and_resumed_from_another_directory(place, monkeypatch):
    assert main(["train", *WORDS, "--output", "run", "--max-steps", "1", "--lora-rank", "2"]) == 0
    run = place / "here" / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"] == str(place / "models" / "tiny")
    assert config["data"] == [f"{place}/rows.jsonl[:8]"]
    assert config["output"] == str(run)
    adapter = json.loads((run / "policy" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(place / "models" / "tiny")
    card = (run / "policy" / "README.md").read_text()
    assert "base_model:" not in card  # it is no id of the hub
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    words = ["--run", str(run), "--data", str(place / "rows.jsonl"), "--device", "cpu", "--output", "traces.jsonl"]
    assert main(["score", *words]) == 0
    assert main(["doctor", str(run)]) in (0, 1)
    assert main(["train", "--config", str(run / "config.yaml"), "--resume", "--max-steps", "2"]) == 0
    assert len(lines(run)) == 2


def test_what_is_no_path_stays_as_it_is(place):
    given = TrainConfig("org/model", ["org/pairs:train[:10]@2", "../rows.jsonl:train@0.5", "../*.jsonl", "../no.jsonl"],
                        "runs/x", reference="~/nothing", reference_store="off", adapter="../models/tiny")  # fmt: skip
    found = with_absolute_paths(given)
    assert found.model == "org/model"
    assert found.data == [
        "org/pairs:train[:10]@2",
        f"{place}/rows.jsonl:train@0.5",
        f"{place}/*.jsonl",
        "../no.jsonl",
    ]
    assert (found.reference, found.reference_store) == ("~/nothing", "off")
    assert found.adapter == str(place / "models" / "tiny")
    assert found.output == str(place / "here" / "runs" / "x")
    assert with_absolute_paths(found) == found
    assert absolute_source(f"{place}/rows.jsonl[:3]") == f"{place}/rows.jsonl[:3]"
