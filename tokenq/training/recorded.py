"""Reads and checks the records of a run directory, and what a resumed run may change of them. Imports no torch.

There is one reader a file. A folder that a kill, a full disk or a hand has left broken is answered in words: what is
wrong, and in which file.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, get_type_hints

import yaml

from tokenq.errors import UserError, unknown_name
from tokenq.files import JsonLines, read_json, read_text
from tokenq.records.schema import SCHEMA, fits
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig

FREE_ON_RESUME = frozenset(
    {
        *("attention", "dataset_num_proc", "device", "early_stopping_patience", "eval_steps"),
        *(
            "gradient_checkpointing",
            "keep_best",
            "keep_checkpoints",
            "logging_steps",
            "output",
            "reference_store",
            "report_to",
            "resume",
            "run_name",
        ),
        *("save_only_model", "save_steps", "sync_command", "tokens_per_batch", "writer", "writer_model"),
    }
)
"""Fields in which a resumed run may differ from how it began: they move no number of a step beyond rounding, or say
where a server is."""

_SMALLER = ("loss", "values/loss", "kl", "mse/", "rewards/rejected", "logps/rejected")
"""Beginnings of metrics that are better when smaller; the others are when larger."""

_NEITHER = ("response_length", "rewards/margin_sd", "values/mean", "entropy", "ratio", "clip_ratio", "cispo_clip_ratio")
"""Beginnings of metrics that are better in neither direction."""

LENGTH = frozenset({"epochs", "max_steps"})
"""Fields that say how long a run is. With others the schedule is stretched to the new end."""

Changes = dict[str, tuple[Any, Any]]
"""Field → what it was, and what it is now."""


def check_resume(config: TrainConfig, recorded: Mapping[str, Any]) -> Changes:
    """Return the changes to the length of a resumed run; refuse other settings than it began with.

    Args:
        config: what is asked for now.
        recorded: the configuration in the run directory (plain YAML values).

    Raises:
        UserError: lists the fields that differ, then and now.
    """
    now = {name: _listed(value) for name, value in asdict(config).items()}
    known = {name: value for name, value in now.items() if name in recorded and name not in FREE_ON_RESUME}
    changed = {name: (recorded[name], value) for name, value in known.items() if recorded[name] != value}
    other = [f"{name} was {was!r}, now {is_!r}" for name, (was, is_) in changed.items() if name not in LENGTH]
    if other:
        raise UserError(
            f"The run in {config.output} began with other settings: {'; '.join(other)}.",
            f"Resume it as it was with --config {config.output}/config.yaml, or start again in another --output.",
        )
    return changed


def refuse_fewer_steps(done: int, total: int) -> None:
    """Refuse to resume a run that has done more steps than are asked for.

    Raises:
        UserError: says how many it has done.
    """
    if done > total:
        raise UserError(
            f"The run has done {done} steps, and {total} are asked for.",
            f"Ask for more with --max-steps or --epochs, or start a run of {total} steps in another --output.",
        )


def still_holds(record: Mapping[str, float], step: int, total: int) -> bool:
    """Return whether a line of `metrics.jsonl` holds when the run goes on after `step` updates.

    Evaluations within the run came before their checkpoint; the one at the start and the one at the end come again.
    """
    return record["step"] < step or (record["step"] == step and ("loss" in record or 0 < step < total))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_MEND = "Restore the file, or start a new run."

_PROVENANCE: Mapping[str, Any] = {
    "schema": int,
    "command": list[str],
    "seed": int,
    "versions": dict[str, str],
    "model": dict[str, Any] | None,
    "reference": dict[str, Any] | None,
    "data": dict[str, Any] | None,
    "eval_data": dict[str, Any] | None,
    "beta": float | None,
    "rewards": dict[str, Any] | None,
    "best": dict[str, Any] | None,
    "config": dict[str, Any],
    "resumed": list[dict[str, Any]],
}
"""Types of the fields that are read again."""

_IDENTITY: Mapping[str, Any] = {
    "path": str,
    "weights": str,
    "sha256": str,
    "sources": list[str],
    "summary": dict[str, Any],
}


def read_config(run: RunDir) -> dict[str, Any]:
    """Return the settings of a run, as its config.yaml has them.

    Raises:
        UserError: the file is missing or broken, or a setting has a value that it cannot have.
    """
    text = read_text(run.config)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = str(problem).strip().splitlines()[0]
        raise UserError(f"{run.config} is not valid YAML: {said}.", _MEND) from problem
    return _settings(found, str(run.config))


def read_provenance(run: RunDir) -> dict[str, Any]:
    """Return the provenance of a run, as its provenance.json has it.

    Raises:
        UserError: the file is missing or broken, of a newer version, or not of a training run.
    """
    where, found = str(run.provenance), read_json(run.provenance)
    if not isinstance(found, dict) or "schema" not in found or "config" not in found:
        raise UserError(f"{where} was not written by tokenq train.", "Give the --output folder of a run.")
    for name, kind in _PROVENANCE.items():
        if name in found and not fits(found[name], kind):
            raise UserError(f"{where}: {name} is {_short(found[name])}.", _MEND)
    if found["schema"] > SCHEMA:
        raise UserError(f"{where} has schema {found['schema']}, and tokenq reads up to {SCHEMA}.", "Update tokenq.")
    for part in ("model", "reference", "data", "eval_data"):
        for name, kind in _IDENTITY.items():
            if name in (found.get(part) or {}) and not fits(found[part][name], kind):
                raise UserError(f"{where}: {part}.{name} is {_short(found[part][name])}.", _MEND)
    found["config"] = _settings(found["config"], where)
    return found


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl: each a step with numbers.

    Raises:
        UserError: the file is broken, or a line of it is no line of metrics.
    """
    lines = JsonLines(run.metrics).read()
    for number, line in enumerate(lines, 1):
        if type(line.get("step")) is not int or line["step"] < 0:
            raise UserError(f"{run.metrics}, line {number}: step is {_short(line.get('step'))}.", _MEND)
        for name, value in line.items():
            if not fits(value, float | None):
                raise UserError(f"{run.metrics}, line {number}: {name} is {_short(value)}, and no number.", _MEND)
    return lines


