"""Responses to one prompt: means over the group of each, and over its others."""

import torch
from jaxtyping import Int
from torch import Tensor

Groups = Int[Tensor, " N"]
"""The prompt that each response answers."""


def places(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of each response's group, and the sizes of the groups."""
    _, place, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    return place, sizes


def sums(numbers: Tensor, place: Tensor, sizes: Tensor) -> Tensor:
    """Return the sum of each group."""
    return numbers.new_zeros(len(sizes)).index_add(0, place, numbers)


def differ(numbers: Tensor, place: Tensor, sizes: Tensor) -> Tensor:
    """Return True for the groups that hold two different numbers."""
    most, least = (
        numbers.new_zeros(len(sizes)).scatter_reduce(0, place, numbers, way, include_self=False)
        for way in ("amax", "amin")
    )
    return most > least


def mean_of_others(numbers: Tensor, groups: Tensor) -> Tensor:
    """Return the mean over the other responses of each one's group; the number itself where there are none."""
    place, sizes = places(groups)
    others = (sizes - 1)[place]
    return torch.where(others > 0, (sums(numbers, place, sizes)[place] - numbers) / others.clamp(min=1), numbers)
