"""Files of traces: tables (`.parquet`), lines of JSON (any other ending), and the frames of a job that is under way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tokenq.errors import UserError
from tokenq.files import write_lines, written_aside
from tokenq.records.schema import json_lines, whole
from tokenq.records.trace_columns import ALTERNATIVES, TABLE_SCHEMA, TEXTS, batch_of, schema, traces_of
from tokenq.records.trace_lines import lines_of
from tokenq.records.traces import TokenTrace

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 64
"""Responses that are read, or written, together."""

_AGAIN = "Score the data again."


def write_traces(
    path: Path, batches: "Iterable[pa.RecordBatch]", ready: Callable[[Path], None] = lambda _: None
) -> None:
    """Write rows of traces (`batch_of`) to a `.parquet` file, or as lines of JSON; see `written_aside`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        write_lines(path, (line for batch in batches for line in lines_of(batch)), ready)
        return
    options = {"use_dictionary": TEXTS, "write_statistics": False}
    with written_aside(path, ready) as aside, pq.ParquetWriter(aside, schema(), **options) as writer:
        for part in _together(batches):
            writer.write_table(pa.Table.from_batches(part, schema()))


def _together(batches: "Iterable[pa.RecordBatch]") -> "Iterator[list[pa.RecordBatch]]":
    part: list[pa.RecordBatch] = []
    for batch in batches:
        part.append(batch)
        if sum(one.num_rows for one in part) >= ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def read_traces(path: Path, *, alternatives: bool = True) -> Iterator[TokenTrace]:
    """Yield the traces of a `.jsonl` or `.parquet` file, one after the other: none is kept here.

    Args:
        path: the file.
        alternatives: whether to read what could have stood at each token, which is most of a trace.

    Raises:
        UserError: there is no such file, or a line of it is no trace or of a newer schema.
    """
    if not path.is_file():
        raise UserError(f"No file {path}.", "Traces are written by tokenq score --output.")
    if path.suffix == ".parquet":
        yield from whole(path, _rows(path, alternatives))
        return
    lines = json_lines(path, _AGAIN)
    yield from whole(path, (TokenTrace.from_dict(one, where, alternatives=alternatives) for where, one in lines))


def _rows(path: Path, alternatives: bool) -> Iterator[TokenTrace]:
    """Yield the traces of a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [name for name in schema().names if alternatives or name not in ALTERNATIVES]
    try:
        file = pq.ParquetFile(path)
        _check_table(path, file)
        first = 1
        for part in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
            rows = _cast(part, path, first)
            yield from traces_of(rows, partial(_row, path, first), alternatives=alternatives)
            first += part.num_rows
    except (pa.ArrowException, OSError, ValueError) as problem:
        said = (str(problem).strip() or "broken").splitlines()[0]
        raise UserError(f"{path} cannot be read: {said}", _AGAIN) from problem


def _row(path: Path, first: int, place: int) -> str:
    return f"{path}, row {first + place}"


def _check_table(path: Path, file: "pa.parquet.ParquetFile") -> None:
    """Refuse a table of another version, and one that lacks a column.

    Raises:
        UserError: says which.
    """
    names = set(file.schema_arrow.names)
    versions: set[object] = set()
    if "schema" in names:
        versions.update(file.read(columns=["schema"]).column("schema").unique().to_pylist())
    newer = [one for one in versions if type(one) is int and one > TABLE_SCHEMA]
    if newer:
        raise UserError(
            f"{path} has schema {newer[0]}, and this version of tokenq reads tables of schema {TABLE_SCHEMA}.",
            "Update tokenq.",
        )
    if "tokens" in names or any(type(one) is int and one < TABLE_SCHEMA for one in versions):
        raise UserError(
            f"{path} holds tokens as objects, as tables did until schema {TABLE_SCHEMA - 1}; this version of tokenq "
            f"reads tables of schema {TABLE_SCHEMA}.",
            _AGAIN,
        )
    missing = [name for name in schema().names if name not in names]
    if missing:
        raise UserError(f"{path} is no table of traces: it has no column {missing[0]!r}.", _AGAIN)


def _cast(part: "pa.RecordBatch", path: Path, begin: int) -> "pa.RecordBatch":
    """Return rows in the types that they are written in.

    Raises:
        UserError: a column is of another kind.
    """
    import pyarrow as pa

    types = pa.schema([schema().field(name) for name in part.schema.names])
    if part.schema.equals(types):
        return part
    try:
        return part.cast(types)
    except (pa.ArrowException, ValueError) as problem:
        said = str(problem).splitlines()[0]
        raise UserError(f"{path}, from row {begin} on: these are no traces: {said}", _AGAIN) from problem


def frame_of(traces: Sequence[TokenTrace]) -> bytes:
    """Return traces as bytes that stand for themselves."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema()) as writer:
        writer.write_batch(batch_of(traces))
    return bytes(sink.getvalue())


def traces_of_frame(frame: bytes) -> Iterator[TokenTrace]:
    """Yield the traces that bytes stand for."""
    return traces_of(rows_of_frame(frame), lambda place: f"row {place + 1} of a frame", alternatives=True)


def rows_of_frame(frame: bytes) -> "pa.RecordBatch":
    """Return the rows that bytes stand for."""
    import pyarrow as pa

    with pa.ipc.open_stream(frame) as reader:
        return reader.read_next_batch()
