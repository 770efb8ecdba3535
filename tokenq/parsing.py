"""Text of flags and YAML keys as values with a type. What the values may be is the business of the dataclass."""

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from tokenq.errors import UserError, nearest

Raw = str | list[str] | dict[str, str] | None
"""The words of a flag or a YAML key, before they have a type; None is YAML's null, which stands unquoted in a file."""

_NOTHING = {"none", "null", "~"}
"""Words for "not given", for a flag whose value cannot be text."""
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert(raw: Raw, kind: Any, where: str) -> Any:
    """Return `raw` as a value of type `kind`.

    Args:
        raw: what a flag or a key says.
        kind: str, int, float, bool, a Literal of strings, Sequence[str], Sequence[float], Mapping[str, str],
            Mapping[str, float], or one of these | None.
        where: the flag, or file, line and key, for the error.

    Raises:
        UserError: the text does not say such a value.
    """
    optional = get_origin(kind) in (Union, types.UnionType)
    if optional:
        kind = next(option for option in get_args(kind) if option is not type(None))
    origin = get_origin(kind)
    if raw is None and optional:
        return None
    if origin is Sequence:
        (item,) = get_args(kind)
        return tuple(one if item is str else _scalar(one, item, where) for one in _texts(raw, where))
    if origin is Mapping:
        return _pairs(raw, where) if get_args(kind)[1] is str else _numbers(raw, where)
    if not isinstance(raw, str):
        raise UserError(f"{where} takes one value, not a list.", "Give a single value.")
    if origin is Literal:
        return _choice(raw, get_args(kind), where)
    if kind is str:
        return _text(raw, where)
    if optional and raw.lower() in _NOTHING:
        return None
    return _scalar(raw, kind, where)


def _choice(raw: str, options: Sequence[str], where: str) -> str:
    if raw in options:
        return raw
    close = nearest(raw, options)
    guess = f"Did you mean {close!r}? " if close else ""
    raise UserError(f"{where} is {raw[:40]!r}.", f"{guess}Available: {', '.join(options)}.")


def _text(raw: str, where: str) -> str:
    """Return a text; bytes of the command line that are no UTF-8 arrive as halves of characters."""
    if raw.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in raw):
        return raw
    raise UserError(f"{where} is not valid UTF-8: {raw[:40]!a}.", "Give it in UTF-8.")


def _texts(raw: Raw, where: str) -> tuple[str, ...]:
    if isinstance(raw, dict):
        raise UserError(f"{where} takes a list.", "Write one `- value` a line.")
    return tuple(_text(one, where) for one in ([raw] if isinstance(raw, str) else raw or ()))


def _pairs(raw: Raw, where: str) -> dict[str, str]:
    if isinstance(raw, dict):
        return {_text(name, where): _text(value, where) for name, value in raw.items()}
    items = [raw] if isinstance(raw, str) else raw or []
    pairs = [item.partition("=") for item in items]
    if not all(name and equals and value for name, equals, value in pairs):
        raise UserError(f"{where} takes name=value, not {' '.join(items)!r}.", f"For instance {where} chosen=good.")
    return {_text(name, where): _text(value, where) for name, _, value in pairs}


def _numbers(raw: Raw, where: str) -> dict[str, float]:
    """Return numbers by name; several may stand in one word, as in words=0.1,image=0.02."""
    items = [raw] if isinstance(raw, str) else raw or []
    parted = items if isinstance(items, dict) else [one for item in items for one in item.split(",")]
    return {name: _scalar(value, float, f"{where} {name}") for name, value in _pairs(parted, where).items()}


def _scalar(raw: str, kind: Any, where: str) -> Any:
    if kind is bool:
        if raw.lower() in _BOOLEANS:
            return _BOOLEANS[raw.lower()]
        raise UserError(f"{where} takes true or false, not {raw!r}.", "Write true or false.")
    number = "a whole number" if kind is int else "a number"
    try:
        value = kind(raw)
    except ValueError as error:
        raise UserError(f"{where} takes {number}, not {raw[:40]!r}.", f"Give {number}.") from error
    if not math.isfinite(value):
        raise UserError(f"{where} is {raw}.", "Give a finite number.")
    return value
