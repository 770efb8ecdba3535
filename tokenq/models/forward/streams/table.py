"""Prompts of many requests in a few tables, so that the branches of all of them are read in a few multiplications."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenq.models.forward.buckets import Bucket
from tokenq.models.forward.streams.joined import Layers

SLACK = 1024
"""Tokens of padding in a table, at most: about as many as can be read in the time that one more table takes."""

TABLES = 4
"""Tables more than there would be if all were made anew: from then on they are."""


@dataclass(eq=False)
class Table:
    """Keys and values of prompts of like length, aligned at their ends.

    Attributes:
        sizes: tokens of every prompt.
        branches: branches that grow from each, about: prompts of one and of many are not read together.
        layers: keys and values [heads, P, L, d], zero in front of a shorter prompt.
    """

    sizes: list[int]
    branches: int
    layers: Layers

    def text(self, place: int) -> Layers:
        """Return keys and values of one prompt."""
        size = self.sizes[place]
        return {
            number: (keys[:, place, keys.shape[2] - size :], values[:, place, values.shape[2] - size :])
            for number, (keys, values) in self.layers.items()
        }

    def picked(self, places: Sequence[int]) -> "Table":
        """Return a table of some of the prompts, no longer than the longest of them."""
        rows, sizes = torch.tensor(places), [self.sizes[place] for place in places]
        longest = max(sizes)

        def taken(of: Tensor) -> Tensor:
            return of[:, :, of.shape[2] - longest :].index_select(1, rows.to(of.device))

        layers = {number: (taken(keys), taken(values)) for number, (keys, values) in self.layers.items()}
        return Table(sizes, self.branches, layers)

    def bucket(self, first: int, device: torch.device) -> Bucket:
        """Return what steps know of the table, its prompts numbered from `first` on."""
        sizes, longest = torch.tensor(self.sizes, device=device), max(self.sizes)
        missing = torch.arange(longest, 0, -1, device=device) > sizes[:, None]
        numbers = torch.arange(first, first + len(sizes), device=device)
        return Bucket(numbers, numbers.new_zeros(0), missing if bool(missing.any()) else None)


def table_of(texts: Sequence[Layers], sizes: Sequence[int], branches: int) -> Table:
    """Return a table of prompts, each given by its own keys and values [heads, size, d]."""
    longest, layers = max(sizes), {}
    for number, (keys, values) in texts[0].items():
        both = []
        for which, like in enumerate((keys, values)):
            rows = like.new_zeros(len(like), len(texts), longest, like.shape[-1])
            for place, (text, size) in enumerate(zip(texts, sizes, strict=True)):
                rows[:, place, longest - size :] = text[number][which]
            both.append(rows)
        layers[number] = (both[0], both[1])
    return Table(list(sizes), branches, layers)


def parted(sizes: Sequence[int], branches: Sequence[int]) -> list[list[int]]:
    """Return the prompts that share a table: as many branches each, and little padding.

    Args:
        sizes: tokens of every prompt.
        branches: branches of every prompt.
    """
    groups: list[list[int]] = []
    padding = 0
    for place in sorted(range(len(sizes)), key=lambda place: (branches[place], -sizes[place])):
        first = groups[-1][0] if groups else None
        more = 0 if first is None else sizes[first] - sizes[place]
        if first is None or branches[first] != branches[place] or padding + more > SLACK:
            groups.append([])
            padding = more = 0
        groups[-1].append(place)
        padding += more
    return [sorted(group) for group in groups]


@dataclass(eq=False)
class Shelf:
    """All prompts that branches grow from, numbered through the tables: what steps read them in.

    Attributes:
        sizes: [P] tokens of every prompt.
        buckets: the tables, as steps know them.
        tabled: by layer, keys and values of every table.
    """

    sizes: Tensor
    buckets: tuple[Bucket, ...]
    tabled: dict[int, list[tuple[Tensor, Tensor]]]

    @classmethod
    def of(cls, tables: Sequence[Table], device: torch.device) -> "Shelf":
        """Return the shelf of some tables."""
        firsts = [sum(len(table.sizes) for table in tables[:place]) for place in range(len(tables))]
        buckets = tuple(table.bucket(first, device) for table, first in zip(tables, firsts, strict=True))
        sizes = torch.tensor([size for table in tables for size in table.sizes], device=device)
        layers = {number: [table.layers[number] for table in tables] for number in tables[0].layers}
        return cls(sizes, buckets, layers)

    def tables(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values [heads, P, L, d] of every table."""
        return self.tabled[layer]
