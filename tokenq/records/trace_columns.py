"""Traces in files by columns: their rows, in which tokens stand by columns too.

An object for every token, and one for each of its alternatives, takes far longer than the numbers that it holds.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from tokenq.errors import UserError

LISTS = ("likely", "ref_likely", "favoured")
"""Fields of a token that are lists of alternatives."""

ROWS_AT_ONCE = 64
"""Traces that are unpacked together."""


def rows_of(path: Path, most: int | None) -> Iterator[tuple[str, Any]]:
    """Yield (file and row, trace) of a `.parquet` file.

    Tokens are given by columns, {field: values}; each list of alternatives as ({field: values}, how many each token
    has). A file whose columns are of another kind is given as it is.

    Args:
        path: the file.
        most: alternatives to keep of each list, the first ones; None keeps all.

    Raises:
        UserError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parts = pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE)
        rows = enumerate((record for part in parts for record in _records(part, most)), 1)
        yield from ((f"{path}, row {number}", record) for number, record in rows)
    except (pa.ArrowException, OSError, ValueError) as problem:
        said = (str(problem).strip() or "broken").splitlines()[0]
        raise UserError(f"{path} cannot be read: {said}", "Score the data again.") from problem


def _records(part: Any, most: int | None) -> Iterator[dict[str, Any]]:
    """Yield some rows of a file."""
    import pyarrow.compute as pc

    tokens = part.column("tokens") if "tokens" in part.schema.names else None
    if tokens is None or not _of_traces(tokens):
        yield from part.to_pylist()
        return
    columns = _fields(tokens)
    lists = {name: columns.pop(name) for name in LISTS}
    if most is not None:
        lists = {name: pc.list_slice(column, 0, most) for name, column in lists.items()}
    plain = {name: column.to_pylist() for name, column in columns.items()}
    nested = {
        name: {field: values.to_pylist() for field, values in _fields(column).items()} for name, column in lists.items()
    }
    sizes = {name: pc.list_value_length(column).to_pylist() for name, column in lists.items()}
    bounds = pairwise(accumulate(pc.list_value_length(tokens).to_pylist(), initial=0))
    begun = dict.fromkeys(LISTS, 0)
    for record, (begin, end) in zip(part.drop_columns(["tokens"]).to_pylist(), bounds, strict=True):
        given: dict[str, Any] = {name: column[begin:end] for name, column in plain.items()}
        for name, fields in nested.items():
            own, first = sizes[name][begin:end], begun[name]
            begun[name] += sum(own)
            given[name] = {field: values[first : begun[name]] for field, values in fields.items()}, own
        yield record | {"tokens": given}


def _of_traces(tokens: Any) -> bool:
    """Return whether a column holds lists of objects with lists of objects, all of them there."""
    import pyarrow as pa

    def of_objects(column: Any) -> bool:
        return pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type) and not column.null_count

    if not of_objects(tokens) or tokens.flatten().null_count:
        return False
    columns = _fields(tokens)
    return all(
        name in columns and of_objects(columns[name]) and not columns[name].flatten().null_count for name in LISTS
    )


def _fields(column: Any) -> dict[str, Any]:
    """Return the fields of all objects in a column of lists, each as one column."""
    flat = column.flatten()
    return dict(zip((field.name for field in flat.type), flat.flatten(), strict=True))
