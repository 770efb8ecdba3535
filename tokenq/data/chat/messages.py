"""Read the turns of a conversation in the spellings of data sets: text, tool calls and their results, reasoning.

Whatever changes what a turn says and is not read makes the row a bad one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenq.data.chat.thoughts import FIELDS
from tokenq.data.turns import BadRow
from tokenq.records.examples import ContextMessage, Message

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_FIELDS = "refusal image images image_url video videos audio audios files loss_mask loss_masks train_detail mask"
_NOT_CARRIED = frozenset(_FIELDS.split())
"""Fields of a turn that change what it says, or what is learnt of it, and are not read."""

_LEARNT = {
    **dict.fromkeys(("weight", "train", "training", "trainable", "loss", "loss_weight", "loss_scale"), 1),
    "masked": 0,
}
"""Fields that say whether a turn is learnt, and the value with which it is: 1 or 0, true or false."""

_CALLS = ("function_call", "tool_call")
"""Roles of turns whose text is a call, or a list of calls, as JSON; several in a row are one turn."""

_TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of the parts of a turn that are text."""


def is_turns(value: Any) -> bool:
    """Return whether a cell is a list of turns in the style of `role`/`content` or of `from`/`value`."""
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(is_turn, value))


def is_turn(value: Any) -> bool:
    """Return whether a cell is one turn."""
    if not isinstance(value, Mapping):
        return False
    return "from" in value or ("role" in value and not value.keys().isdisjoint(_SAYING))


_SAYING = ("content", "tool_calls", "function_call")


