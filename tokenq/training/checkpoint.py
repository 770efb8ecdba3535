"""Checkpoints that a kill at any moment cannot spoil, and the return to exactly where one was written.

A checkpoint is a policy that transformers and peft load. What only a resumed run needs (optimiser, random states,
weights that are none of the policy's) lies in a folder within, which can be deleted. Weights in shards lie there a
second time, as accelerate reads them.

Everything is written into a folder aside, which is renamed when complete; the last file in it names the step, and size
and SHA-256 of all others, which are looked at before anything is loaded. The state of the order of the data and of the
learning rate is the step number alone: both are functions of it and of the seed.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenq.errors import UserError
from tokenq.files import JsonLines, digest_of, folder_aside, read_json, write_json
from tokenq.leftovers import discard
from tokenq.rundir import ACCOUNT, RunDir
from tokenq.training.checks import together
from tokenq.training.job import PolicyFiles
from tokenq.training.optim import SHARDED, Masters, exact_in, round_masters

STATE = "state"
"""The folder within a checkpoint that only a resumed run needs."""

_BESIDE = "weights.safetensors"
"""The file in it of trained weights that are none of the policy's: networks beside it, an adapter that was merged."""


Content = Literal["all", "policy"]
"""What a checkpoint holds: all that a run goes on from, or the policy alone."""


class Trained(NamedTuple):
    """What is trained, as checkpoints hold it.

    Attributes:
        policy: as accelerate has prepared it, with the networks beside it.
        files: the folders of the policy.
        networks: those networks, by name.
        masters: float32 copies of weights in half precision, which are written in their place.
    """

    policy: nn.Module
    files: PolicyFiles
    networks: Mapping[str, nn.Module]
    masters: Masters

    def beside(self) -> dict[str, Tensor]:
        """Return the trained weights that the policy's folder does not give back, by name."""
        exact = exact_in(self.masters)
        every = ((f"{name}.{own}", one) for name, net in self.networks.items() for own, one in net.named_parameters())
        return {**self.files.beside(exact), **{name: exact(one).detach() for name, one in every if one.requires_grad}}


def hand_over_weights(accelerator: Accelerator) -> None:
    """Have accelerate write and read everything but weights, apart from those in shards."""
    accelerator.register_save_state_pre_hook(lambda _models, weights, _folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, _folder: models.clear())


def save(accelerator: Accelerator, trained: Trained, run: RunDir, step: int, content: Content = "all") -> Path:
    """Write the checkpoint of `step`, and return its folder.

    Args:
        accelerator: holds the prepared policy and optimiser.
        trained: the weights.
        run: the run's folder.
        step: updates done.
        content: what it holds.
    """
    target = run.checkpoint(step)
    if accelerator.is_main_process:
        JsonLines(run.metrics).sync()  # a checkpoint counts on the lines of its steps
    if accelerator.num_processes == 1:
        with folder_aside(target) as aside:
            _fill(accelerator, trained, aside, step, content)
            _write_account(aside, step)
    else:
        _save_together(accelerator, trained, target, step, content)
    return target


