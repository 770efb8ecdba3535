"""The pairs that are chosen from: rows as they stand, with the pair that each of them gives."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tokenq.data.examples import format_of, read_examples
from tokenq.data.files.local import Row
from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import Data, tables_of
from tokenq.errors import UserError
from tokenq.files import json_line, plain
from tokenq.listener import Listener
from tokenq.options import RowOptions
from tokenq.records.examples import Example


@dataclass(frozen=True)
class Pool:
    """N pairs, each of a row of its own.

    Attributes:
        rows: all rows of the data, whether they give a pair or not.
        pairs: the pairs, in the order of their rows.
        numbers: the row of each pair, counted from 0 over all of the data.
        dropped: rows without a pair, by reason.
    """

    rows: Sequence[Row]
    pairs: Sequence[Example]
    numbers: Sequence[int]
    dropped: Mapping[str, int]

    def without(self, numbers: frozenset[int], why: str) -> "Pool":
        """Return the pool without the pairs of some rows, which are counted."""
        kept = [place for place, number in enumerate(self.numbers) if number not in numbers]
        lost = len(self.pairs) - len(kept)
        dropped = {**self.dropped, why: lost} if lost else self.dropped
        pairs, own = [self.pairs[place] for place in kept], [self.numbers[place] for place in kept]
        return replace(self, pairs=pairs, numbers=own, dropped=dropped)

    def digest(self) -> str:
        """Return a digest of all rows as they stand."""
        return hashlib.sha256(b"".join(json_line(plain(row.values)) for row in self.rows)).hexdigest()


def read_pool(data: Data, config: RowOptions, listener: Listener, selection: str = "pairs") -> Pool:
    """Return the pairs in data, and the rows that they come from.

    Args:
        data: names, or rows.
        config: how rows are read.
        listener: told what was decided that the user may want otherwise.
        selection: what is asked of a row.

    Raises:
        UserError: a source has a weight or is named twice, a pair is more than one row or a row more than one pair, or
            rows cannot be read.
    """
    named = [one for one in data if isinstance(one, str)]
    for name in named:
        if parse_source(name).weight != 1:
            raise UserError(f"{name}: rows are chosen, and a source has no weight there.", "Leave the weight out.")
    rows: list[Row] = []
    pairs: list[Example] = []
    dropped: Counter[str] = Counter()
    places: dict[str, int] = {}
    read = partial(read_examples, selection=selection, columns=config.columns, style=config.style)
    for table in tables_of(data):
        _refuse_joined(table, selection, config.columns)
        found = read(table, bad_rows=config.bad_rows)
        for note in found.notes:
            listener.say(f"data: {note}")
        again = next((row.where for row in table if row.where in places), None)
        if again is not None:
            raise UserError(f"{again} is read twice: the data name its file twice.", "Name every file once.")
        places |= {row.where: len(rows) + number for number, row in enumerate(table)}
        rows += table
        pairs += found.examples
        dropped += found.dropped
    numbers = [places.get(pair.where, -1) for pair in pairs]
    counts = Counter(numbers)
    for pair, number in zip(pairs, numbers, strict=True):
        if number < 0 or counts[number] > 1:
            raise UserError(
                f"{pair.where}: a row gives several pairs.", "Write one pair a row first, and choose among these."
            )
    return Pool(rows, pairs, numbers, dict(dropped))


def _refuse_joined(table: Sequence[Row], selection: str, columns: Mapping[str, str]) -> None:
    """Refuse rows of single responses that make a pair together: to keep one of them keeps no pair."""
    form, _ = format_of(table, selection, columns)
    if form.grouped and selection not in form.apart:
        raise UserError(
            f"{table[0].where}: rows hold one response each, and a pair is made of several of them.",
            "Write one pair a row (prompt, chosen, rejected) first, and choose among these.",
        )


def shown(pair: Example) -> tuple[str, frozenset[str]]:
    """Return what tells a pair from others, whichever of its responses is preferred."""
    return str(pair.prompt), frozenset(str(response.content) for response in pair.responses)


def values_of(pool: Pool, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows as they stand in the data."""
    return [pool.rows[number].values for number in numbers]
