"""`tokenq.train` from Python: what it takes, what it gives back, and that the program around it stays as it was."""

import inspect
import json
import logging
import random
from dataclasses import MISSING, fields
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from accelerate import Accelerator
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

import tokenq
from tokenq.cli.main import main
from tokenq.errors import UserError
from tokenq.training.config import TrainConfig

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"{n}?", "chosen": f" {n}.", "rejected": f" {n + 1}."} for n in range(8)]
SHORT = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "keep_checkpoints": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in a folder and rows in a file."""
    root = tmp_path_factory.mktemp("python")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def weights(run):
    return (run.policy / "model.safetensors").read_bytes()


def test_its_keywords_are_the_flags_of_the_command():
    signature = inspect.signature(tokenq.train).parameters
    own = {"tokenizer": None, "listener": inspect.Parameter.empty}
    settings = {one.name: one for one in fields(TrainConfig)}
    assert {*signature} == {*settings, *own}
    for name, one in settings.items():
        default = signature[name].default
        if one.default is MISSING and one.default_factory is MISSING:
            assert default is inspect.Parameter.empty
        else:
            known = one.default if one.default is not MISSING else one.default_factory()
            assert default == known or dict(default) == dict(known)


def test_a_loaded_model_and_rows_give_what_files_give(place, tmp_path):
    tokenizer = tiny_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    by_name = tokenq.train(place / "model", place / "rows.jsonl", tmp_path / "files", **SHORT)
    forms = {
        "pair": ((model, tokenizer), ROWS, None),
        "apart": (model, datasets.Dataset.from_list(ROWS), tokenizer),
        "frame": (str(place / "model"), pandas.DataFrame(ROWS), None),
        "names": (place / "model", [place / "rows.jsonl"], None),
    }
    for name, (one, rows, theirs) in forms.items():
        run = tokenq.train(one, rows, str(tmp_path / name), tokenizer=theirs, **SHORT)
        assert weights(run) == weights(by_name)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert by_name.folder == tmp_path / "files"
    steps = [row["step"] for row in by_name.metrics if "loss" in row]
    assert steps == [1, 2]
    assert by_name.metrics.to_frame()["loss"].tolist() == [row["loss"] for row in by_name.metrics]
    AutoModelForCausalLM.from_pretrained(by_name.policy)


def test_the_command_goes_on_with_a_run_that_python_began(place, tmp_path):
    shared = {**SHORT, "keep_checkpoints": 1}
    tokenq.train(place / "model", ROWS, tmp_path / "run", **shared)
    assert main(["train", "--config", str(tmp_path / "run" / "config.yaml"), "--resume", "--max-steps", "3"]) == 0
    whole = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in whole if "loss" in row] == [1, 2, 3]


def test_two_trainings_in_one_process_each_in_its_precision(place, tmp_path):
    """And neither remembers the other: the third is the first again, to the last bit."""
    runs = [
        tokenq.train(place / "model", ROWS, tmp_path / str(number), mixed_precision=precision, **SHORT)
        for number, precision in enumerate(("no", "bf16", "no"))
    ]
    assert weights(runs[0]) == weights(runs[2]) != weights(runs[1])
    said = [json.loads((run.folder / "provenance.json").read_text())["precision"] for run in runs]
    assert said[0] == said[2] != said[1]


def test_the_program_around_stays_as_it_was(place, tmp_path):
    host = Accelerator(cpu=True)
    state = dict(host.state.__dict__)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    logger = logging.getLogger("accelerate")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    try:
        tokenq.train(place / "model", ROWS, tmp_path / "run", mixed_precision="bf16", **SHORT)
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        if not bars:
            transformers_logging.disable_progress_bar()
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    assert logger.level == level
    assert dict(host.state.__dict__) == state


def test_a_listener_hears_lines_and_steps(place, tmp_path, capfd):
    class Hears:
        def __init__(self):
            self.lines, self.steps = [], []

        def __call__(self, event):
            self.steps.append((event.stage, event.done, event.total))

        def say(self, text):
            self.lines.append(text)

    told = Hears()
    tokenq.train(place / "model", ROWS, tmp_path / "run", listener=told, **SHORT)
    assert ("train", 2, 2) in told.steps
    assert any(line.startswith("data: 8 rows: 8 pairs") for line in told.lines)
    assert capfd.readouterr() == ("", "")


MODEL = "the model"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": tiny_model("llama", layers=1)}, "A loaded model is given without its tokenizer"),
        ({"model": (tiny_model("llama", layers=1), None)}, "A loaded model is given without its tokenizer"),
        ({"model": (tiny_model("llama", layers=1), tiny_tokenizer(), 3)}, "A tuple is no model"),
        ({"model": 7}, "A int is no model"),
        ({"tokenizer": tiny_tokenizer()}, "A tokenizer is given for a model that is named"),
        ({"data": {"train": ROWS}}, "The data is one dictionary"),
        ({"data": datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))}, "The data is one dictionary"),
        ({"data": [1, 2]}, "A int is no row of data"),
        ({"data": []}, "There is no training data"),
        ({"data": [{"prompt": "a", "chosen": object(), "rejected": "b"}]}, "cannot be written as JSON"),
        ({"data": datasets.Dataset.from_list([{"first": "a", "second": "b"}])}, "fit no known format"),
        ({"beta": float("nan")}, "beta"),
        ({"loss": "dop"}, "dop"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(given, said, place, tmp_path):
    words = {"model": str(place / "model"), "data": ROWS} | given
    with pytest.raises(UserError, match=said):
        tokenq.train(output=tmp_path / "run", **words, **SHORT)
    assert not (tmp_path / "run").exists() or not list(Path(tmp_path / "run").iterdir())


def test_a_folder_with_a_run_is_refused_and_stays(place, tmp_path):
    run = tokenq.train(place / "model", ROWS, tmp_path / "run", **SHORT)
    before = weights(run)
    with pytest.raises(UserError, match="already holds a run"):
        tokenq.train(place / "model", ROWS[:4], tmp_path / "run", **SHORT)
    assert weights(run) == before
    assert len((run.folder / "inputs" / "data.jsonl").read_text().splitlines()) == len(ROWS)
