"""The configuration: what it refuses, what a resumed run may change, and that every field explains itself."""

import dataclasses
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from tokenq.cli.flags import field_docs
from tokenq.core.losses import LOSSES
from tokenq.data.examples import BAD_ROWS, PAIRINGS, STYLES
from tokenq.data.truncation import TRUNCATIONS
from tokenq.demo.config import DemoConfig
from tokenq.errors import UserError
from tokenq.files import plain
from tokenq.models.forward.packed_lm import WAYS
from tokenq.rollout.config import OnlineConfig
from tokenq.training.config import (
    SECTIONS,
    SPELT_ELSEWHERE,
    TrainConfig,
)
from tokenq.training.recorded import FREE_ON_RESUME, check_resume, refuse_fewer_steps
from tokenq.training.trl import ANSWERS, FLAGS

CONFIG = TrainConfig(model="m", data=["pairs.jsonl"], output="runs/x")


def test_the_defaults_are_allowed():
    CONFIG.check()


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.beta = 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", (), "no training data"),
        ("data", "pairs.jsonl", "data is one string"),
        ("eval_data", "pairs.jsonl", "eval_data is one string"),
        ("batch_size", 0, "--batch-size is 0"),
        ("tokens_per_batch", 0, "--tokens-per-batch is 0"),
        ("max_steps", 0, "--max-steps is 0"),
        ("eval_steps", -1, "--eval-steps is -1"),
        ("max_length", 1, "--max-length is 1"),
        ("learning_rate", 0.0, "--learning-rate is 0.0"),
        ("learning_rate", float("nan"), "--learning-rate is nan"),
        ("epochs", -1.0, "--epochs is -1.0"),
        ("beta", 0.0, "--beta is 0.0"),
        ("lora_rank", -1, "--lora-rank is -1"),
        ("warmup_ratio", 1.0, "--warmup-ratio is 1.0"),
        ("adam_beta2", 1.0, "--adam-beta2 is 1.0"),
        ("max_prompt_length", 1024, "leaves no room"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value, message):
    with pytest.raises(UserError) as caught:
        replace(CONFIG, **{field: value}).check()
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("field", "value", "close"),
    [
        ("schedule", "cosin", "cosine"),
        ("optimizer", "adam", "adamw"),
        ("dtype", "bf16", "bfloat16"),
        ("mixed_precision", "bfloat16", "bf16"),
        ("attention", "flexible", "flex"),
        ("bad_rows", "drp", "drop"),
    ],
)
def test_names_outside_a_list_get_the_nearest(field, value, close):
    with pytest.raises(UserError) as caught:
        replace(CONFIG, **{field: value}).check()
    assert repr(value) in caught.value.message
    assert f"Did you mean '{close}'?" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 10, "warmup_ratio": 0.1}, "--warmup-steps and --warmup-ratio"),
        ({"schedule": "constant", "warmup_steps": 10}, "no warm-up"),
        ({"eval_data": ["a"], "eval_size": 10}, "--eval-data and --eval-size"),
        ({"adapter": "a", "lora_rank": 8}, "--adapter and --lora-rank"),
        ({"lora_dropout": 0.1}, "no adapter is asked for"),
        ({"lora_targets": ["q_proj"]}, "no adapter is asked for"),
        ({"dtype": "float16", "mixed_precision": "fp16"}, "float16"),
        ({"attributes": ["kind", "short", "kind"]}, "--attributes names one twice"),
    ],
)
def test_fields_that_exclude_each_other(changes, message):
    with pytest.raises(UserError) as caught:
        replace(CONFIG, **changes).check()
    assert message in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup_steps": 0, "warmup_ratio": 0.1, "schedule": "cosine"} | {"warmup_steps": None},
        {"schedule": "constant_with_warmup", "warmup_steps": 10},
        {"lora_rank": 8, "lora_dropout": 0.1},
        {"adapter": "a", "lora_dropout": 0.1},
        {"dtype": "bfloat16", "mixed_precision": "no"},
        {"max_grad_norm": 0.0, "keep_checkpoints": 0},
    ],
)
def test_combinations_that_are_meant(changes):
    replace(CONFIG, **changes).check()


