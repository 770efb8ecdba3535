"""Checkpoints that a kill at any moment cannot spoil, and the return to exactly where one was written.

Everything is written by accelerate into a folder aside, which is renamed when complete. The state of the order of the
data and of the learning rate is the step number alone: both are functions of it and of the seed.
"""

import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn

from tokenq.errors import UserError
from tokenq.files import folder_aside, read_json, write_json

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
    target = folder / f"{_PREFIX}{step:08d}"
    if accelerator.num_processes == 1:
        with folder_aside(target) as aside:
            accelerator.save_state(str(aside))
            write_json(aside / STATE, {"step": step})
    else:
        _save_together(accelerator, target, step)
    if accelerator.is_main_process:
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def load_latest(accelerator: Accelerator, folder: Path) -> int:
    """Load the newest complete checkpoint into the prepared policy and optimiser; return its step, 0 when none.

    Raises:
        UserError: when the checkpoint cannot be read.
    """
    found = _complete(folder)
    if not found:
        return 0
    state = read_json(found[-1] / STATE)
    try:
        accelerator.load_state(str(found[-1]))
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError, SafetensorError) as problem:
        raise UserError(
            f"The checkpoint {found[-1]} cannot be read: {str(problem).strip().splitlines()[0]}",
            "Delete that folder to resume from an older one, or start again.",
        ) from None
    return int(state["step"])


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
        write_json(aside / STATE, {"step": step})
        with folder_aside(target) as empty:
            empty.rmdir()
            aside.rename(empty)


def _complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"{_PREFIX}*/{STATE}"))
