"""Rows that come one after the other and are never held whole: of files, of hub data sets, of what Python gives."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tokenq.data.files.folders import local_pieces
from tokenq.data.files.hub import hub_piece
from tokenq.data.files.local import STANDARD_INPUT, Row, numbered_rows, standard_input_rows
from tokenq.data.files.slices import first_line, resolved
from tokenq.data.files.source_language import SourceName
from tokenq.errors import UserError

MARK_EVERY = 1000
"""Rows between two states of a data set that can say where it is."""


GIVEN = "a stream from Python"
"""The name of rows that cannot be named."""


class Mark(NamedTuple):
    """A place in a stream.

    Attributes:
        row: rows before it.
        state: that of a `datasets.IterableDataset` there, None for what can only be counted.
    """

    row: int = 0
    state: Any = None


START = Mark()


class RowStream:
    """Rows of unknown number, read from the first or from a place on.

    Args:
        name: for error messages.
        begin: gives the rows from the first on, numbered from what it is called with.
        once: whether they can be read a single time, as those of an iterator.
        table: the `datasets.IterableDataset` that they come from, which goes on from a state of its own.
    """

    def __init__(
        self, name: str, begin: Callable[[int], Iterable[Row]], *, once: bool = False, table: Any = None
    ) -> None:
        self.name, self._begin, self._once, self._table = name, begin, once, table
        self._held: Iterator[Row] | None = None
        self._marks: deque[Mark] = deque(maxlen=16)

    def first(self, count: int) -> list[Row]:
        """Return the first rows, fewer where there are no more; they are read again afterwards."""
        if not self._once:
            return [row for _, row in itertools.islice(self.read(), count)]
        rest = self._checked(self._begin(1), 0)
        seen = list(itertools.islice(rest, count))
        self._held = itertools.chain(seen, rest)
        return seen

    def read(self, mark: Mark = START) -> Iterator[tuple[int, Row]]:
        """Yield (rows before it, row) from a place on.

        Raises:
            UserError: the stream fails, or can be read once and was.
        """
        if self._table is not None:
            self._table.load_state_dict(mark.state)
        rows: Iterator[Row]
        if self._once:
            rows = itertools.islice(self._single(), mark.row, None)
        elif mark.state is None:
            rows = itertools.islice(self._checked(self._begin(1), 0), mark.row, None)
        else:
            rows = self._checked(self._begin(mark.row + 1), mark.row)
        for number, row in enumerate(rows, mark.row):
            yield number, row
            if self._table is not None and (number + 1) % MARK_EVERY == 0:
                self._marks.append(Mark(number + 1, self._table.state_dict()))

    def mark(self, row: int) -> Mark:
        """Return the last known place at or before a row, from which it is found by counting."""
        return max((mark for mark in self._marks if mark.row <= row), default=START, key=lambda mark: mark.row)

    def _single(self) -> Iterator[Row]:
        rows, self._held = self._held, None
        if rows is not None:
            yield from rows
            return
        raise UserError(
            f"{self.name} has ended, and can be read only once.",
            "Give a function that begins it anew, or no more --max-steps than it has rows for.",
        )

    def _checked(self, rows: Iterable[Row], number: int) -> Iterator[Row]:
        """Yield rows; what goes wrong in foreign code is told with the row."""
        found = iter(rows)
        while True:
            try:
                row = next(found)
            except StopIteration:
                return
            except UserError:
                raise
            except Exception as problem:  # whatever a generator or a hub raises
                said = f"{type(problem).__name__}: {first_line(problem)}"
                raise UserError(
                    f"{self.name}, row {number + 1}: the stream fails: {said}.",
                    "Mend what gives the rows, and go on with --resume (resume=True).",
                ) from problem
            number += 1
            yield row


def named_stream(source: SourceName) -> RowStream:
    """Return the rows of a file, a folder, a pattern, a hub data set or standard input as a stream.

    Raises:
        UserError: there is no such source, or a slice of it is asked for.
    """
    if "[" in (source.split or ""):
        raise UserError(
            f"Data source {source.text!r} is a slice, and the length of a stream is not known.",
            "Leave the slice out, or read the data without --streaming.",
        )
    if source.location in STANDARD_INPUT:
        return RowStream("standard input", lambda start: standard_input_rows(), once=True)
    found = local_pieces(source)
    if found is None:
        piece = hub_piece(source, streaming=True)
        return table_stream(piece.content, piece.name)
    pieces = [piece for name, _ in resolved(source, list(found)) for piece in found[name]]
    return RowStream(source.text, lambda start: (row for piece in pieces for row in piece.rows()))


def table_stream(table: Any, name: str) -> RowStream:
    """Return the rows of a `datasets.IterableDataset` as a stream."""
    return RowStream(name, lambda start: numbered_rows(_columns(table), name, start), table=table)


def given_stream(rows: Any, name: str) -> RowStream:
    """Return the rows that Python gives as a stream.

    Args:
        rows: a `datasets.IterableDataset`, an iterable, an iterator (which is read once), or a function that returns
            one of them.
        name: for error messages.
    """
    import datasets

    if isinstance(rows, datasets.IterableDataset):
        return table_stream(rows, name)
    once = isinstance(rows, Iterator)
    begin = rows if callable(rows) else lambda: rows
    return RowStream(name, lambda start: numbered_rows(_columns(begin()), name, start), once=once)


def _columns(rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"a {type(row).__name__} is no row: give dictionaries with one key a column")
        yield dict(row)