def prune(accelerator: Accelerator, run: RunDir, keep: int, best: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep` (at least 1), and the one of the step `best`."""
    if accelerator.is_main_process:
        for old in run.steps()[:-keep]:
            if old != best:
                discard(run.checkpoint(old))
    accelerator.wait_for_everyone()


def _fill(accelerator: Accelerator, trained: Trained, folder: Path, step: int, content: Content) -> None:
    """Write all files of a checkpoint but its account; every process takes part."""
    sharded = accelerator.distributed_type in SHARDED
    gathered = gathered_policy(accelerator, trained.policy) if sharded else None
    state = folder / STATE

    def write() -> None:
        if accelerator.is_main_process:
            trained.files.write(folder, step, exact_in(trained.masters), gathered)
            if content == "all":
                state.mkdir()
            if content == "all" and not sharded and (beside := trained.beside()):
                save_file({name: one.contiguous() for name, one in beside.items()}, state / _BESIDE)

    together(write, accelerator)
    if content == "all":
        accelerator.save_state(str(state))


def gathered_policy(accelerator: Accelerator, policy: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the policy, gathered from all processes, under its own names."""
    gathered: Mapping[str, Tensor] = accelerator.get_state_dict(policy)
    own = [name for name in gathered if name.startswith("policy.")]  # networks are trained beside it
    return {name.removeprefix("policy."): gathered[name] for name in own or gathered}


def load_latest(accelerator: Accelerator, trained: Trained, run: RunDir, metrics: JsonLines | None = None) -> int:
    """Load the newest complete checkpoint into the prepared policy and optimiser; return its step, 0 when none.

    Args:
        accelerator: holds the prepared policy and optimiser.
        trained: the weights.
        run: the run's folder.
        metrics: the run's metrics, which must tell of every step up to the checkpoint; None does not look.

    Raises:
        UserError: the checkpoint or the metrics are not what was written, or cannot be loaded; every process says so.
    """

    def look() -> int:
        _clear_torn(run.checkpoints)
        found = run.steps()
        step = _checked(run, found[-1]) if found else 0
        if metrics is not None:
            _check_metrics(metrics, step)
        return step

    step = _first_looks(accelerator, look)
    if step:
        place = run.checkpoint(step)
        try:
            _load(accelerator, trained, place)
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


def _load(accelerator: Accelerator, trained: Trained, folder: Path) -> None:
    if accelerator.distributed_type not in SHARDED:
        trained.files.read(folder, exact_in(trained.masters))
        beside = trained.beside()
        stored = load_file(folder / STATE / _BESIDE) if beside else {}
        if stored.keys() != beside.keys():
            raise ValueError(f"{folder / STATE / _BESIDE} was written for other weights")
        with torch.no_grad():
            for name, tensor in beside.items():
                tensor.copy_(stored[name])
        round_masters(trained.masters)
    accelerator.load_state(str(folder / STATE))


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
    write_json(folder / ACCOUNT, {"step": step, "files": files})


def _checked(run: RunDir, step: int) -> int:
    """Return the step of a checkpoint that is what was written, and can be resumed from."""
    folder = run.checkpoint(step)
    state = read_json(folder / ACCOUNT)
    files = state.get("files") if isinstance(state, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise _damaged(run, folder, f"{ACCOUNT} does not say what it holds")
    if type(state.get("step")) is not int or state["step"] != step:
        raise _damaged(run, folder, f"{ACCOUNT} says step {state.get('step')!r}"[:200])
    if not (folder / STATE).is_dir():
        raise UserError(
            f"The checkpoint {folder} holds no optimiser state ({STATE}/), so that no run can go on from it exactly.",
            f"Train its policy further in another --output: --model {folder}."
            + (" Or delete that folder to resume from the one before." if len(run.steps()) > 1 else ""),
        )
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(run, folder, f"{name} is missing")
        if path.stat().st_size != entry.get("bytes"):
            raise _damaged(run, folder, f"{name} has {path.stat().st_size} bytes instead of {entry.get('bytes')}")
    with ThreadPoolExecutor() as threads:
        for name, digest in zip(files, threads.map(lambda name: digest_of(folder / name), files), strict=True):
            if digest != files[name].get("sha256"):
                raise _damaged(run, folder, f"{name} is not what was written (SHA-256 {digest[:12]}…)")
    return step


def _damaged(run: RunDir, folder: Path, what: str) -> UserError:
    older = len(run.steps()) > 1
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
    for path in folder.glob("step-*"):
        if path.is_dir() and re.fullmatch(r"step-\d+", path.name) and not (path / ACCOUNT).exists():
            shutil.rmtree(path, ignore_errors=True)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _save_together(accelerator: Accelerator, trained: Trained, target: Path, step: int, content: Content) -> None:
    """Write a checkpoint with several processes: all write aside, the main one renames."""
    aside = target.with_name(f".shared.{target.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    _fill(accelerator, trained, aside, step, content)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_account(aside, step)
        with folder_aside(target) as empty:
            empty.rmdir()
            aside.rename(empty)
