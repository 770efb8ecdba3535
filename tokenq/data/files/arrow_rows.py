"""Read Parquet, Arrow and Feather files as rows of plain Python: maps become records, categories text."""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokenq.data.files.row_bounds import NumberedRows, refuse_columns
from tokenq.errors import UserError

if TYPE_CHECKING:
    import pyarrow

_BATCH = 1000


def read_parquet(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (row number, columns) of a parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(_content(handle))
        refuse_columns(file.schema_arrow.names, name, "in the file")
        yield from _rows(file.iter_batches(_BATCH), name)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a whole parquet file: {error}.", "Write or download it again.") from error


def read_arrow(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (row number, columns) of an Arrow file, an Arrow stream or a Feather file."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.ipc

    content = _content(handle)
    begin = content.read(6)
    content.seek(0)
    try:
        if begin.startswith(b"FEA1"):
            table = pyarrow.feather.read_table(content)
            refuse_columns(table.column_names, name, "in the file")
            yield from _rows(table.to_batches(_BATCH), name)
        elif begin == b"ARROW1":
            file = pyarrow.ipc.open_file(content)
            refuse_columns(file.schema.names, name, "in the file")
            yield from _rows((file.get_batch(index) for index in range(file.num_record_batches)), name)
        else:
            stream = pyarrow.ipc.open_stream(content)
            refuse_columns(stream.schema.names, name, "in the file")
            yield from _rows(stream, name)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a whole Arrow file: {error}.", "Write or download it again.") from error


def _content(handle: io.BufferedIOBase) -> Any:
    """Return a file that is read where it is asked for; one that can only be read through is held whole."""
    import pyarrow

    return pyarrow.PythonFile(handle, "r") if handle.seekable() else pyarrow.BufferReader(handle.read())


def _rows(batches: "Iterator[pyarrow.RecordBatch] | Sequence[pyarrow.RecordBatch] | Any", name: str) -> NumberedRows:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            try:
                rows = batch.slice(start, _BATCH).to_pylist(maps_as_pydicts="strict")
            except (KeyError, ValueError) as error:
                raise UserError(f"{name}, rows from {number + 1} on: {error}.", "Write the file again.") from error
            for row in rows:
                number += 1
                yield number, row
