"""The folder of a training run: one process writes it, and it is written when the run can start.

A run that stops before its first step leaves nothing, so that a corrected command can start in its place. One that goes
on does so from the data and the weights that it began with, which are told by their hashes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tokenq.errors import UserError
from tokenq.files import plain
from tokenq.leftovers import remove
from tokenq.locks import hold_folder
from tokenq.redaction import redact
from tokenq.rundir import RunDir, create_run, record_start, refuse_used, resume_run, write_config
from tokenq.training.checks import raise_together
from tokenq.training.config import TrainConfig
from tokenq.training.recorded import Changes, check_resume, read_config, read_metrics, read_provenance

_INPUTS = (
    ("model", "weights", "the model"),
    ("reference", "weights", "the reference"),
    ("data", "sha256", "the data"),
    ("eval_data", "sha256", "the held-out data"),
    ("prompts", "sha256", "the prompts"),
)


def refuse_taken(output: str) -> None:
    """Refuse a folder that holds a run, or that another process writes, before anything is loaded.

    Raises:
        UserError: says which.
    """
    try:
        refuse_used(output)
    except UserError:
        with hold_folder(Path(output)):
            raise


@contextlib.contextmanager
def open_run(config: TrainConfig, accelerator: Accelerator) -> Iterator[tuple[RunDir, Changes]]:
    """Hold the folder of a run inside the block; yield it, and by what the run's length changes.

    Raises:
        UserError: another process writes it, it holds another run, or was begun with other settings; on all processes.
    """
    run, changed = RunDir(Path(config.output)), Changes()
    problem: UserError | None = None
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            try:
                held.enter_context(hold_folder(run.path))
                changed = _opened(config, run)
            except UserError as error:
                problem = error
        raise_together(problem, accelerator)
        fresh = not run.holds_run()
        try:
            yield run, changed
        except BaseException:
            if fresh and accelerator.is_main_process and not _has_begun(run):
                for place in (run.config, run.provenance, run.metrics, run.held_out, run.inputs):
                    remove(place)
            raise


def record_run(
    run: RunDir, config: TrainConfig, start: dict[str, Any], changed: Changes, accelerator: Accelerator
) -> None:
    """Write the settings of a run and where it comes from, now that it can start.

    Args:
        run: its folder.
        config: its settings.
        start: its provenance.
        changed: by what its length changes.
        accelerator: the main process writes.

    Raises:
        UserError: the run began with other data or weights; on all processes.
    """
    problem: UserError | None = None
    if accelerator.is_main_process:
        try:
            if _has_begun(run):
                _refuse_other_inputs(read_provenance(run), start, config)
            else:
                remove(run.provenance)
            write_config(run, asdict(replace(config, resume=False)))
            record_start(run, start, changed)
        except UserError as error:
            problem = error
    raise_together(problem, accelerator)


def _opened(config: TrainConfig, run: RunDir) -> Changes:
    """Return the changes to the length of a run that may be started, or resumed, here."""
    if not config.resume:
        create_run(run.path)
        return {}
    resume_run(run.path)
    if not _has_begun(run):
        return {}
    changed = check_resume(config, _unblanked(read_config(run), config))
    finished = run.policy.exists() or run.reward_model.exists()
    if changed and finished and not any(run.checkpoints.glob("step-*")):
        raise UserError(
            f"The run in {config.output} is finished, and there is no checkpoint to go on from.",
            "Train its result further in another --output; --keep-checkpoints 1 keeps the last state.",
        )
    return changed


def _has_begun(run: RunDir) -> bool:
    """Return whether a run has done a step, or come to an end."""
    if run.policy.exists() or run.reward_model.exists() or any(run.checkpoints.glob("step-*")):
        return True
    return any("loss" in line for line in read_metrics(run))


def _unblanked(recorded: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return recorded settings with the secrets that were blanked out, where those of today are blanked out alike."""
    now = plain(asdict(config))
    return {
        name: now[name] if name in now and redact(now[name]) == value else value for name, value in recorded.items()
    }


def _refuse_other_inputs(recorded: Mapping[str, Any], start: Mapping[str, Any], config: TrainConfig) -> None:
    moved = recorded.get("device") != start.get("device")
    changed = []
    for part, key, said in _INPUTS:
        if part == "model" and config.lora_rank and moved:
            continue  # a new adapter's random weights, which the checkpoint has, are drawn on the device
        was, now = ((one.get(part) or {}).get(key) for one in (recorded, start))
        if was != now and was is not None and now is not None:
            changed.append(f"{said} had SHA-256 {was[:12]}…, now {now[:12]}…")
    if changed:
        raise UserError(
            f"The run in {config.output} began with other inputs: {'; '.join(changed)}.",
            "Put back what it began with (the order of rows counts), or start again in another --output.",
        )
