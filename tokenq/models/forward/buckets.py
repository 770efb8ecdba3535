"""Group prompts of similar length, so that the branches of many prompts are read in one multiplication."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PADDED = 0.8
"""Prompts are read together by their branches when the shortest has this share of the longest's tokens."""


@dataclass(frozen=True)
class Bucket:
    """Prompts of similar length, aligned at their ends and masked at the front.

    Attributes:
        prompts: [P] which they are.
        places: [P, L] where their tokens stand in the flat row; some token of the row where there is none.
        missing: [P, L] True where there is none; None where they are of one length.
    """

    prompts: Tensor
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
        numbers = torch.tensor(prompts, device=device)
        return cls(numbers, places.clamp(min=0), missing if bool(missing.any()) else None)


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
class BucketRows:
    """The branches that grow from the prompts of a bucket.

    Attributes:
        index: [P, n] rows of the step; some row where a prompt has fewer branches than another.
        real: [K] where in the flattened index a prompt's own branches stand; None where all of them are.
        every: whether these are all rows of the step, in their order.
    """

    index: Tensor
    real: Tensor | None
    every: bool

    def put(self, table: Tensor, values: Tensor) -> None:
        """Write `values` [heads, P n, …] into the rows of `table` [heads, M, …] that they belong to."""
        rows = self.index.flatten()
        if self.real is not None:
            rows, values = rows[self.real], values.index_select(1, self.real)
        table.index_copy_(1, rows, values)


def rows_of(buckets: Sequence[Bucket], owners: Tensor) -> list[BucketRows | None]:
    """Return the branches of each bucket's prompts, None where there are none.

    Args:
        buckets: all prompts.
        owners: [M] prompt of each branch.
    """
    by_prompt = owners.argsort(stable=True)
    counts = torch.bincount(owners, minlength=sum(len(bucket.prompts) for bucket in buckets))
    firsts = counts.cumsum(0) - counts
    found: list[BucketRows | None] = []
    for bucket in buckets:
        own = counts[bucket.prompts]
        most = int(own.max())
        if not most:
            found.append(None)
            continue
        each = torch.arange(most, device=owners.device)
        index = by_prompt[(firsts[bucket.prompts][:, None] + each).clamp(max=len(owners) - 1)]
        real = (each < own[:, None]).flatten().nonzero().squeeze(1)
        if len(real) < index.numel():
            found.append(BucketRows(index, real, False))
        else:
            every = torch.equal(index.flatten(), torch.arange(len(owners), device=owners.device))
            found.append(BucketRows(index, None, every))
    return found
