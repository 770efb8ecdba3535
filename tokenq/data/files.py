"""One local file to rows, each with its place in the file.

Values come out exactly as they stand in the file. JSON and CSV are therefore parsed here and not by `datasets`, whose
readers turn text such as "2024-01-01" into a date, "007" into 7 and "None" into a null, and name no line when one is
broken. Nothing is cached, so that a changed file is never read stale. This module knows nothing of what columns mean.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from tokenq.data.turns import BadRow
from tokenq.errors import UserError

_LONGEST_CELL = 2**31 - 1


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


def read_file(path: Path, name: str) -> list[Row]:
    """Return the rows of one local data file.

    Args:
        path: the file.
        name: what to call it in error messages.

    Raises:
        UserError: for an unknown file type, an empty or a damaged file, naming the line where the file has lines.
    """
    suffix = data_suffix(path)
    if suffix not in READERS:
        raise UserError(
            f"{name} is not a data file that can be read (suffix {path.suffix!r}).",
            f"Give one of {', '.join(sorted(READERS))} (also with .gz), or a folder of such files.",
        )
    try:
        with path.open("rb") as plain:
            handle = cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if path.suffix.lower() == ".gz" else plain
            rows = [Row(values, f"{name}, row {number}") for number, values in READERS[suffix](handle, name)]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} is damaged: {error}.", "Copy or download the file again.") from error
    except PermissionError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.", "Change the permissions of the file.") from error
    if not rows:
        raise UserError(f"{name} holds no rows.", "Give a file with at least one row.")
    return rows


def data_suffix(path: Path) -> str:
    """Return the suffix that says what a file holds: lower case, without a trailing ".gz"."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def table_rows(table: Any, name: str) -> list[Row]:
    """Return the rows of a `datasets.Dataset`, counted from 1."""
    rows: list[Row] = []
    for batch in table.iter(1000):
        columns: Sequence[str] = list(batch)
        for cells in zip(*batch.values(), strict=True):
            rows.append(Row(dict(zip(columns, cells, strict=True)), f"{name}, row {len(rows) + 1}"))
    return rows


def _json_lines(handle: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(handle, 1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, _object(_parsed(line.rstrip(), name, number), f"{name}, line {number}")


def _json(handle: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a `.json` file: JSON lines, an array of objects, or one object around such an array."""
    content = handle.read()
    if _looks_like_lines(content):
        yield from _json_lines(io.BytesIO(content), name)
        return
    whole = _parsed(content, name, 1) if content.strip() else []
    if isinstance(whole, dict):
        tables = [value for value in whole.values() if isinstance(value, list)]
        whole = tables[0] if len(whole) == len(tables) == 1 else [whole]
    if not isinstance(whole, list):
        raise UserError(f"{name} holds no table.", "Write an array of objects, or one object a line.")
    for number, value in enumerate(whole, 1):
        yield number, _object(value, f"{name}, row {number}")


def _looks_like_lines(content: bytes) -> bool:
    """Return whether the first line is an object of its own, with more after it."""
    first, _, rest = content.lstrip().partition(b"\n")
    if not first.lstrip(b"\xef\xbb\xbf").startswith(b"{") or not rest.strip():
        return False
    # A broken first line is still a line when it closes its brace: a pretty-printed object opens it and goes on.
    return first.rstrip().endswith(b"}") or rest.lstrip().startswith(b"{")


def _separated(handle: IO[bytes], name: str, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file with a header; every cell is text, and a short or long row is an error."""
    text = io.StringIO(_decoded(handle.read(), name, 1), newline="")
    former = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(text, delimiter=separator, strict=True)
        header = next(reader, [])
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(header):
                raise UserError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells, but the header has {len(header)}.",
                    "Put cells that contain the separator, quotes or line breaks in double quotes.",
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: broken CSV ({error}).", "Mend that line.") from error
    finally:
        csv.field_size_limit(former)


def _csv(handle: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return _separated(handle, name, ",")


def _tsv(handle: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return _separated(handle, name, "\t")


def _parquet(handle: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(handle.read()))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a whole parquet file: {error}.", "Write or download it again.") from error
    yield from ((number, row.values) for number, row in enumerate(table_rows(Dataset(table), name), 1))


def _decoded(content: bytes, name: str, line: int) -> str:
    """Return UTF-8 text without its byte order mark; `line` is the line at which `content` begins."""
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        broken = line + content[: error.start].count(b"\n")
        raise UserError(f"{name}, line {broken}: not UTF-8 text.", "Save the file as UTF-8.") from error


def _parsed(content: bytes, name: str, line: int) -> Any:
    text = _decoded(content, name, line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        broken = line + error.lineno - 1
        near = text.split("\n")[error.lineno - 1].strip()
        raise UserError(
            f"{name}, line {broken}: broken JSON: {error.msg} at column {error.colno} of {near[:60]!r}.",
            f"Mend or delete line {broken}.",
        ) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: holds {json.dumps(value)[:40]}, not an object with named columns.",
            'Write rows such as {"prompt": "...", "chosen": "...", "rejected": "..."}.',
        )
    return value


READERS = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".tsv": _tsv,
}
"""Every file type by its suffix, to a reader of (row number, columns)."""