def as_turns(value: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return the turns of a cell.

    Raises:
        BadRow: for an unknown role, content that is not text, a tool call that cannot be read.
    """
    turns: list[Message] = []
    calling = False
    for given in value:
        turn = as_turn(given)
        called, calling = calling, _role(given) in _CALLS
        if called and calling:
            turns[-1] = replace(turns[-1], tool_calls=turns[-1].tool_calls + turn.tool_calls)
        else:
            turns.append(turn)
    return tuple(turns)


def as_turn(turn: Mapping[str, Any]) -> Message:
    """Return one turn, its role in the words of `Message`.

    Raises:
        BadRow: for an unknown role, content that is not text (images), a tool call that cannot be read, what only an
            assistant says on another turn.
    """
    content = turn["content"] if "content" in turn else turn.get("value")
    lost = sorted(name for name in _NOT_CARRIED & turn.keys() if turn[name])
    if lost:
        raise BadRow("turns with fields besides text", f"a turn has {lost[0]!r}, and only its text could be kept")
    role = _role(turn)
    if role not in _ROLES:
        given = turn["role"] if "role" in turn else turn["from"]
        raise BadRow("unknown role", f"unknown role {given!r} (known: {', '.join(sorted(_ROLES))})")
    known = _ROLES[role]
    calls, reasoning = (
        (tuple(read_calls(content, role)), "") if role in _CALLS else (_tool_calls(turn), _reasoning(turn))
    )
    if known != "assistant" and (calls or reasoning):
        raise BadRow("turns with fields besides text", f"a {role!r} turn has what only an assistant's turn can have")
    text = "" if role in _CALLS or (content is None and calls) else _text(content, role)
    kind = Message if _is_learnt(turn) or known != "assistant" else ContextMessage
    of_tool = (_named(turn, "tool_call_id"), _named(turn, "name")) if known == "tool" else (None, None)
    segment = _named(turn, "name") if known == "assistant" else None
    return kind(known, text, calls, *of_tool, reasoning, segment=segment)


def text_of_turn(turn: Message) -> str:
    """Return a turn as a reader sees it: what was said, and each call as JSON on a line of its own."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.tool_calls]
    return "\n".join([*([turn.content] if turn.content or not calls else []), *calls])


def for_server(turn: Message) -> dict[str, Any]:
    """Return a turn as an OpenAI-compatible server takes it: arguments of calls are JSON text there."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in turn.tool_calls
    ]
    return turn.to_dict() | ({"tool_calls": calls} if calls else {})


def unmarked(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return turns without marks of what is learnt: nothing is learnt of a prompt."""
    return tuple(Message(**vars(turn)) for turn in turns)


def _role(turn: Mapping[str, Any]) -> str:
    return str(turn["role"] if "role" in turn else turn["from"]).lower()


def _named(turn: Mapping[str, Any], name: str) -> str | None:
    value = turn.get(name)
    return None if value is None or value != value or value == "" else str(value)


def _text(content: Any, role: str) -> str:
    """Return the text of a turn, the parts of a list put together."""
    also = ""
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [part for part in map(_part, content) if part is not None]
        others = [part["type"] for part in content if isinstance(part, Mapping) and part.get("type") not in _TEXT_PARTS]
        also = f": it holds {others[0]!r}, and only text is read" if others else ""
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
        raise BadRow("content that is not text", f"the content of a {role!r} turn is not text{also}")
    return content


def _reasoning(turn: Mapping[str, Any]) -> str:
    """Return what was thought before a turn's text; two fields of it say the same."""
    said = {name: turn[name] for name in FIELDS if turn.get(name)}
    for name, value in said.items():
        if not isinstance(value, str) or value != next(iter(said.values())):
            raise BadRow("reasoning that cannot be read", f"a turn has {name!r} that is no text, or two that differ")
    return next(iter(said.values()), "")


def _tool_calls(turn: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the calls of a turn: `tool_calls`, also as JSON, or the one of `function_call`."""
    for name in ("tool_calls", "function_call"):
        if turn.get(name) is not None and turn[name] not in ("", []):
            return tuple(read_calls(turn[name], name))
    return ()


def read_calls(given: Any, name: str) -> list[dict[str, Any]]:
    """Return tool calls in the form of `Message.tool_calls`.

    Args:
        given: one or several, or their JSON, each {"name", "arguments"}, alone or under "function".
        name: of the field or role, for messages.

    Raises:
        BadRow: they are no calls, or their arguments no record and no JSON of one.
    """
    found = _json(given, name) if isinstance(given, str) else given
    listed = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    return [_call(one, name) for one in listed]


def _call(given: Any, name: str) -> dict[str, Any]:
    function = given.get("function", given) if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or "arguments" not in function:
        raise BadRow(UNREADABLE, f"a turn has {name!r} with a call that has no name or no arguments")
    if given.get("type") not in (None, "function"):
        raise BadRow(
            UNREADABLE, f"a turn has {name!r} with a call of type {given['type']!r}, and only functions are read"
        )
    arguments = function["arguments"]
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{name} of {function['name']}") if arguments.strip() else {}
    elif isinstance(arguments, Mapping):  # Arrow fills the keys that other calls have with nulls
        arguments = without_nulls(arguments)
    if not isinstance(arguments or {}, Mapping):
        raise BadRow(UNREADABLE, f"a turn has {name!r} whose arguments are no record of names and values")
    named = {"id": str(given["id"])} if given.get("id") not in (None, "") else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments or {})}}


UNREADABLE = "a tool call that cannot be read"


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        said = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)[:80]
        raise BadRow(UNREADABLE, f"a turn has {name!r} that is not JSON ({said})") from None


def without_nulls(value: Any) -> Any:
    """Return a value without the nulls with which Arrow fills records that differ in their keys."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _part(part: Any) -> str | None:
    """Return the text of a part of a turn, None if it is not text."""
    if isinstance(part, Mapping):
        part = part.get("text") if part.get("type") in _TEXT_PARTS else None
    return part if isinstance(part, str) else None


def _is_learnt(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is learnt, by its fields in `_LEARNT`."""
    said = {name: turn[name] for name in _LEARNT if turn.get(name) is not None and turn[name] == turn[name]}
    for name, value in said.items():
        number = _SWITCH.get(str(value).strip().lower())
        if number is None:
            raise BadRow("a turn that is half learnt", f"a turn has {name} {value!r}: it is learnt (1) or not (0)")
        if number != _LEARNT[name]:
            return False
    return True


_SWITCH = {"true": 1, "1": 1, "1.0": 1, "false": 0, "0": 0, "0.0": 0}
