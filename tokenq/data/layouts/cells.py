"""Convert cells of a row to text, turns, lists, numbers and labels, or raise `BadRow`.

There is one conversion for numbers and one for text and turns, and every column goes through them. Nothing is
converted that could mean something else: a whole number may stand for its digits, a list in a cell of text must be
JSON or what Python writes, and a record of lists is the list of records that Arrow made it from.
"""

import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.data.chat.messages import as_turn, as_turns, is_turn, is_turns
from tokenq.data.layouts.nested import looks_like_turn, looks_like_turns, unpacked
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Text

Values = Mapping[str, Any]


def first(values: Values, *names: str) -> Any:
    """Return the first column of `names` that the row has."""
    return next((values[name] for name in names if name in values), None)


def text(values: Values, *names: str) -> str:
    """Return the first column of `names` that the row has, as text."""
    value, name = first(values, *names), next((n for n in names if n in values), names[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(value, name)
    if value is None or _is_nan(value):
        raise BadRow("a column without text", f"column {name!r} is empty")
    if value in _NO_TEXT:
        raise BadRow("a column without text", f"column {name!r} holds {value!r}, which pandas writes for no text")
    if not isinstance(value, str):
        raise BadRow("a column without text", f"column {name!r} holds {type(value).__name__}, not text")
    if looks_like_turns(value):
        raise BadRow("turns where text is expected", f"column {name!r} holds turns, and text is expected there")
    return value


_NO_TEXT = ("NaN", "nan", "<NA>")
"""What pandas writes into a cell of text where there was none; no answer to anything is spelt like that."""


def _digits(value: int, name: str) -> str:
    try:
        return str(value)
    except ValueError:  # Python converts no more than some thousands of digits
        raise BadRow("a column without text", f"column {name!r} holds {shown(value)}, not text") from None


def listed(value: Any) -> Any:
    """Return a record of lists, as Arrow may store a list of records, as that list of records."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(cells, list) for cells in value.values()):
        return value
    if len({len(cells) for cells in value.values()}) > 1:
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def content(values: Values, *names: str) -> Text:
    """Return the first column of `names` that the row has: text, one turn or a list of turns, also as JSON."""
    name = next((name for name in names if name in values), names[0])
    value = values.get(name)
    if looks_like_turns(value):
        value = unpacked(value, name)
    elif isinstance(value, str) and looks_like_turn(value):
        value = _turn(value, name)
    value = listed(value)
    if is_turn(value):
        return (as_turn(value),)
    return as_turns(value) if is_turns(value) else text(values, name)


def _turn(value: str, name: str) -> Any:
    """Return the turn that a cell of text holds, else the text: an answer may be a record with a key "role"."""
    try:
        found = unpacked(value, name)
        as_turn(found)
    except (BadRow, KeyError, TypeError):
        return value
    return found


MISSING = ("", "#n/a", "-nan", "<na>", "n/a", "na", "nan", "nat", "none", "null")
"""What stands in a cell of text for a number that is not there, as pandas, spreadsheets and JSON write it."""


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: None, NaN, or a word for that."""
    return value is None or _is_nan(value) or (isinstance(value, str) and value.strip().lower() in MISSING)


def _is_nan(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and math.isnan(value)


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def number(value: Any, name: str = "number") -> float | None:
    """Return a number, None if the cell is empty: the one conversion for scores, ratings, rewards and margins.

    Args:
        value: a number, or its text ("4", "-0.5", "1e-3", "−1").
        name: what it is, for the message.

    Raises:
        BadRow: it is anything else: a word, a truth value, something infinite or beyond what a float holds.
    """
    if is_missing(value):
        return None
    found = math.inf
    if isinstance(value, str):
        digits = value.strip().replace("\N{MINUS SIGN}", "-")
        found = float(digits) if _NUMBER.fullmatch(digits) else math.inf
    elif isinstance(value, numbers.Number) and not isinstance(value, bool | complex):
        try:
            found = float(value)  # type: ignore[arg-type]  # a Decimal is a Number, and no Real
        except (OverflowError, TypeError, ValueError):
            found = math.inf
    if math.isfinite(found):
        return found
    raise BadRow(f"a {name} that is no number", f"{name} {shown(value)} is no finite number")


def whole(value: Any, name: str = "number") -> int | None:
    """Return a whole number, None if the cell is empty: 2, 2.0, "2" and "2.0" are the same.

    Raises:
        BadRow: it is no whole number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = number(value, name)
    if found is None:
        return None
    if not found.is_integer():
        raise BadRow(f"a {name} that is no whole number", f"{name} {shown(value)} is no whole number")
    return int(found)


def shown(value: Any) -> str:
    """Return a value shortened to one line for a message."""
    try:
        said = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a whole number of thousands of digits"
    return said if len(said) <= 60 else f"{said[:40]}… ({len(said)} characters)"


def reward(value: Any, name: str = "reward") -> float:
    """Return a reward, a finite number; true and false count as 1 and 0."""
    found = float(value) if isinstance(value, bool) else number(value, name)
    if found is None:
        raise BadRow(f"no {name}", f"column {name!r} is empty")
    return found


def ratings(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratings by attribute, without missing ones."""
    rated: dict[str, float] = {}
    for name, value in found.items():
        try:
            rating = number(value, "rating")
        except BadRow as problem:
            raise BadRow(problem.reason, f"the rating {name!r} is {shown(value)}, not a number") from None
        if rating is not None:
            rated[str(name)] = rating
    return rated


_YES = "true t yes y good + positive correct right desirable chosen accepted like liked thumbs_up up pass 👍 ✓ ✔"
_NO = "false f no n bad - negative incorrect wrong undesirable rejected dislike disliked thumbs_down down fail 👎 ✗"
_WORDS = {word: True for word in _YES.split()} | {word: False for word in _NO.split()}


def label(value: Any, name: str = "label") -> bool:
    """Return whether a label says desirable: the one conversion for labels of responses and of steps.

    True, 1, "1.0", "+", "yes" and "good" are; false, 0, −1, "-", "no" and "bad" are not, and their like.

    Raises:
        BadRow: it is missing, or says neither (0.7 is a rating, and 2 a class).
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if is_missing(value):
        raise BadRow(f"no {name}", f"column {name!r} is empty")
    if isinstance(value, str) and (word := value.strip().lower().replace("\N{MINUS SIGN}", "-")) in _WORDS:
        return _WORDS[word]
    try:
        found = number(value, name)
    except BadRow:
        found = None
    if found not in (1.0, 0.0, -1.0):
        raise BadRow(f"a {name} that is neither true nor false", f"{name} {shown(value)} is neither true nor false")
    return found == 1.0


def items(values: Values, *names: str) -> list[Any]:
    """Return the first column of `names` that the row has, which holds a list, also as JSON."""
    name = next((name for name in names if name in values), names[0])
    value = listed(unpacked(values.get(name), name))
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadRow("a column without a list", f"column {name!r} holds no list")
    return list(value)


def texts(values: Values, *names: str) -> list[str]:
    """Return the first column of `names` that the row has, which holds a list of texts, also as JSON."""
    name = next((name for name in names if name in values), names[0])
    return [text({f"{name}[{place}]": item}, f"{name}[{place}]") for place, item in enumerate(items(values, name))]


def record(values: Values, name: str) -> Mapping[str, Any]:
    """Return a column that holds a record, or its JSON."""
    value = unpacked(values.get(name), name)
    if not isinstance(value, Mapping):
        raise BadRow("a column without a record", f"column {name!r} holds no record")
    return value


def turns(values: Values, name: str) -> tuple[Message, ...]:
    """Return a column that holds a list of turns."""
    value = items(values, name)
    if not is_turns(value):
        raise BadRow("a column without turns", f"column {name!r} holds no list of turns with role and content")
    return as_turns(value)


def records(values: Values, name: str, text: str) -> list[Values]:
    """Return a column that holds a list of records, each with some text under the key `text`."""
    found = items(values, name)
    for record in found:
        if not isinstance(record, Mapping) or not isinstance(record.get(text), str):
            raise BadRow("a column without text", f"column {name!r} holds an item without text under {text!r}")
    return found


_PICTURE = re.compile(r"\S+\.(?:png|jpe?g|webp|gif|bmp)", re.IGNORECASE)


def note_on_pictures(contents: Iterable[Text]) -> str:
    """Return what is to be said where each of the responses is the name of a picture, or ""."""
    there_are_some = False
    for one in contents:
        if not isinstance(one, str) or _PICTURE.fullmatch(one) is None:
            return ""
        there_are_some = True
    return _OF_PICTURES if there_are_some else ""


_OF_PICTURES = (
    "every response is the name of a picture, and is read as a text; an image model reads the picture itself: "
    "name its folder, or the run that trained it (docs/images.md)"
)
