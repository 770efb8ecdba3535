"""The folder of a training: written when the run can start, by one process; it goes on from what it began with."""

import json
import os
import shutil

import pytest
import torch
import yaml
from examples import cases
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tokenq.cli.main import main
from tokenq.locks import hold_folder

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"{i}?", "chosen": f" {i}.", "rejected": f" {i + 1}."} for i in range(8)]


@pytest.fixture
def place(tmp_path):
    tiny_model("llama", layers=1).save_pretrained(tmp_path / "model")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def words(place, *more, model="model"):
    given = [
        "train",
        "--model",
        str(place / model),
        "--data",
        str(place / "rows.jsonl"),
        "--output",
        str(place / "run"),
    ]
    given += ["--max-steps", "4", "--save-steps", "2", "--batch-size", "2", "--device", "cpu", "--eval-size", "2"]
    return [*given, "--reference-store", str(place / "store"), *more]


def change_weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    model.save_pretrained(folder)


def test_a_wrong_reference_blocks_neither_the_corrected_command_nor_resuming(place, capsys):
    for more in ([], ["--resume"]):
        assert main(words(place, "--reference", str(place / "none"), *more)) == 2
        assert "none" in capsys.readouterr().err
        assert not (place / "run").exists()
    assert main(words(place, "--resume")) == 0


def test_a_run_that_fails_before_its_first_step_is_withdrawn_and_one_that_failed_later_stays(
    place, monkeypatch, capsys
):
    from tokenq.training import loop

    update = loop._Trainer.update

    def failing(self, step):
        if step == limit:
            raise KeyboardInterrupt
        return update(self, step)

    monkeypatch.setattr(loop._Trainer, "update", failing)
    limit = 0
    assert main(words(place)) == 130
    assert not (place / "run").exists()
    limit = 3
    assert main(words(place)) == 130
    assert (place / "run" / "config.yaml").exists()
    assert main(words(place)) == 2
    assert "already holds a run" in capsys.readouterr().err


CHANGES = {
    "rows in another order": (lambda place: _rewrite(place, ROWS[::-1]), "data had SHA-256"),
    "another row": (lambda place: _rewrite(place, [*ROWS[:7], ROWS[0]]), "data had SHA-256"),
    "other weights": (lambda place: change_weights(place / "model"), "the model had SHA-256"),
}


def _rewrite(place, rows):
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WHOLE, ADAPTER = (), ("--lora-rank", "2")
CHANGES_AND_WAYS = [(change, way) for change in CHANGES for way in (WHOLE, ADAPTER)]
EACH_CHANGE = [("rows in another order", WHOLE), ("another row", WHOLE), ("other weights", ADAPTER)]


@pytest.mark.parametrize(("change", "lora"), cases(CHANGES_AND_WAYS, EACH_CHANGE))
def test_a_run_goes_on_from_what_it_began_with_alone(place, change, lora, capsys):
    """By default each change of a training of all weights or of an adapter."""
    assert main(words(place, *lora)) == 0
    shutil.rmtree(place / "run" / "policy")
    shutil.rmtree(place / "run" / "checkpoints" / "step-4", ignore_errors=True)
    before = (place / "run" / "metrics.jsonl").read_bytes()
    make, says = CHANGES[change]
    shutil.copytree(place / "model", place / "kept")
    make(place)
    capsys.readouterr()
    assert main(words(place, "--resume", *lora)) == 2
    err = capsys.readouterr().err
    assert "began with other inputs" in err
    assert says in err
    assert (place / "run" / "metrics.jsonl").read_bytes() == before
    _rewrite(place, ROWS)
    shutil.rmtree(place / "model")
    (place / "kept").rename(place / "model")
    assert main(words(place, "--resume", *lora)) == 0
    assert (place / "run" / "policy").exists()


def test_a_replaced_reference_is_named(place, capsys):
    shutil.copytree(place / "model", place / "other")
    change_weights(place / "other")
    more = ["--reference", str(place / "other")]
    assert main(words(place, *more)) == 0
    change_weights(place / "other")
    assert main(words(place, "--resume", *more)) == 2
    assert "the reference had SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_second_training_is_told_who_trains(place, more, capsys):
    assert main(words(place)) == 0
    with hold_folder(place / "run"):
        assert main(words(place, *more)) == 2
    assert f"is being written by another process: process {os.getpid()} on" in capsys.readouterr().err


def test_a_password_in_the_environment_blanks_no_path_and_resuming_works(place, monkeypatch):
    """The name of a folder on the way is also somebody's password."""
    monkeypatch.setenv("DB_PASSWORD", place.name)
    assert main(words(place)) == 0
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert config["model"] == str(place / "model")
    assert main(words(place, "--resume")) == 0


def test_a_secret_in_the_settings_is_blanked_and_does_not_stop_a_resume(place):
    store = place / "sk-aaaaaaaaaaaaaaaaaaaaaaaa"
    more = ["--reference-store", str(store), "--run-name", "sk-" + "a" * 24, "--columns", "prompt=prompt"]
    assert main(words(place, *more)) == 0
    assert "sk-aaaa" not in (place / "run" / "config.yaml").read_text()
    assert main(words(place, *more, "--resume")) == 0
