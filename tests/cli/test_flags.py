"""Flags and YAML keys: the natural spellings mean the same, and mistakes name the nearest thing that exists."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from tokenq.cli.flags import as_yaml, parse, read_yaml
from tokenq.demo.config import DemoConfig
from tokenq.errors import UserError
from tokenq.parsing import convert
from tokenq.training.config import SECTIONS, SPELT_ELSEWHERE, TrainConfig


@dataclass(frozen=True)
class Job:
    """Do a job."""

    model: str
    """The model."""
    data: Sequence[str]
    """The data, 100 % of it."""
    learning_rate: float = 1e-6
    """The rate."""
    steps: int | None = None
    """The steps."""
    store: str | None = None
    """The store."""
    precision: Literal["no", "bf16"] = "no"
    """The precision."""
    resume: bool = False
    """The resumption."""
    bounds: Sequence[float] = ()
    """The bounds."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns."""


ELSEWHERE = {"lr": "learning_rate", "packing": "rows are always packed"}


def job(*words):
    return parse(Job, words, prog="job", sections={"model": "all"}, spelt_elsewhere=ELSEWHERE)


def from_file(tmp_path, text, *words):
    (tmp_path / "run.yaml").write_text(text)
    return job("--config", str(tmp_path / "run.yaml"), *words)


NEEDED = ("--model", "m", "--data", "d")


@pytest.mark.parametrize(
    "words",
    [
        ["--data", "a", "b"],
        ["--data", "a", "--data", "b"],
        ["--data=a", "--data=b"],
        ["--data", "a", "--model", "other", "--data", "b"],
    ],
)
def test_lists_are_given_at_once_or_one_by_one(words):
    assert job("--model", "m", *words).data == ("a", "b")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning-rate", "5e-7"], "learning_rate", 5e-7),
        (["--bounds", "0", ".8"], "bounds", (0.0, 0.8)),
        (["--learning_rate", "5e-7"], "learning_rate", 5e-7),
        (["--learning_rate=5e-7"], "learning_rate", 5e-7),
        (["--steps", "10"], "steps", 10),
        (["--steps", "none"], "steps", None),
        (["--store", "off"], "store", "off"),
        (["--store", "my_store"], "store", "my_store"),
        (["--store=my_store"], "store", "my_store"),
        (["--store", "None"], "store", "None"),
        (["--store", "null"], "store", "null"),
        (["--store", "~"], "store", "~"),
        (["--no-store"], "store", None),
        (["--precision", "no"], "precision", "no"),
        (["--resume"], "resume", True),
        (["--resume", "false"], "resume", False),
        (["--columns", "chosen=good", "rejected=bad=worse"], "columns", {"chosen": "good", "rejected": "bad=worse"}),
        (["--columns", "a=b", "--columns", "c=d"], "columns", {"a": "b", "c": "d"}),
    ],
)
def test_a_flag_sets_its_field_and_no_other(words, name, value):
    assert job(*NEEDED, *words) == dataclasses.replace(Job("m", ("d",)), **{name: value})


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 5e-7", "learning_rate", 5e-7),
        ("learning-rate: 5e-7", "learning_rate", 5e-7),
        ("precision: no", "precision", "no"),
        ("store: off", "store", "off"),
        ("store: 'off'", "store", "off"),
        ("store: 2024", "store", "2024"),
        ("store: null", "store", None),
        ("store: 'null'", "store", "null"),
        ("store: ~", "store", None),
        ("store: none", "store", "none"),
        ("store:", "store", None),
        ("learning_rate:", "learning_rate", 1e-6),
        ("steps: none", "steps", None),
        ("columns:", "columns", {}),
        ("resume: yes", "resume", True),
        ("resume: False", "resume", False),
        ("steps: 010", "steps", 10),
        ("columns: {chosen: yes}", "columns", {"chosen": "yes"}),
        ("columns: [chosen=good]", "columns", {"chosen": "good"}),
    ],
)
def test_a_key_means_what_it_says(tmp_path, text, name, value):
    config = from_file(tmp_path, f"model: m\ndata: d\n{text}\n")
    assert config == dataclasses.replace(Job("m", ("d",)), **{name: value})


