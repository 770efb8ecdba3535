"""Texts that are written side by side, and who of them leaves or enters between two steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from tokenq.models.forward.buckets import rows_of
from tokenq.models.forward.cache import ROOM, Branches, Growth
from tokenq.models.forward.streams.joined import Layers, length_of, size_of
from tokenq.models.forward.streams.table import TABLES, Shelf, Table, parted, table_of

SHORT = 128
"""Own tokens up to which texts are written side by side; beyond, those within a factor of two are. Each takes as much
memory as the longest of its group, so memory stays linear in tokens."""


def class_of(length: int) -> int:
    """Return which texts one of so many own tokens is written beside."""
    return 0 if length < SHORT else length.bit_length()


@dataclass(eq=False)
class Root:
    """A prompt that texts grow from.

    Attributes:
        prompt: its tokens.
        branches: how many grow from it at first.
        layers: its keys and values until it stands in a table; empty where it is read again at every step.
        table: the table that it stands in.
        place: where in it.
    """

    prompt: tuple[int, ...]
    branches: int
    layers: Layers
    table: Table | None = None
    place: int = 0

    def text(self) -> Layers:
        """Return keys and values of the prompt."""
        return self.layers if self.table is None else self.table.text(self.place)


@dataclass(eq=False)
class Stream:
    """A text that is being written.

    Attributes:
        root: the prompt that it grows from.
        tokens: its own tokens that the model has read.
    """

    root: Root
    tokens: list[int] = field(default_factory=list)

    @property
    def text(self) -> tuple[int, ...]:
        """All tokens that the model has read."""
        return (*self.root.prompt, *self.tokens)

    def __len__(self) -> int:
        """Return how many tokens the model has read."""
        return len(self.root.prompt) + len(self.tokens)


@dataclass(eq=False)
class Group:
    """Texts that take their steps together.

    Attributes:
        streams: by row.
        tables: the prompts that they grow from, some of which may have no branch any more.
        branches: their state.
    """

    streams: list[Stream]
    tables: list[Table]
    branches: Branches

    def own(self, row: int) -> Layers:
        """Return keys and values of the own tokens of a text."""
        length = len(self.streams[row].tokens)
        return {
            number: (one.keys[:, row, :length], one.values[:, row, :length])
            for number, one in self.branches.layers.items()
        }

    def whole(self, row: int) -> Layers:
        """Return a copy of the keys and values of a text, prompt and own tokens."""
        own = self.own(row)
        return {
            number: (torch.cat((keys, own[number][0]), 1), torch.cat((values, own[number][1]), 1))
            if number in own
            else (keys.clone(), values.clone())
            for number, (keys, values) in self.streams[row].root.text().items()
        }

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        grown = sum(one.keys.nbytes + one.values.nbytes for one in self.branches.layers.values())
        return grown + sum(size_of(table.layers) for table in self.tables)


def regrouped(
    group: Group | None, keep: Sequence[int], newcomers: Sequence[tuple[Stream, Layers]], device: torch.device
) -> Group:
    """Return the group of those that stay and those that enter.

    Args:
        group: what there was.
        keep: rows of it that stay.
        newcomers: texts, with keys and values of their own tokens.
        device: where the model is.
    """
    streams = [*([] if group is None else [group.streams[row] for row in keep]), *(one for one, _ in newcomers)]
    tables = _tables([] if group is None else group.tables, streams)
    firsts: dict[int, int] = {}
    for table in tables:
        firsts[id(table)] = sum(len(other.sizes) for other in tables[: len(firsts)])
    owners = torch.tensor([firsts[id(one.root.table)] + one.root.place for one in streams], device=device)
    counts = [len(one.tokens) for one in streams]
    lengths, longest = torch.tensor(counts, device=device), max(counts)
    shelf = Shelf.of(tables, device)
    layers = _grown(group, keep, newcomers, longest, shelf) if longest else {}
    level = min(counts) == longest
    rows = rows_of(shelf.buckets, owners)
    return Group(streams, tables, Branches(shelf, owners, lengths, longest, level, rows, layers, [longest]))


def _grown(
    group: Group | None, keep: Sequence[int], newcomers: Sequence[tuple[Stream, Layers]], longest: int, shelf: Shelf
) -> dict[int, Growth]:
    """Return the memory of own tokens, by layer: of those that stay, and of those that enter."""
    layers = {}
    before = {} if group is None else group.branches.layers
    for number, tables in shelf.tabled.items():
        rows = torch.tensor(keep, device=tables[0][0].device)
        new = Growth.empty(tables[0], len(keep) + len(newcomers), longest + ROOM)
        for which, into in enumerate((new.keys, new.values)):
            if number in before and len(keep):
                old = before[number].keys if which == 0 else before[number].values
                seen = min(longest, old.shape[2])
                into[:, : len(keep), :seen] = old[:, :, :seen].index_select(1, rows)
            for row, (_, own) in enumerate(newcomers, len(keep)):
                if own:
                    into[:, row, : length_of(own)] = own[number][which]
        layers[number] = new
    return layers


def _tables(before: Sequence[Table], streams: Sequence[Stream]) -> list[Table]:
    """Return the tables of all prompts that have branches, as few of them made anew as will do."""
    roots = list(dict.fromkeys(one.root for one in streams))
    tables = []
    for table in before:
        alive = [root for root in roots if root.table is table]
        if 4 * len(alive) >= 3 * len(table.sizes):
            tables.append(table)
        elif alive:
            tables.append(table.picked([root.place for root in alive]))
            _stand(alive, tables[-1])
    new = [root for root in roots if root.table is None]
    tables += _made(new)
    sizes = [len(root.prompt) for root in roots]
    if len(tables) > len(parted(sizes, [root.branches for root in roots])) + TABLES:
        return _made(roots)
    return tables


def _made(roots: Sequence[Root]) -> list[Table]:
    """Return new tables of prompts, which from then on stand in them."""
    sizes = [len(root.prompt) for root in roots]
    made = []
    for places in parted(sizes, [root.branches for root in roots]):
        own = [roots[place] for place in places]
        made.append(table_of([root.text() for root in own], [sizes[place] for place in places], own[0].branches))
        _stand(own, made[-1])
    return made


def _stand(roots: Iterable[Root], table: Table) -> None:
    for place, root in enumerate(roots):
        root.table, root.place, root.layers = table, place, {}
