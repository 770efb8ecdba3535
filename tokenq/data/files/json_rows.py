"""Read JSON as rows: an object per line, an array of objects, and tables as pandas and others write them.

What one line does wrong (broken, too long, nested too deep, a number of thousands of digits) is the fault of that row;
a whole document that is broken is an error.
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenq.data.chat.messages import is_turns
from tokenq.data.files.row_bounds import LONGEST_ROW, Columns, NumberedRows, too_long
from tokenq.data.turns import BadRow
from tokenq.errors import UserError

_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n" + _MARK
_CHUNK = 2**20

Line = tuple[int, bytes]


def read_json_lines(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (line number, columns) of a file with an object per line.

    One that holds an array, or an object over several lines, is read as `read_json` reads it.
    """
    first = next(_lines(handle), None)
    if first is None:
        return
    if _bare(first[1]).startswith(b"[") or _bare(first[1]) == b"{":
        yield from _document(first[1] + handle.read(), name, first[0])
    else:
        yield from _objects([first], handle, name)


def read_json(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (row number, columns) of a `.json` file: a whole document, or an object per line."""
    lines = _lines(handle)
    first = next(lines, None)
    if first is None:
        return
    number, begin = first
    if not _bare(begin).startswith(b"{") or not begin.endswith(b"\n"):
        yield from _document(begin + handle.read(), name, number)
        return
    second = next(lines, None)
    # A broken first line is still a line when it closes its brace: a pretty-printed object opens it and goes on.
    if second is not None and (_bare(begin).endswith(b"}") or _bare(second[1]).startswith(b"{")):
        yield from _objects([first, second], handle, name)
    else:
        between = b"" if second is None else b"\n" * (second[0] - number - 1) + second[1]
        yield from _document(begin + between + handle.read(), name, number)


def _bare(line: bytes) -> bytes:
    return line.strip(_BLANK)


def _lines(handle: io.BufferedIOBase, number: int = 0) -> Iterator[Line]:
    """Yield the lines that are not blank, with their numbers, each cut where it is longer than a row may be."""
    while line := handle.readline(LONGEST_ROW + 1):
        number += 1
        if _bare(line):
            yield number, line


def _objects(begun: list[Line], handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield the rows of lines, of which the first were read already."""
    for number, line in begun:
        yield number, _row_of(line, handle)
    for number, line in _lines(handle, begun[-1][0]):
        yield number, _row_of(line, handle)


def _row_of(line: bytes, handle: io.BufferedIOBase) -> Columns | BadRow:
    if len(line) > LONGEST_ROW:
        size = len(line)
        while not line.endswith(b"\n") and (line := handle.readline(_CHUNK)):
            size += len(line)
        return too_long(size)
    try:
        return _object(_parsed(line.removeprefix(_MARK).rstrip()))
    except BadRow as error:
        return error


def _parsed(content: bytes) -> Any:
    try:
        return _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8 text", f"not UTF-8 text: {OTHER_ENCODING}") from error
    except json.JSONDecodeError as error:
        near = error.doc.split("\n")[error.lineno - 1].strip()[:60]
        raise BadRow("broken JSON", f"broken JSON: {error.msg} at column {error.colno} of {near!r}") from error
    except (RecursionError, ValueError) as error:
        raise _unheld(error) from error


OTHER_ENCODING = "convert the file, as with iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
"""What to do about text in another encoding."""


def _unheld(error: Exception) -> BadRow:
    """Return the error for JSON that Python cannot hold: nested too deep, or integers of thousands of digits."""
    what = "it is nested too deep" if isinstance(error, RecursionError) else "a number has thousands of digits"
    return BadRow("JSON that cannot be held", f"the JSON cannot be held: {what}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; refuse one with a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow("a column that stands twice", f"the name {twice!r} stands twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def _document(content: bytes, name: str, line: int) -> NumberedRows:
    """Yield the rows of a whole document that begins at `line`; values one after the other are read one by one."""
    text = _decoded(content, name, line)
    values, place = [], 0
    try:
        while place < len(text):
            value, place = _DECODER.raw_decode(text, place)
            values.append(value)
            place += len(text[place:]) - len(text[place:].lstrip())
    except json.JSONDecodeError as error:
        broken = line + error.lineno - 1
        near = text.split("\n")[error.lineno - 1].strip()[:60]
        raise UserError(
            f"{name}, line {broken}: broken JSON: {error.msg} at column {error.colno} of {near!r}.",
            f"Mend or delete line {broken}.",
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name}: {_unheld(error).detail}.", "Mend the file, or write one object per line.") from error
    except BadRow as error:
        raise UserError(f"{name}: {error.detail} in one object.", "Rename one of the two.") from error
    tables = [_table(value, name) for value in values]
    for number, row in enumerate((row for table in tables for row in table), 1):
        try:
            yield number, _object(row)
        except BadRow as error:
            yield number, error


def _decoded(content: bytes, name: str, line: int) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        broken = line + content[: error.start].count(b"\n")
        raise UserError(f"{name}, line {broken}: not UTF-8 text.", f"{OTHER_ENCODING.capitalize()}.") from error


def _table(value: Any, name: str) -> list[Any]:
    """Return the rows of one document, in any of the usual layouts of a table."""
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{name} holds no table.", "Write an array of objects, or one object per line.")
    return next((rows for form in TABLES if (rows := form(value, name)) is not None), [value])


def _from_wrapper(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the array of objects under the only key, or under one that says "data"."""
    tables = {key: rows for key, rows in value.items() if _is_list_of(rows, Mapping) and not is_turns(rows)}
    others = [key for key in value if key not in tables]
    if len(tables) > 1 and not others and len(set(map(len, tables.values()))) > 1:
        raise UserError(f"{name} holds several tables: {', '.join(tables)}.", "Write each to a file of its own.")
    named = [key for key in tables if key in _WRAPPERS or not others]
    return tables[named[0]] if len(named) == 1 and not any(isinstance(value[key], list) for key in others) else None


_WRAPPERS = ("data", "examples", "instances", "items", "records", "request_states", "rows", "samples", "train")


def _from_split(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the rows of pandas' orient="split": names of columns, and rows as lists."""
    if not {"columns", "data"} <= set(value) <= {"columns", "data", "index"} or not _is_list_of(value["data"], list):
        return None
    columns = value["columns"]
    if any(len(row) != len(columns) for row in value["data"]):
        raise UserError(f"{name}: a row has not the {len(columns)} cells of the columns.", "Write the file again.")
    return [dict(zip(columns, row, strict=True)) for row in value["data"]]


def _from_lists(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the rows of a list for each column; lists of turns alone are the cells of one row."""
    lists = list(value.values())
    if not lists or not all(isinstance(cells, list) for cells in lists) or len(set(map(len, lists))) > 1:
        return None
    if not lists[0] or all(is_turns(cells) for cells in lists):
        return None
    return [dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True)]


def _from_records(value: Mapping[str, Any], name: str) -> list[Any] | None:
    """Return the rows of pandas' orient="columns" (its default) or orient="index": numbered cells, or numbered rows."""
    inner = list(value.values())
    if not inner or not all(isinstance(cells, Mapping) and cells for cells in inner):
        return None
    if all(key.isdecimal() for key in value):
        return inner
    if not all(key.isdecimal() for cells in inner for key in cells):
        return None
    numbers = dict.fromkeys(key for cells in inner for key in cells)
    return [{column: cells.get(key) for column, cells in value.items()} for key in numbers]


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


TABLES = (_from_split, _from_wrapper, _from_lists, _from_records)
"""How one object may hold a table: each to its rows, None where it is none of that kind."""


def _object(value: Any) -> Columns:
    if not isinstance(value, dict):
        raise BadRow(
            "a row without names of columns", f"holds {json.dumps(value)[:40]}, not an object with named columns"
        )
    return value
