"""Which examples an update sees: plain functions of the seed, the step and the data, so that any step can be repeated.

A batch counts what the loss counts. Pairs and rankings are whole; single responses count one by one, also where several
share a prompt, and such a group is cut where a step is full.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.core.losses.table import Unit
from tokenq.records import TokenGroup
from tokenq.training.config import TrainConfig


class Part(NamedTuple):
    """A group of the data, or some of its responses, as a step sees it.

    Attributes:
        place: of the group in the data.
        start: first of its examples, counted from 0.
        stop: one past the last.
    """

    place: int
    start: int = 0
    stop: int = 1


class Examples(NamedTuple):
    """What a loss counts in each group of the data.

    Attributes:
        sizes: [groups] how many examples each holds.
        unit: of the loss.
    """

    sizes: NDArray[np.int64]
    unit: Unit

    @property
    def total(self) -> int:
        """All examples."""
        return int(self.sizes.sum())


NOUNS: Mapping[Unit, str] = {
    "pairs": "pairs",
    "responses": "responses",
    "labelled": "responses",
    "rewarded": "responses",
    "ranked": "rankings",
    "rated": "responses",
    "steps": "responses",
}
"""What --batch-size counts for each kind of loss. A process reward model counts solutions, whatever their steps."""


def examples_of(groups: Sequence[TokenGroup], unit: Unit) -> Examples:
    """Return what a loss of this unit counts in the data."""
    if NOUNS[unit] != "responses":
        return Examples(np.ones(len(groups), np.int64), unit)
    return Examples(np.array([len(_counted(group, unit)) for group in groups], np.int64), unit)


def total_steps(config: TrainConfig, examples: int) -> int:
    """Return the number of updates of a run over so many examples."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * steps_per_epoch(config, examples))


def steps_per_epoch(config: TrainConfig, examples: int) -> int:
    """Return the number of updates of one pass over so many examples."""
    return math.ceil(examples / config.batch_size)


def step_places(config: TrainConfig, examples: int, step: int) -> list[int]:
    """Return the examples of an update where each is a group of its own: see `step_parts`."""
    return [part.place for part in step_parts(config, np.ones(examples, np.int64), step)]


def step_parts(config: TrainConfig, sizes: NDArray[np.int64], step: int) -> list[Part]:
    """Return what an update sees: the epoch's permutation of the groups, cut into batches; the last may be smaller.

    Args:
        config: seed and batch size.
        sizes: examples of each group.
        step: updates done before this one.
    """
    epoch, place = divmod(step, steps_per_epoch(config, int(sizes.sum())))
    return cut(_permutation(config.seed, epoch, len(sizes)), sizes, place * config.batch_size, config.batch_size)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of an epoch, which all its steps share."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def cut(order: NDArray[np.int64], sizes: NDArray[np.int64], begin: int, count: int) -> list[Part]:
    """Return the examples `begin` to `begin + count` of groups in an order; the last of them may be fewer."""
    ends = np.cumsum(sizes[order])
    first, last = np.searchsorted(ends, (begin, begin + count), side="right")
    parts = []
    for at in range(int(first), min(int(last) + 1, len(order))):
        start = int(ends[at] - sizes[order[at]])
        part = Part(int(order[at]), max(begin - start, 0), min(begin + count, int(ends[at])) - start)
        if part.stop > part.start:  # a group may hold nothing that counts
            parts.append(part)
    return parts


def taken(groups: Sequence[TokenGroup], part: Part, examples: Examples) -> tuple[TokenGroup, tuple[int, ...]]:
    """Return a group with the responses that a part holds, and their places in the whole group.

    What is read beside examples (the response of another prompt) goes with every part.
    """
    group = groups[part.place]
    if part.start == 0 and part.stop == examples.sizes[part.place]:
        return group, tuple(range(len(group.responses)))
    counted = _counted(group, examples.unit)
    chosen = set(counted[part.start : part.stop])
    kept = tuple(i for i in range(len(group.responses)) if i in chosen or i not in counted)
    return replace(group, responses=tuple(group.responses[i] for i in kept)), kept


def _counted(group: TokenGroup, unit: Unit) -> list[int]:
    """Return the responses that are examples; one without a label is only read beside labelled ones."""
    return [i for i, response in enumerate(group.responses) if unit != "labelled" or response.label is not None]