@pytest.mark.parametrize("data", ["data: [a, b]", "data:\n- a\n- b", "data:\n  - 'a'\n  - b # the second"])
def test_lists_in_files(tmp_path, data):
    assert from_file(tmp_path, f"model: m\n{data}\n").data == ("a", "b")


def test_flags_replace_what_the_file_says(tmp_path):
    text = "model: m\ndata: [a, b]\nlearning_rate: 1\nsteps: 3\ncolumns: {a: b}\n"
    config = from_file(tmp_path, text, "--data", "c", "--steps", "none", "--columns", "c=d")
    assert config == Job("m", ("c",), learning_rate=1.0, steps=None, columns={"c": "d"})


def test_an_empty_file_says_nothing(tmp_path):
    assert from_file(tmp_path, "# nothing\n", *NEEDED) == Job("m", ("d",))


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--learning-rte", "1"], "Unknown flag: --learning-rte.", "Did you mean --learning-rate?"),
        (["--lr=1"], "Unknown flag: --lr.", "Did you mean --learning-rate?"),
        (["--zzz", "1"], "Unknown flag: --zzz.", "--help lists them all."),
        (["--mod", "m"], "Unknown flag: --mod.", "Did you mean --model?"),
        (["--steps", "1.5"], "--steps takes a whole number, not '1.5'.", "whole number"),
        (["--precision", "bf61"], "--precision is 'bf61'.", "Did you mean 'bf16'? Available: no, bf16."),
        (["--store", "a\udcff"], "--store is not valid UTF-8: 'a\\udcff'.", "UTF-8"),
        (["--columns", "a=\ud800"], "--columns is not valid UTF-8", "UTF-8"),
        (["--learning-rate", "nan"], "--learning-rate is nan.", "finite"),
        (["--learning-rate=-inf"], "--learning-rate is -inf.", "finite"),
        (["--learning-rate", "1e999"], "--learning-rate is 1e999.", "finite"),
        (["--steps", "9" * 5000], "--steps takes a whole number", "whole number"),
        (["--bounds", "0", "fast"], "--bounds takes a number, not 'fast'.", "number"),
        (["--learning-rate", "fast"], "--learning-rate takes a number, not 'fast'.", "number"),
        (["--resume", "maybe"], "--resume takes true or false, not 'maybe'.", "true or false"),
        (["--columns", "chosen"], "--columns takes name=value, not 'chosen'.", "--columns chosen=good"),
        (["--steps"], "--steps", "--help"),
        (["--steps", "1", "stray"], "'stray' belongs to no flag.", "--model MODEL"),
    ],
)
def test_mistakes_on_the_command_line(words, message, hint):
    with pytest.raises(UserError) as caught:
        job(*NEEDED, *words)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("model: m\nlerning_rate: 1\n", "key in {path}, line 2: lerning_rate", "Did you mean learning_rate?"),
        ("model: m\nlr: 1\n", "key in {path}, line 2: lr", "Did you mean learning_rate?"),
        ("model: m\nsteps: many\n", "{path}, line 2: steps takes a whole number, not 'many'", "whole number"),
        ("model: m\nsteps: [1]\n", "{path}, line 2: steps takes one value", "single value"),
        ("model: m\nmodel: n\n", "{path}, line 2: model is set a second time", "Delete"),
        ("data: {a: b}\n", "{path}, line 1: data takes a list", "- value"),
        ("data: [[a]]\n", "{path}, line 1: lists inside lists", "--print-config"),
        ("- model\n", "is not a list of `key: value` lines", "--print-config"),
        ("model: [\n", "is not valid YAML", "Mend"),
    ],
)
def test_mistakes_in_a_file_name_the_line(tmp_path, text, message, hint):
    with pytest.raises(UserError) as caught:
        from_file(tmp_path, text)
    assert message.format(path=tmp_path / "run.yaml") in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        job("--config", str(tmp_path / "none.yaml"))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="--model is missing"):
        job("--data", "d")
    with pytest.raises(UserError, match="--model is missing"):
        from_file(tmp_path, "model:\ndata: d\n")


