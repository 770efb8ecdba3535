"""What records on disk have in common: a schema version, fields of known types, lines of JSON.

What is read here was written by some version of tokenq, or by a stranger: it is checked, and errors say where it is.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from tokenq.errors import UserError
from tokenq.records import SCHEMA

T = TypeVar("T")
_JSON: dict[Any, set[type]] = {kind: {kind} for kind in (int, str, bool, type(None))} | {float: {int, float}}


def check_schema(record: Any, where: str, what: str, made_by: str) -> None:
    """Refuse what is no record, or one of a newer version.

    Args:
        record: a JSON value.
        where: file and line, for the error.
        what: "trace" or "search result", for the error.
        made_by: the command that writes such records, for the error.

    Raises:
        UserError: says which.
    """
    version = record.get("schema") if isinstance(record, Mapping) else None
    if type(version) is not int:
        raise UserError(f"{where} is no {what}: it has no schema version.", f"A {what} is written by {made_by}.")
    if version > SCHEMA:
        raise UserError(
            f"{where} has schema {version}, and this version of tokenq reads up to {SCHEMA}.", "Update tokenq."
        )


def built(kind: Callable[..., T], record: Any, **nested: Any) -> T:
    """Return a record of a JSON object, whose nested records are built already.

    Raises:
        TypeError: a field is missing, unknown, or of another type.
    """
    for name, types in _types(kind).items():
        if type(record[name]) not in types:
            raise TypeError(f"{name!r} is {record[name]!r}")
    return kind(**{**record, **nested})


@cache
def _types(kind: Callable[..., Any]) -> dict[str, set[type]]:
    """Return which types of JSON the plain fields of a record may have."""
    options = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(kind).items()}
    return {
        name: set().union(*map(_JSON.__getitem__, kinds)) for name, kinds in options.items() if {*kinds} <= {*_JSON}
    }


def json_lines(path: Path, mend: str) -> Iterator[tuple[str, Any]]:
    """Yield (file and line, value) of every line of a file.

    Args:
        path: the file.
        mend: what to do about a line that is not JSON, for the error.

    Raises:
        UserError: a line is not JSON.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except ValueError as problem:
                raise UserError(f"{path}, line {number}: not valid JSON.", mend) from problem
            yield f"{path}, line {number}", value
