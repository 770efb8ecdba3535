"""The source of the examples of each update: a pure function of seed and step, so that any step can be repeated.

A batch counts what the loss counts. Pairs and rankings are whole; single responses count one by one, also where several
share a prompt, and such a group is cut where a step is full.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenq.core.losses.units import Unit
from tokenq.core.packing import pack
from tokenq.core.tensors import PackedBatch
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup
from tokenq.training.config import TrainConfig


class Part(NamedTuple):
    """A group, or some of its responses, as a step sees it.

    Attributes:
        group: the prompt with the responses that the step sees.
        place: of the whole group in the data.
        responses: their places in the whole group.
    """

    group: TokenGroup
    place: int
    responses: tuple[int, ...]


class Source(Protocol):
    """Gives the examples of every update: the same for the same number, whatever was asked before."""

    @property
    def per_epoch(self) -> int | None:
        """The updates of one pass over the data, None where nobody knows its end."""
        ...

    def step(self, number: int) -> list[Part]:
        """Return the examples of the update after `number` others."""
        ...


@dataclass(frozen=True)
class Offline:
    """Data that is all there: each epoch a permutation of the groups, cut into batches; the last may be smaller.

    Attributes:
        groups: the data.
        unit: what is counted.
        batch_size: examples in an update.
        seed: of the order.
    """

    groups: Sequence[TokenGroup]
    unit: Unit
    batch_size: int
    seed: int

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """[groups] how many examples each holds."""
        return np.array([self.unit.size(group) for group in self.groups], np.int64)

    @property
    def total(self) -> int:
        """All examples."""
        return int(self.sizes.sum())

    @property
    def per_epoch(self) -> int:
        """The updates of one pass over the data."""
        return math.ceil(self.total / self.batch_size)

    def step(self, number: int) -> list[Part]:
        """Return the examples of the update after `number` others."""
        epoch, place = divmod(number, self.per_epoch)
        return self.cut(_permutation(self.seed, epoch, len(self.groups)), place * self.batch_size)

    def in_order(self) -> list[list[Part]]:
        """Return the steps of one pass in the order of the data."""
        order = np.arange(len(self.groups))
        return [self.cut(order, place * self.batch_size) for place in range(self.per_epoch)]

    def cut(self, order: NDArray[np.int64], begin: int) -> list[Part]:
        """Return a batch of examples of the groups in an order, from the example `begin` on."""
        ends, end = np.cumsum(self.sizes[order]), begin + self.batch_size
        first, last = np.searchsorted(ends, (begin, end), side="right")
        parts = []
        for at in range(int(first), min(int(last) + 1, len(order))):
            start = int(ends[at] - self.sizes[order[at]])
            low, high = max(begin - start, 0), min(end, int(ends[at])) - start
            if high > low:  # a group may hold nothing that counts
                parts.append(self.part(int(order[at]), low, high))
        return parts

    def part(self, place: int, low: int, high: int) -> Part:
        """Return a group with its examples `low` to `high`.

        What is read beside examples (the response of another prompt) goes with every part.
        """
        group = self.groups[place]
        if low == 0 and high == self.sizes[place]:
            return Part(group, place, tuple(range(len(group.responses))))
        examples = self.unit.examples(group)
        taken = set(examples[low:high])
        kept = tuple(i for i in range(len(group.responses)) if i in taken or i not in examples)
        return Part(replace(group, responses=tuple(group.responses[i] for i in kept)), place, kept)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of an epoch, which all its steps share."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def total_steps(config: TrainConfig, per_epoch: int | None) -> int:
    """Return the number of updates of a run.

    Raises:
        UserError: nobody knows how long an epoch is.
    """
    if config.max_steps is not None:
        return config.max_steps
    if per_epoch is None:
        raise UserError("The data have no known end, so that --epochs says nothing.", "Give --max-steps.")
    return math.ceil(config.epochs * per_epoch)


def pack_parts(parts: Sequence[Part]) -> PackedBatch:
    """Return parts of the data as one batch, whose members point into the whole groups."""
    return pack([part.group for part in parts], [part.place for part in parts], [part.responses for part in parts])
