"""The machine of a training run: its device, its precision and its trackers, as accelerate is told."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from tokenq.errors import UserError, unknown_name
from tokenq.models.load import device_of
from tokenq.training.config import TrainConfig

TRACKERS: dict[str, str] = {
    **{name: f"'tokenq[{name}]'" for name in ("tensorboard", "trackio", "wandb")},
    **{name: name for name in ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab")},
}
"""The package of each tracker, as `pip install` takes it."""


def check_trackers(names: tuple[str, ...] | list[str]) -> None:
    """Refuse trackers that do not exist, or that nothing is installed for: the run would go unlogged.

    Raises:
        UserError: says how to install it.
    """
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name == "all" and installed:
            continue
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        if name not in installed:
            raise UserError(f"The tracker {name} is not installed.", f"Install it: pip install {TRACKERS[name]}")


def chosen_device(name: str) -> torch.device:
    """Return the device that --device names, on which this process is to compute.

    Raises:
        UserError: this machine has none such, or it is one for all of several processes.
    """
    device = device_of(name)
    if ":" in str(device) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"--device {name} is one device, and accelerate launch has started {os.environ['WORLD_SIZE']} processes.",
            f"Give --device {device.type}: each process takes one of its own (CUDA_VISIBLE_DEVICES says which).",
        )
    return device


def accelerator_for(config: TrainConfig) -> Accelerator:
    """Return accelerate on the device that was asked for, with its trackers started.

    Raises:
        UserError: there is no such device, precision or tracker here.
    """
    check_trackers(list(config.report_to))
    device = chosen_device(config.device)
    try:
        with _told(device):
            accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=config.mixed_precision,
                log_with=list(config.report_to) or None,
                project_dir=config.output,
            )
    except (ValueError, ImportError) as problem:
        raise UserError(
            f"This machine cannot do what was asked: {str(problem).splitlines()[0]}",
            "Check --mixed-precision and --device.",
        ) from None
    if config.report_to:
        accelerator.init_trackers(config.run_name or Path(config.output).name, config=_flat(asdict(config)))
    return accelerator


@contextlib.contextmanager
def _told(device: torch.device) -> Iterator[None]:
    """Tell accelerate, which takes the first device of a kind, of another one."""
    if ":" not in str(device) and device.type != "mps":
        yield
        return
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = str(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as trackers take it: no lists, no None."""
    return {key: value if isinstance(value, int | float | bool) else str(value) for key, value in config.items()}