def check_metric(metric: str, names: Iterable[str]) -> None:
    """Refuse a metric that is none of an evaluation's, or that is better in neither direction.

    Raises:
        UserError: names the nearest, and all there are.
    """
    known = [name for name in names if name.startswith("eval_") and not name.startswith(_NEITHER, len("eval_"))]
    if metric not in known:
        raise unknown_name("held-out metric", metric, known)


def best_step(evaluations: Mapping[int, Mapping[str, Any]], metric: str) -> int | None:
    """Return the step of the best evaluation, the earliest of several; None where none has a finite number.

    Args:
        evaluations: metrics by step.
        metric: one of them, with its `eval_`.
    """
    sign = 1 if metric.startswith(_SMALLER, len("eval_")) else -1
    known = {step: found.get(metric) for step, found in evaluations.items()}
    ranked = [(sign * value, step) for step, value in known.items() if value is not None and math.isfinite(value)]
    return min(ranked)[1] if ranked else None


def evaluations_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Return the metrics of the evaluations after the first update, by step, from the lines of metrics.jsonl."""
    found: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        metrics = {name: value for name, value in line.items() if name.startswith("eval_") and value is not None}
        if line["step"] and metrics:
            found[line["step"]] = metrics
    return found


def _settings(found: Any, where: str) -> dict[str, Any]:
    """Return settings whose values are of the types that they must have; names that are not known stay."""
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where} holds no settings of a run.", _MEND)
    kinds = get_type_hints(TrainConfig)
    for one in fields(TrainConfig):
        if one.name not in found:
            if one.default is MISSING and one.default_factory is MISSING:
                raise UserError(f"{where}: {one.name} is missing.", _MEND)
        elif not fits(found[one.name], kinds[one.name]):
            raise UserError(f"{where}: {one.name} is {_short(found[one.name])}.", _MEND)
    return found


def _short(value: Any) -> str:
    return repr(value)[:60]
