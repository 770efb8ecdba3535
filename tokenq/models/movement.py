"""Compare the weights of a trained model with those at the start, number by number."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenq.errors import UserError
from tokenq.models.load import DTYPES


class Movement(NamedTuple):
    """Counts over the weights that both models have.

    Attributes:
        weights: numbers compared.
        moved: those that differ.
        within_reach: those that an update of the given size moves in the given type.
    """

    weights: int
    moved: int
    within_reach: int


def movement(before: Mapping[str, Tensor], after: Path, update: float, dtype: str) -> Movement:
    """Count the weights that have moved, and those that one update can move.

    Args:
        before: the weights at the start, by name.
        after: folder with the safetensors of the trained model.
        update: size of an update.
        dtype: type in which it is added.

    Raises:
        UserError: a file of the trained model is damaged.
    """
    weights = moved = within = 0
    for path in sorted(after.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as stored:
                for name in set(stored.keys()) & before.keys():
                    start, end = before[name].detach().cpu(), stored.get_tensor(name)
                    if start.shape != end.shape or not start.is_floating_point():
                        continue
                    weights += start.numel()
                    moved += int((start.double() != end.double()).sum())
                    within += int(reached(start, update, dtype).sum())
        except (SafetensorError, OSError) as problem:
            raise UserError(
                f"The weights in {path} are damaged: {problem}", "Train again, or fetch them again."
            ) from None
    return Movement(weights, moved, within)


def reached(weights: Tensor, update: float, dtype: str) -> Tensor:
    """Return a mask of the weights that change when an update is added or subtracted in a dtype.

    Towards zero a power of two has its neighbour at half the distance.
    """
    held = weights.to(DTYPES.get(dtype, torch.float64))
    exact = held.double()
    return ((exact + update).to(held.dtype) != held) | ((exact - update).to(held.dtype) != held)
