"""Checkpoints that a kill at any moment cannot spoil, and the return to exactly where one was written.

Everything is written by accelerate into a folder aside, which is renamed when complete; the last file in it names the
step, and size and SHA-256 of all others, which are looked at before anything is loaded. The state of the order of the
data and of the learning rate is the step number alone: both are functions of it and of the seed.
"""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn

from tokenq.errors import UserError
from tokenq.files import JsonLines, digest_of, folder_aside, read_json, write_json
from tokenq.leftovers import discard
from tokenq.rundir import RunDir

STATE = "tokenq_state.json"
_PREFIX = "step-"


def save(accelerator: Accelerator, folder: Path, step: int, keep: int) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep`.

    Args:
        accelerator: holds the prepared policy and optimiser.
        folder: the run's checkpoint folder.
        step: updates done.
        keep: how many to keep, at least 1.
    """
    target = _place(folder, step)
    if accelerator.is_main_process:
        JsonLines(RunDir(folder.parent).metrics).sync()  # a checkpoint counts on the lines of its steps
    if accelerator.num_processes == 1:
        with folder_aside(target) as aside:
            accelerator.save_state(str(aside))
            _write_account(aside, step)
    else:
        _save_together(accelerator, target, step)
    if accelerator.is_main_process:
        for old in _complete(folder)[:-keep]:
            discard(old)
    accelerator.wait_for_everyone()
    return target


def load_latest(accelerator: Accelerator, folder: Path, metrics: JsonLines | None = None) -> int:
    """Load the newest complete checkpoint into the prepared policy and optimiser; return its step, 0 when none.

    Args:
        accelerator: holds the prepared policy and optimiser.
        folder: the run's checkpoint folder.
        metrics: the run's metrics, which must tell of every step up to the checkpoint; None does not look.

    Raises:
        UserError: the checkpoint or the metrics are not what was written, or cannot be loaded; every process says so.
    """

    def look() -> int:
        _clear_torn(folder)
        found = _complete(folder)
        step = _checked(found[-1]) if found else 0
        if metrics is not None:
            _check_metrics(metrics, step)
        return step

    step = _first_looks(accelerator, look)
    if step:
        place = _place(folder, step)
        try:
            accelerator.load_state(str(place))
        except torch.OutOfMemoryError as problem:
            raise UserError(
                f"There is too little memory to load the checkpoint {place}: {_first_line(problem)}",
                "The checkpoint is whole. Free memory on the device, or resume on one that has more.",
            ) from problem
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError, SafetensorError) as problem:
            raise UserError(
                f"The checkpoint {place} is whole, and could not be loaded: {_first_line(problem)}",
                "Resume with the settings, the versions and the number of processes that it was written with "
                "(provenance.json).",
            ) from problem
    return step


def _first_looks(accelerator: Accelerator, look: Callable[[], int]) -> int:
    """Return the main process's result on all; its `UserError` is raised on all, so that none waits for the others."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = look()
        except UserError as error:
            outcome[1] = error.message, error.hint
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(*outcome[1])
    return int(outcome[0])


def _write_account(folder: Path, step: int) -> None:
    """Write what the folder holds, as its last file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        digests = list(threads.map(digest_of, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    write_json(folder / STATE, {"step": step, "files": files})


def _checked(folder: Path) -> int:
    """Return the step of a checkpoint that is what was written."""
    state = read_json(folder / STATE)
    files = state.get("files") if isinstance(state, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise _damaged(folder, f"{STATE} does not say what it holds")
    step = state.get("step")
    if type(step) is not int or _place(folder.parent, step) != folder:
        raise _damaged(folder, f"{STATE} says step {step!r}"[:200])
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if path.stat().st_size != entry.get("bytes"):
            raise _damaged(folder, f"{name} has {path.stat().st_size} bytes instead of {entry.get('bytes')}")
    with ThreadPoolExecutor() as threads:
        for name, digest in zip(files, threads.map(lambda name: digest_of(folder / name), files), strict=True):
            if digest != files[name].get("sha256"):
                raise _damaged(folder, f"{name} is not what was written (SHA-256 {digest[:12]}…)")
    return step


def _damaged(folder: Path, what: str) -> UserError:
    older = len(_complete(folder.parent)) > 1
    return UserError(
        f"The checkpoint {folder} cannot be read: {what}.",
        "Delete that folder to resume from the one before." if older else "Restore it, or start again elsewhere.",
    )


def _check_metrics(metrics: JsonLines, step: int) -> None:
    """Refuse to go on from a checkpoint whose steps the metrics do not tell of."""
    told = {line["step"] for line in metrics.read() if "loss" in line and type(line.get("step")) is int}
    missing = next((number for number in range(1, step + 1) if number not in told), None)
    if missing is not None:
        raise UserError(
            f"{metrics.path} does not tell of step {missing}, and the newest checkpoint is of step {step}.",
            "Restore the file, or start again in another --output.",
        )


def _clear_torn(folder: Path) -> None:
    """Delete checkpoints without their last file: a kill has left them half deleted."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.is_dir() and re.fullmatch(rf"{_PREFIX}\d{{8,}}", path.name) and not (path / STATE).exists():
            shutil.rmtree(path, ignore_errors=True)


def _place(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:08d}"


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def keep_trainable_only(accelerator: Accelerator, policy: nn.Module) -> None:
    """Make checkpoints hold only the weights that are trained (an adapter's), and load them back onto the rest.

    Args:
        accelerator: whose `save_state` and `load_state` change.
        policy: the policy before it was prepared.
    """
    names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if len(names) == sum(1 for _ in policy.parameters()):
        return

    def drop_frozen(_models: list[nn.Module], weights: list[dict[str, torch.Tensor]], _folder: str) -> None:
        for state in weights:
            for name in [name for name in state if name.removeprefix("module.") not in names]:
                del state[name]

    def load_trainable(models: list[nn.Module], folder: str) -> None:
        from safetensors.torch import load_file

        while models:
            model = accelerator.unwrap_model(models.pop())
            stored = load_file(Path(folder) / "model.safetensors")
            state = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
            result = model.load_state_dict(state, strict=False)
            if result.unexpected_keys or set(state) != names:
                raise ValueError(f"{folder} was written for other trainable weights")

    accelerator.register_save_state_pre_hook(drop_frozen)
    accelerator.register_load_state_pre_hook(load_trainable)


def _save_together(accelerator: Accelerator, target: Path, step: int) -> None:
    """Write a checkpoint with several processes: all write aside, the main one renames."""
    aside = target.with_name(f".shared.{target.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_account(aside, step)
        with folder_aside(target) as empty:
            empty.rmdir()
            aside.rename(empty)


def _complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"{_PREFIX}*/{STATE}"))
