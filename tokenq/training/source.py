"""The source of the examples of each update: a pure function of seed and step, so that any step can be repeated.

A batch counts what the loss counts. Pairs and rankings are whole; single responses count one by one, also where several
share a prompt, and such a group is cut where a step is full.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tokenq.core.losses.units import Unit
from tokenq.core.packing import pack
from tokenq.core.tensors import PackedBatch
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.records.examples import Group, TokenGroup
from tokenq.records.lazy_groups import LazyGroups
from tokenq.training.config import TrainConfig


class Part(NamedTuple):
    """A group, or some of its responses, as a step sees it.

    Attributes:
        group: the prompt with the responses that the step sees.
        place: of the whole group in the data.
        responses: their places in the whole group.
    """

    group: Group
    place: int
    responses: tuple[int, ...]


class Source(Protocol):
    """Gives the examples of every update: the same for the same number, whatever was asked before."""

    @property
    def per_epoch(self) -> int | None:
        """The updates of one pass over the data, None where nobody knows its end."""
        ...

    def step(self, number: int) -> list[Part]:
        """Return the examples of the update after `number` others; none where there is nothing to learn from."""
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

    groups: Sequence[Group]
    unit: Unit
    batch_size: int
    seed: int

    @cached_property
    def sizes(self) -> NDArray[np.integer[Any]]:
        """[groups] how many examples each holds."""
        if isinstance(self.groups, LazyGroups):
            return self.groups.examples
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

    @cached_property
    def is_plain(self) -> bool:
        """Whether every group is one example."""
        return bool((self.sizes == 1).all())

    def cut(self, order: NDArray[np.int64], begin: int) -> list[Part]:
        """Return a batch of examples of the groups in an order, from the example `begin` on."""
        if self.is_plain:  # no need to look at all of millions
            return [self.part(place, 0, 1) for place in order[begin : begin + self.batch_size].tolist()]
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
        return Part(group.only(kept), place, kept)


class GroupStream(Protocol):
    """Groups that come one after the other, of unknown number."""

    def read(self, number: int = 0, record: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, Group]]:
        """Yield (place, group) of a pass, from its beginning or from a recorded place on."""
        ...

    def record(self, places: Any) -> dict[str, Any]:
        """Return a place as plain values."""
        ...


@dataclass(frozen=True)
class Places:
    """A file that keeps where steps of a stream begin: nothing that could not be found by reading it again.

    Attributes:
        lines: the file.
        key: of the data; places of other data count for nothing.
        writes: whether this process writes it.
    """

    lines: JsonLines
    key: str
    writes: bool = True

    def before(self, step: int) -> dict[str, Any]:
        """Return the last place at or before a step, the beginning where none is known."""
        known = [line for line in self.lines.read() if line.get("data") == self.key and line["step"] <= step]
        return max(known, key=lambda line: int(line["step"]), default={"step": 0, "pass": 0, "block": 0})

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep one more."""
        if self.writes:
            self.lines.append({**line, "data": self.key})


class _Block(NamedTuple):
    """Some whole steps of a stream.

    Attributes:
        first: the number of the first of them.
        after: of the first step behind them.
        epoch: the pass that they belong to.
        number: of the block in the pass.
        parts: of each step.
    """

    first: int
    after: int
    epoch: int
    number: int
    parts: list[list[Part]]


class Streamed:
    """Data of unknown number, read block by block: each is a permutation of its own groups, cut into batches.

    A block holds at least as many examples as the buffer, in whole batches, and ends with the pass. So a stream that
    the buffer holds whole gives the steps of `Offline` on the same groups, pass for pass; without a buffer the order is
    that of the stream. One block is in memory.

    Args:
        stream: the data.
        unit: what is counted.
        batch_size: examples in an update.
        buffer: examples that are shuffled together; 0 leaves the order as it is.
        seed: of the order.
        places: keeps where blocks begin, so that a resumed run need not read what is before; None keeps nothing.
    """

    per_epoch = None

    def __init__(
        self,
        stream: GroupStream,
        unit: Unit,
        batch_size: int,
        *,
        buffer: int,
        seed: int,
        places: Places | None = None,
    ) -> None:
        self._stream, self._unit, self._batch_size, self._seed = stream, unit, batch_size, seed
        self._buffer, self._places = buffer, places
        self._least = max(1, math.ceil(buffer / batch_size)) * batch_size
        self._block = _Block(0, 0, 0, -1, [])
        self._groups: Iterator[tuple[Any, Group]] = stream.read()
        self._held: tuple[Any, Group] | None = None
        self._kept = -1

    def step(self, number: int) -> list[Part]:
        """Return the examples of the update after `number` others.

        Raises:
            UserError: the stream fails, or has ended and cannot begin again.
        """
        if number < self._block.first or (self._block.number < 0 and number):
            self._seek(number)
        while number >= self._block.after:
            self._block = self._next()
        return self._block.parts[number - self._block.first]

    def _seek(self, number: int) -> None:
        """Go to the last known block that begins at or before a step."""
        last: dict[str, Any] = (
            {"step": 0, "pass": 0, "block": 0} if self._places is None else self._places.before(number)
        )
        self._held, self._kept = None, int(last["step"])
        self._block = _Block(last["step"], last["step"], last["pass"], last["block"] - 1, [])
        self._groups = self._stream.read(last["pass"], last.get("place"))

    def _next(self) -> _Block:
        """Return the next block, of the next pass where this one has ended."""
        epoch, number = self._block.epoch, self._block.number + 1
        groups = self._fill()
        while not groups:
            epoch, number = epoch + 1, 0
            self._groups = self._stream.read(epoch)
            groups = self._fill()
        places, held = [place for place, _ in groups], [group for _, group in groups]
        self._keep(self._block.after, epoch, number, places[0])
        data = Offline(held, self._unit, self._batch_size, self._seed)
        order = np.random.default_rng([self._seed, epoch, number][: 3 if number else 2]).permutation(len(held))
        cut = (
            [data.cut(order, at) for at in range(0, data.total, self._batch_size)] if self._buffer else data.in_order()
        )
        return _Block(self._block.after, self._block.after + len(cut), epoch, number, cut)

    def _fill(self) -> list[tuple[Any, Group]]:
        """Return what is left of the pass, at most a block."""
        found = [] if self._held is None else [self._held]
        count = sum(self._unit.size(group) for _, group in found)
        self._held = None
        while count < self._least and (item := next(self._groups, None)) is not None:
            size = self._unit.size(item[1])
            if found and count + size > self._least:
                self._held = item
                break
            found.append(item)
            count += size
        return found if count else []

    def _keep(self, step: int, epoch: int, number: int, place: Any) -> None:
        """Keep where a block begins, once in a while."""
        if self._places is not None and step >= self._kept + _STEPS_BETWEEN_PLACES:
            self._places.add({"step": step, "pass": epoch, "block": number, "place": self._stream.record(place)})
            self._kept = step


_STEPS_BETWEEN_PLACES = 50

SHUFFLE_BUFFER = 1000
"""Examples of a stream that are shuffled together where nothing is asked for."""


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


def pack_parts(parts: Sequence[Part], step: int | None = None) -> PackedBatch:
    """Return parts of text as one batch, whose members point into the whole groups.

    Args:
        parts: groups in token space.
        step: the update that they are for, on which nothing of a text depends.
    """
    groups = [cast(TokenGroup, part.group) for part in parts]
    return pack(groups, [part.place for part in parts], [part.responses for part in parts])
