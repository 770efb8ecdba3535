"""Read a local file, or standard input, as rows with their places.

Values come out exactly as they stand in the file. JSON and CSV are therefore parsed here and not by `datasets`, whose
readers turn text such as "2024-01-01" into a date, "007" into 7 and "None" into a null, and name no line when one is
broken. Nothing is cached, so that a changed file is never read stale. This module knows nothing of what columns mean.
"""

import functools
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from tokenq.data.files.arrow_rows import read_arrow, read_parquet
from tokenq.data.files.json_rows import read_json, read_json_lines
from tokenq.data.files.row_bounds import Columns, NumberedRows, within_bounds
from tokenq.data.files.separated_rows import read_csv, read_tsv
from tokenq.data.files.unpacking import (
    PACKED,
    in_utf8,
    opened,
    plain_suffix,
    refuse_full_memory,
    refuse_special,
    watched,
)
from tokenq.data.turns import BadRow
from tokenq.errors import UserError

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""What standard input is called."""

_MOST_INPUT = 2**30
_ROWS_BETWEEN_LOOKS = 20_000


@dataclass(frozen=True)
class Row:
    """One row of a data source.

    Attributes:
        values: the columns by name.
        where: the place it came from, such as "train.jsonl, row 17" (the line number for JSON lines, else from 1).
        fault: why the row cannot be read, where that concerns this row alone; it has no columns then.
    """

    values: dict[str, Any]
    where: str
    fault: BadRow | None = None


class Piece(NamedTuple):
    """A part of a source: a file, or a table of `datasets`.

    Attributes:
        name: for error messages.
        content: the path of the file, or the table, which may be one that can only be iterated over.
    """

    name: str
    content: Any

    def rows(self) -> Iterator[Row]:
        """Yield its rows, counted from 1, as they are read."""
        if isinstance(self.content, Path):
            return file_rows(self.content, self.name)
        return numbered_rows(_batched(self.content), self.name)


def read_file(path: Path, name: str) -> list[Row]:
    """Return the rows of one local data file; see `file_rows`."""
    return list(file_rows(path, name))


def file_rows(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of one local data file as they are read.

    Args:
        path: the file.
        name: what to call it in error messages.

    Raises:
        UserError: for an unknown file type, an empty or a damaged file, naming the line where the file has lines.
    """
    if path.exists():
        refuse_special(path, name)
    suffix = plain_suffix(path)
    if suffix not in READERS:
        raise UserError(
            f"{name} is not a data file that can be read (suffix {path.suffix!r}).",
            OTHER_FILES.get(suffix, f"Give one of {readable()}, or a folder of such files."),
        )
    with opened(path, name) as handle, path.open("rb") as plain:
        in_place = suffix in BINARY and path.suffix.lower() == suffix  # not packed: what is asked for is read
        text = plain if in_place else handle if suffix in BINARY else in_utf8(handle, name)
        row = None
        for row in _rows(READERS[suffix](cast(io.BufferedIOBase, text), name), name):
            yield row
    if row is None:
        raise UserError(f"{name} holds no rows.", "Give a file with at least one row.")


def whole(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows; raise an error if one cannot be read.

    Raises:
        UserError: names the first such row.
    """
    for row in rows:
        if row.fault:
            raise UserError(f"{row.where}: {row.fault.detail}.", "Mend or delete that row.")
    return rows


def readable() -> str:
    """Return the suffixes that can be read, in words."""
    return f"{', '.join(sorted(READERS))} (each also with {', '.join(sorted(PACKED))})"


def read_standard_input() -> list[Row]:
    """Return the rows that come on standard input: JSON lines, or a JSON document.

    Raises:
        UserError: nothing is piped in, or there is no end to it.
    """
    name = "standard input"
    rows = list(_rows(read_json(cast(io.BufferedIOBase, in_utf8(_standard_input(), name)), name), name))
    if not rows:
        raise UserError("Standard input holds no rows.", "Pipe JSON lines or JSON into the command.")
    return rows


def standard_input_rows() -> Iterator[Row]:
    """Yield the same rows as they come."""
    name = "standard input"
    return _rows(read_json(cast(io.BufferedIOBase, in_utf8(_open_input(), name)), name), name)


def _standard_input() -> io.BufferedReader:
    return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(_input_bytes())))


def _open_input() -> io.BufferedReader:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Several processes cannot share standard input.", "Write the data to a file.")
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("Nothing is piped into standard input.", "Write it as in: cat pairs.jsonl | tokenq … --data -")
    return watched(cast(IO[bytes], sys.stdin.buffer), "standard input")


@functools.cache  # a pipe can be read once, and a command may look at its data more than once
def _input_bytes() -> bytes:
    content = _open_input().read(_MOST_INPUT + 1)
    if len(content) > _MOST_INPUT:
        raise UserError(f"Standard input has more than {_MOST_INPUT:,} bytes.", "Write the data to a file.")
    return content


def given_rows(rows: Iterable[Columns]) -> list[Row]:
    """Return rows in memory, counted from 1."""
    return list(numbered_rows(rows, "the data"))


def numbered_rows(rows: Iterable[Columns], name: str, start: int = 1) -> Iterator[Row]:
    """Yield rows, counted from `start`, as they come."""
    return _rows(enumerate(rows, start), name)


def _batched(table: Any) -> Iterator[Columns]:
    for batch in table.iter(1000):
        columns: Sequence[str] = list(batch)
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))


def _rows(found: NumberedRows, name: str) -> Iterator[Row]:
    """Yield rows with their places; a row that is too large is a bad row."""
    for count, (number, columns) in enumerate(found, 1):
        if count % _ROWS_BETWEEN_LOOKS == 0:
            refuse_full_memory(name, f"{count:,} rows")
        where = f"{name}, row {number}"
        bounded = columns if isinstance(columns, BadRow) else within_bounds(columns)
        yield Row({}, where, bounded) if isinstance(bounded, BadRow) else Row(bounded, where)


READERS: dict[str, Callable[[io.BufferedIOBase, str], NumberedRows]] = {
    ".arrow": read_arrow,
    ".csv": read_csv,
    ".feather": read_arrow,
    ".ipc": read_arrow,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
    ".tsv": read_tsv,
}
"""Every file type by its suffix, to a reader of (row number, columns)."""

BINARY = (".arrow", ".feather", ".ipc", ".parquet")
"""Those that hold no text."""

_TABLE = "Save it as CSV in UTF-8, or as JSON lines: data.to_json('data.jsonl', orient='records', lines=True)."
OTHER_FILES = {
    ".bin": "That looks like weights; data are tables of text.",
    ".db": "Write the rows as JSON lines.",
    ".pickle": f"Such a file can run code when it is opened. {_TABLE}",
    ".pkl": f"Such a file can run code when it is opened. {_TABLE}",
    ".pt": "Such a file can run code when it is opened. Write the rows as JSON lines.",
    ".pth": "Such a file can run code when it is opened. Write the rows as JSON lines.",
    ".safetensors": "That looks like weights; data are tables of text.",
    ".sqlite": "Write the rows as JSON lines.",
    ".tar": "Unpack it, and give the folder or the files.",
    ".tgz": "Unpack it, and give the folder or the files.",
    ".txt": 'Write JSON lines such as {"text": "…"}, one for each text.',
    ".xls": _TABLE,
    ".xlsx": _TABLE,
    ".yaml": "Write the rows as JSON.",
    ".yml": "Write the rows as JSON.",
}
"""What to do about files of other types."""