def test_a_run_resumes_under_the_settings_that_were_recorded():
    check_resume(CONFIG, plain(asdict(CONFIG)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta", 0.2),
        ("seed", 1),
        ("data", ["other.jsonl"]),
        ("learning_rate", 1e-5),
        ("batch_size", 16),
    ],
)
def test_a_run_does_not_resume_under_other_settings(field, value):
    with pytest.raises(UserError) as caught:
        check_resume(replace(CONFIG, **{field: value}), plain(asdict(CONFIG)))
    assert f"{field} was {plain(getattr(CONFIG, field))!r}, now {value!r}" in caught.value.message
    assert "runs/x/config.yaml" in caught.value.hint


@pytest.mark.parametrize(("field", "value"), [("epochs", 2.0), ("max_steps", 40)])
def test_a_resumed_run_may_be_longer(field, value):
    changed = check_resume(replace(CONFIG, **{field: value}), plain(asdict(CONFIG)))
    assert changed == {field: (plain(getattr(CONFIG, field)), value)}
    assert check_resume(CONFIG, plain(asdict(CONFIG))) == {}
    refuse_fewer_steps(40, 40)
    with pytest.raises(UserError, match="has done 41 steps, and 40 are asked for"):
        refuse_fewer_steps(41, 40)


@pytest.mark.parametrize(
    ("field", "value"),
    [("resume", True), ("tokens_per_batch", 128), ("report_to", ("wandb",)), ("keep_checkpoints", 3)],
)
def test_a_resumed_run_may_change_what_moves_no_number(field, value):
    check_resume(replace(CONFIG, **{field: value}), plain(asdict(CONFIG)))


def test_a_field_that_a_later_version_added_does_not_stop_a_resume():
    recorded = plain(asdict(CONFIG))
    del recorded["beta"]
    check_resume(replace(CONFIG, beta=0.2), recorded)


@pytest.mark.parametrize("config", [TrainConfig, DemoConfig])
def test_every_field_has_its_line_of_help(config):
    docs = field_docs(config)
    assert list(docs) == [field.name for field in dataclasses.fields(config)]
    assert [name for name, text in docs.items() if not text.endswith(".")] == []


def test_tables_beside_the_configuration_name_fields_that_exist():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names >= set(SECTIONS)
    assert names >= {here for there, here in SPELT_ELSEWHERE.items() if there not in FLAGS}
    assert {field.name for field in dataclasses.fields(OnlineConfig)} >= FREE_ON_RESUME
    assert not names & set(SPELT_ELSEWHERE)


@pytest.mark.slow
def test_every_flag_of_trl_has_an_answer():
    """TRL is not part of a plain installation."""
    trl = pytest.importorskip("trl")
    kinds = (trl.DPOConfig, trl.SFTConfig, trl.RewardConfig, trl.ModelConfig, trl.ScriptArguments)
    theirs = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    ours = {field.name for field in dataclasses.fields(TrainConfig)}
    assert theirs - ours - set(SPELT_ELSEWHERE) == set()


def test_the_documentation_has_the_table_of_flags():
    text = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
    missing = [answer for answer, names in ANSWERS if f"| {answer} |" not in text or f"`{names[0]}`" not in text]
    assert missing == []


def choices(name):
    return set(get_args(get_type_hints(TrainConfig)[name]))


def test_choices_are_those_of_the_rooms_that_make_them():
    """The configuration repeats the names, because it must not import what they name."""
    assert choices("truncation") == set(TRUNCATIONS)
    assert choices("bad_rows") == set(BAD_ROWS)
    assert choices("pairing") == set(PAIRINGS)
    assert choices("style") == set(STYLES)
    assert choices("attention") == {"auto", *WAYS}


def test_the_help_names_every_loss():
    words = field_docs(TrainConfig)["loss"].replace(",", " ").replace(".", " ").split()
    assert set(LOSSES) <= set(words)


def test_the_default_of_a_choice_is_one_of_its_names():
    kinds = get_type_hints(TrainConfig)
    defaults = {f.name: f.default for f in dataclasses.fields(TrainConfig) if get_origin(kinds[f.name]) is Literal}
    assert defaults
    assert all(default in get_args(kinds[name]) for name, default in defaults.items())


def test_the_settings_of_a_new_adapter():
    """Twice the rank and every linear layer, unless something else is asked for."""
    assert replace(CONFIG, lora_rank=8).lora() == {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
    asked = replace(CONFIG, lora_rank=8, lora_alpha=4.0, lora_dropout=0.1, lora_targets=("q_proj",))
    assert asked.lora() == {"rank": 8, "alpha": 4.0, "dropout": 0.1, "targets": ["q_proj"]}
