"""Prompts of like length, put side by side, so that the branches of many prompts are read in one multiplication."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PADDED = 0.8
"""Prompts are read together by their branches when the shortest has this share of the longest's tokens."""


@dataclass(frozen=True)
class Bucket:
    """Prompts of like length, side by side with their ends in line; what is missing at the front is masked.

    Attributes:
        prompts: which they are.
        places: [P, L] where their tokens stand in the flat row; some token of the row where there is none.
        missing: [P, L] True where there is none; None where they are of one length.
    """

    prompts: tuple[int, ...]
    places: Tensor
    missing: Tensor | None

    @classmethod
    def of(cls, prompts: Sequence[int], spans: Sequence[tuple[int, int]], device: torch.device) -> "Bucket":
        """Return a bucket of some prompts, each of which has a (first, one past the last) token in the flat row."""
        longest = max(spans[prompt][1] - spans[prompt][0] for prompt in prompts)
        ends = torch.tensor([spans[prompt][1] for prompt in prompts], device=device)
        starts = torch.tensor([spans[prompt][0] for prompt in prompts], device=device)
        places = ends[:, None] + torch.arange(-longest, 0, device=device)
        missing = places < starts[:, None]
        return cls(tuple(prompts), places.clamp(min=0), missing if bool(missing.any()) else None)


def buckets_of(spans: Sequence[tuple[int, int]], device: torch.device) -> tuple[Bucket, ...]:
    """Return all prompts in buckets, each prompt given as the (first, one past the last) of its tokens."""
    sizes = [stop - start for start, stop in spans]
    groups: list[list[int]] = []
    for prompt in sorted(range(len(spans)), key=lambda prompt: -sizes[prompt]):
        if not groups or sizes[prompt] < PADDED * sizes[groups[-1][0]]:
            groups.append([])
        groups[-1].append(prompt)
    return tuple(Bucket.of(sorted(group), spans, device) for group in groups)


@dataclass(frozen=True)
class Rows:
    """Which branches grow from the prompts of a bucket.

    Attributes:
        index: [P, n] rows of the step; some row where a prompt has fewer branches than another.
        real: [P, n] whether it is one of the prompt's own.
        every: whether these are all rows of the step, in their order.
    """

    index: Tensor
    real: Tensor
    every: bool


def rows_of(bucket: Bucket, owners: Tensor) -> Rows | None:
    """Return the branches of a bucket's prompts, None where there are none."""
    found = [torch.nonzero(owners == prompt).squeeze(-1) for prompt in bucket.prompts]
    most = max(len(rows) for rows in found)
    if not most:
        return None
    index = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
    real = (
        torch.arange(most, device=owners.device)
        < torch.tensor([len(rows) for rows in found], device=owners.device)[:, None]
    )
    in_order = index.numel() == len(owners) and bool(
        (index.flatten() == torch.arange(len(owners), device=owners.device)).all()
    )
    return Rows(index, real, in_order and bool(real.all()))
