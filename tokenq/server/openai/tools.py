"""Tool calls in a turn as it is written: what may be one is held back, and given as calls, or as text, at the end."""

import json
import re
import secrets
from collections.abc import Collection
from typing import Any, NamedTuple

from tokenq.envs.adapters.tool_calls import Call, calls_in
from tokenq.server.openai.choice import Delta, Placed

TAG = "<tool_call>"

_TAIL = re.compile(r"\s*(?:" + "|".join(re.escape(TAG[:size]) for size in range(len(TAG), 0, -1)) + r")?\Z")
"""Blanks, and what may be the beginning of a tag, at the end of a text."""


class Turned(NamedTuple):
    """What has come of a turn.

    Attributes:
        content: its text.
        calls: of tools, at the end of the turn.
        tokens: those that are shown by both.
        finish: why it is over; None where it goes on.
    """

    content: str
    calls: tuple[Call, ...]
    tokens: tuple[Placed, ...]
    finish: str | None


class PlainTurn:
    """A turn in which nothing is called."""

    def take(self, delta: Delta) -> Turned:
        """Return what has come."""
        return Turned(delta.text, (), delta.tokens, delta.finish)


class CallingTurn:
    """A turn that may call tools.

    Args:
        names: of the tools.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._text, self._sent = "", 0
        self._held: tuple[Placed, ...] = ()

    def take(self, delta: Delta) -> Turned:
        """Return what has come."""
        self._text += delta.text
        self._held += delta.tokens
        if delta.finish is None:
            return self._shown(self._safe(), ())
        calls = self._calls()
        tag = self._text.find(TAG) if calls else -1
        end = len(self._text) if not calls else len(self._text[: max(0, tag)].rstrip())
        content = self._text[self._sent : end]
        finish = "tool_calls" if calls and delta.finish == "stop" else delta.finish
        return Turned(content, calls, self._held, finish)

    def _shown(self, safe: int, calls: tuple[Call, ...]) -> Turned:
        content, self._sent = self._text[self._sent : safe], safe
        tokens = tuple(one for one in self._held if one.offset < safe)
        self._held = self._held[len(tokens) :]
        return Turned(content, calls, tokens, None)

    def _safe(self) -> int:
        """Return up to where the text is no call, whatever comes."""
        begin = self._text.lstrip()
        if not begin or begin.startswith(("{", "`")):  # the whole message may be a call
            return self._sent
        tag = self._text.find(TAG)
        if tag >= 0:
            return max(self._sent, len(self._text[:tag].rstrip()))
        found = _TAIL.search(self._text)
        return max(self._sent, len(self._text) if found is None else found.start())

    def _calls(self) -> tuple[Call, ...]:
        """Return the calls of the whole turn; none where one of them cannot be read: it is text then."""
        found = calls_in(self._text)
        known = TAG in self._text or all(one.name in self._names for one in found)
        return tuple(found) if known and not any(one.problem for one in found) else ()


def told(call: Call) -> dict[str, Any]:
    """Return a call as chats have it."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
