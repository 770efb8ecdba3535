"""Limits on the size of a row: a text of millions of characters is no response, and takes minutes to tokenise."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenq.data.turns import BadRow
from tokenq.errors import UserError

Columns = dict[str, Any]
NumberedRows = Iterator[tuple[int, Columns | BadRow]]
"""The rows of a file: (its number, its columns by name or why it has none)."""

LONGEST_ROW = 2**23
"""Maximum number of bytes (or characters, where a file is not text) of one row."""

MOST_COLUMNS = 1000
"""Maximum number of columns of one row."""


def too_long(size: int) -> BadRow:
    """Return the error for a row with too many bytes."""
    return BadRow("a row that is too long", f"the row has {size:,} bytes, and at most {LONGEST_ROW:,} are read")


def within_bounds(columns: Columns) -> Columns | BadRow:
    """Return a row, or the error if it is too large."""
    if len(columns) > MOST_COLUMNS:
        many = f"the row has {len(columns):,} columns, and at most {MOST_COLUMNS:,} are read"
        return BadRow("a row with too many columns", many)
    size = size_of(columns)
    return columns if size <= LONGEST_ROW else too_long(size)


def size_of(value: Any) -> int:
    """Return the number of characters of all texts in a value, keys aside; a number counts as one."""
    size, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str | bytes):
            size += len(one)
        elif isinstance(one, Mapping):
            rest.extend(one.values())
        elif isinstance(one, Sequence):
            rest.extend(one)
        else:
            size += 1
    return size


def refuse_columns(columns: Sequence[str], name: str, place: str) -> None:
    """Refuse a table with repeated or too many columns.

    Args:
        columns: their names; blank ones are not looked at.
        name: of the file.
        place: where the names stand, such as "in the header".

    Raises:
        UserError: says which.
    """
    if len(columns) > MOST_COLUMNS:
        raise UserError(
            f"{name} has {len(columns):,} columns, and at most {MOST_COLUMNS:,} are read.",
            "Keep those that are needed.",
        )
    seen: set[str] = set()
    for column in filter(None, columns):
        if column in seen:
            raise UserError(f"{name}: the column {column!r} stands twice {place}.", "Rename or delete one of them.")
        seen.add(column)
