"""What records on disk have in common: a schema version, fields of known types, lines of JSON.

What is read here was written by some version of tokenq, or by a stranger: it is checked, and errors say where it is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tokenq.errors import UserError

SCHEMA = 3
"""Version of every JSON artefact that tokenq writes; see docs/artefacts.md for its history."""

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
            raise TypeError(f"{name!r} is {repr(record[name])[:80]}")
    values = {**record, **nested}
    for name, types in _columns(kind).items():
        wrong = next((item for item in values[name] or () if type(item) not in types), None)
        if wrong is not None or type(values[name]) not in (tuple, type(None)):
            raise TypeError(f"{name!r} holds {repr(wrong)[:80]}")
    return kind(**values)


def built_many(kind: Callable[..., T], records: Sequence[Mapping[str, Any]]) -> list[T]:
    """Return records of JSON objects as `built` does, column by column: at a fraction of its time.

    Raises:
        TypeError: a field is missing, unknown, or of another type.
        KeyError: a field is missing.
    """
    return [kind(*values) for values in zip(*columns_of(kind, records).values(), strict=True)]


def columns_of(
    kind: Callable[..., Any], records: Sequence[Mapping[str, Any]], nested: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Return the fields of JSON objects column by column.

    Args:
        kind: a dataclass, whose fields they have.
        records: the objects.
        nested: fields that hold other records, which are not looked at.

    Raises:
        TypeError: a field is unknown, or of another type.
        KeyError: a field is missing.
    """
    names, types, items = _names(kind), _types(kind), _columns(kind)
    odd = next((record for record in records if len(record) != len(names)), None)
    if odd is not None:
        kind(**odd)  # which says what is wrong
    columns = {name: [record[name] for record in records] for name in names}
    for name, values in columns.items():
        if name in types and not types[name].issuperset(map(type, values)):
            wrong = next(value for value in values if type(value) not in types[name])
            raise TypeError(f"{name!r} is {repr(wrong)[:80]}")
        for value in values if name in items and name not in nested else ():
            if value and not items[name].issuperset(map(type, value)):
                raise TypeError(f"{name!r} holds {repr(value)[:80]}")
    return columns


@cache
def _names(kind: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(get_type_hints(kind))


@cache
def _types(kind: Callable[..., Any]) -> dict[str, set[type]]:
    """Return which types of JSON the plain fields of a record may have."""
    options = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(kind).items()}
    return {
        name: set().union(*map(_JSON.__getitem__, kinds)) for name, kinds in options.items() if {*kinds} <= {*_JSON}
    }


@cache
def _columns(kind: Callable[..., Any]) -> dict[str, set[type]]:
    """Return which types the items of a record's columns may have."""
    options = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(kind).items()}
    columns = {
        name: [hint, *kinds] for (name, kinds), hint in zip(options.items(), get_type_hints(kind).values(), strict=True)
    }
    found = {}
    for name, hints in columns.items():
        items = [get_args(hint)[0] for hint in hints if get_origin(hint) is tuple and get_args(hint)[1:] == (...,)]
        if items and items[0] in _JSON:
            found[name] = _JSON[items[0]]
    return found


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value of JSON or YAML has a type: a hint of plain types, unions, lists and mappings."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in args)
    if hint is float:
        return type(value) in (int, float)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(key, args[0]) and fits(item, args[1]) for key, item in value.items()
        )
    return hint is Any or type(value) is hint


def refuse_no_objects(folder: Path, names: Sequence[str]) -> None:
    """Refuse JSON of a folder that is no object, by its first character: libraries take for granted that it is one.

    Raises:
        UserError: names the file.
    """
    for path in (folder / name for name in names):
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            if begins and begins != b"{":
                raise UserError(f"{path} is no JSON object.", "Restore the file, or write the folder again.")


def json_lines(path: Path, mend: str) -> Iterator[tuple[str, Any]]:
    """Yield (file and line, value) of every line of a file.

    Args:
        path: the file.
        mend: what to do about a line that is not JSON, for the error.

    Raises:
        UserError: a line is not JSON.
    """
    number = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield f"{path}, line {number}", json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}, line {number}: not valid JSON.", mend) from problem
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}.", "Check what lies there.") from problem


def whole(path: Path, records: Iterable[T]) -> Iterator[T]:
    """Yield records; complain at their end where the provenance beside them names more.

    Args:
        path: the file that they are read from.
        records: of it, in order.

    Raises:
        UserError: the file was cut.
    """
    count = 0
    for count, one in enumerate(records, 1):  # noqa: B007 (read after the loop)
        yield one
    try:
        record = json.loads(path.with_name(f"{path.name}.provenance.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    named = record.get("records") if isinstance(record, dict) else None
    if type(named) is int and count != named:
        raise UserError(
            f"{path} holds {count} of the {named} records that {path.name}.provenance.json names.",
            "Make it again, or delete that file if you changed the records on purpose.",
        )
