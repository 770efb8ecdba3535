"""Cells of a row as the formats want them: text, turns, lists, numbers and labels, or a `BadRow` that says what else.

Nothing is converted that could mean something else: a whole number may stand for its digits, a list in a cell of text
must be JSON, and a record of lists is the list of records that Arrow made it from.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenq.data import turns as talk
from tokenq.data.turns import BadRow
from tokenq.records import Message, Text

Values = Mapping[str, Any]


def first(values: Values, *names: str) -> Any:
    """Return the first column of `names` that the row has."""
    return next((values[name] for name in names if name in values), None)


def text(values: Values, *names: str) -> str:
    """Return the first column of `names` that the row has, as text."""
    value = first(values, *names)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        held = "is empty" if value is None else f"holds {type(value).__name__}, not text"
        raise BadRow("a column without text", f"column {next((n for n in names if n in values), names[0])!r} {held}")
    return value


def listed(value: Any) -> Any:
    """Return a column of lists, as Arrow may store a list of records, as the list of records that it stands for."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(cells, list) for cells in value.values()):
        return value
    if len({len(cells) for cells in value.values()}) > 1:
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def content(values: Values, name: str) -> Text:
    """Return a column that holds text, one turn or a list of turns."""
    value = listed(values.get(name))
    if talk.is_turn(value):
        return (talk.as_turn(value),)
    return talk.as_turns(value) if talk.is_turns(value) else text(values, name)


def number(value: Any) -> float | None:
    """Return a rating as a number, None where there is none."""
    try:
        rating = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(rating) else rating


def reward(value: Any) -> float:
    """Return a reward, a finite number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("no reward", "column 'reward' is empty")
    found = number(value)
    if found is None or math.isinf(found):
        raise BadRow("a reward that is no number", f"reward {value!r} is no finite number")
    return found


_MISSING = ("", "n/a", "nan", "none", "null")


def ratings(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratings by attribute; of missing ones there is none."""
    given = {str(name): value for name, value in found.items() if value is not None}
    given = {name: value for name, value in given.items() if str(value).strip().lower() not in _MISSING}
    numbers: dict[str, float] = {}
    for name, value in given.items():
        rating = None if isinstance(value, bool) else number(value)
        if rating is None:
            raise BadRow("a rating that is no number", f"the rating {name!r} is {value!r}, not a number")
        numbers[name] = rating
    return numbers


_LABELS = {"true": True, "1": True, "1.0": True, "+": True, "false": False, "0": False, "0.0": False, "-": False}


def label(value: Any) -> bool:
    """Return whether a label says desirable: true, 1 or "+", against false, 0 or "-"."""
    desirable = _LABELS.get(str(value).strip().lower())
    if desirable is None:
        raise BadRow("a label that is neither true nor false", f"label {value!r} is neither true nor false")
    return desirable


def items(values: Values, name: str) -> list[Any]:
    """Return a column that holds a list."""
    value = listed(values.get(name))
    if isinstance(value, str):  # lists in CSV cells
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow("a column without a list", f"column {name!r} holds no list")
    return list(value)


def record(values: Values, name: str) -> Mapping[str, Any]:
    """Return a column that holds a record, or its JSON."""
    value = values.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if not isinstance(value, Mapping):
        raise BadRow("a column without a record", f"column {name!r} holds no record")
    return value


def turns(values: Values, name: str) -> tuple[Message, ...]:
    """Return a column that holds a list of turns."""
    value = items(values, name)
    if not talk.is_turns(value):
        raise BadRow("a column without turns", f"column {name!r} holds no list of turns with role and content")
    return talk.as_turns(value)


def records(values: Values, name: str, text: str) -> list[Values]:
    """Return a column that holds a list of records, each with some text under the key `text`."""
    found = items(values, name)
    for record in found:
        if not isinstance(record, Mapping) or not isinstance(record.get(text), str):
            raise BadRow("a column without text", f"column {name!r} holds an item without text under {text!r}")
    return found
