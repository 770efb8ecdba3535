"""The weights of the policy at the start of a round, for a judge that reads them in the next one."""

import contextlib
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenq.errors import UserError
from tokenq.files import written_aside
from tokenq.leftovers import remove
from tokenq.rundir import RunDir

WEIGHTS = "weights.safetensors"


def keep_weights(policy: nn.Module, run: RunDir, number: int) -> None:
    """Write the trained weights of the policy into the folder of a round, and delete those that no judge will read."""
    with written_aside(run.round(number) / WEIGHTS) as aside:
        save_file({name: one.detach().cpu().contiguous() for name, one in _trained(policy).items()}, aside)
    remove(run.round(number - 2) / WEIGHTS)


@contextlib.contextmanager
def recalled(policy: nn.Module, run: RunDir, number: int) -> Iterator[None]:
    """Give the policy the weights that it had at the start of a round, for the duration of the block.

    Raises:
        UserError: they are not there.
    """
    path, own = run.round(number) / WEIGHTS, _trained(policy)
    if not path.exists():
        raise UserError(f"{path} is missing, and round {number + 1} is judged by it.", "Restore it, or start anew.")
    now = {name: one.detach().clone() for name, one in own.items()}
    try:
        _put(own, load_file(path))
        yield
    finally:
        _put(own, now)


def _trained(policy: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in policy.named_parameters() if one.requires_grad}


@torch.no_grad()
def _put(own: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, one in own.items():
        one.copy_(values[name])
