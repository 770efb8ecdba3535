"""Examples as JSON, for processes that tokenise what another one has read."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from tokenq.records.examples import Action, ContextMessage, Example, Message, Response, Text

_KINDS = (Message, ContextMessage, Action)

_FIELDS = [one.name for one in fields(Response)]


def to_json(numbered: Sequence[tuple[int, Example]]) -> str:
    """Return (number of its row, example) pairs as JSON."""
    rows = []
    for number, one in numbered:
        said = [[_plain(getattr(response, name)) for name in _FIELDS] for response in one.responses]
        rows.append([number, _plain(one.prompt), said, one.is_pair, one.where, one.context, one.margin])
    return json.dumps(rows, default=str)


def from_json(text: str) -> list[tuple[int, Example]]:
    """Return the pairs that `to_json` has written."""
    found = []
    for number, prompt, said, is_pair, where, context, margin in json.loads(text):
        responses = tuple(_response(dict(zip(_FIELDS, one, strict=True))) for one in said)
        found.append((number, Example(_text(prompt), responses, is_pair, where, context, margin)))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and value and isinstance(value[0], Message):
        return [[turn.to_dict(), _KINDS.index(type(turn))] for turn in value]
    return value


def _response(given: dict[str, Any]) -> Response:
    listed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return replace(Response(**listed), content=_text(given["content"]))


def _text(value: Any) -> Text:
    if isinstance(value, str):
        return value
    return tuple(_KINDS[kind].from_dict(turn) for turn, kind in value)