@pytest.mark.parametrize("word", ["none", "null", "~", "None", "no", "1", "yes", "''"])
def test_a_word_is_a_text_where_text_is_asked_for(tmp_path, word):
    assert job("--model", word, "--data", word, "--store", word) == Job(word, (word,), store=word)
    printed = as_yaml(Job, {"model": word, "data": (word,), "store": word}, {})
    assert from_file(tmp_path, printed) == Job(word, (word,), store=word)


@pytest.mark.parametrize("words", [["--model", ""], ["--store="], ["--data", "a", ""], ["--steps", ""]])
def test_the_empty_text_of_a_variable_that_is_not_set_is_refused(words):
    with pytest.raises(UserError, match=r"is empty|takes a whole number"):
        job(*NEEDED, *words)


def test_a_flag_takes_back_what_the_file_says(tmp_path):
    text = "model: m\ndata: d\nstore: there\nsteps: 3\n"
    assert from_file(tmp_path, text, "--no-store", "--no-steps") == Job("m", ("d",))
    with pytest.raises(UserError, match="Unknown flag: --no-model"):
        from_file(tmp_path, text, "--no-model")


def test_all_unknown_flags_are_named_at_once():
    with pytest.raises(UserError) as caught:
        job(*NEEDED, "--lr", "1", "--zzz", "--packing", "true")
    assert caught.value.message == "Unknown flags: --lr, --zzz, --packing."
    assert caught.value.hint == (
        "--lr: Did you mean --learning-rate?\n  --packing: Here: rows are always packed.\n  --help lists them all."
    )


def test_the_text_none_is_a_value_where_nothing_is_optional():
    assert convert("none", Literal["none", "some"], "--x") == "none"
    assert convert("none", str | None, "--x") == "none"
    assert convert("none", int | None, "--x") is None


@pytest.mark.parametrize("config", [TrainConfig, DemoConfig, Job])
def test_a_printed_configuration_is_read_back_as_it_was(tmp_path, config):
    path = tmp_path / "printed.yaml"
    names = {f.name for f in dataclasses.fields(config)}
    values = {"model": "m", "data": ("a", "off"), "columns": {"chosen": "no"}, "output": "out"}
    values = {name: value for name, value in values.items() if name in names}
    path.write_text(as_yaml(config, values, {}))
    assert config(**read_yaml(path, config, {})) == config(**values)


def test_print_config_prints_every_field_with_its_help_and_what_is_required(capsys):
    assert job("--steps", "7", "--print-config") is None
    printed = capsys.readouterr().out
    assert "# The steps.\nsteps: 7\n" in printed
    assert "# --- all\n# The model.\nmodel:  # required\n" in printed
    assert all(f"\n{f.name}:" in printed for f in dataclasses.fields(Job))


def test_help_shows_sections_defaults_and_per_cents(capsys):
    with pytest.raises(SystemExit) as caught:
        job("--help")
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "usage: job [--config FILE] --model MODEL --data DATA [flags]" in printed
    assert "The rate. (default: 1e-06)" in printed
    assert "100 % of it. (required)" in printed
    assert "--precision {no,bf16}" in printed


def test_the_names_of_other_trainers_lead_to_ours():
    with pytest.raises(UserError, match="--per-device-train-batch-size") as caught:
        parse(
            TrainConfig,
            ["--per_device_train_batch_size", "8"],
            prog="tokenq train",
            sections=SECTIONS,
            spelt_elsewhere=SPELT_ELSEWHERE,
        )
    assert "Did you mean --batch-size?" in caught.value.hint
