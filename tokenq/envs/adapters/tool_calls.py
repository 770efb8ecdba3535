"""Tool calls in what a model wrote: JSON in <tool_call> tags, or a message that is one JSON object and nothing else."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.S)
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.S)


class Call(NamedTuple):
    """A call that a model has written.

    Attributes:
        name: of the tool, "" where none can be read.
        arguments: by name.
        problem: what is wrong with how it is written, "" for nothing.
    """

    name: str
    arguments: Mapping[str, Any]
    problem: str = ""


def calls_in(text: str) -> list[Call]:
    """Return the calls of a message, broken ones among them; none where it calls nothing."""
    tagged = _TAGGED.findall(text)
    if tagged:
        return [_call(one) for one in tagged]
    whole = text.strip()
    fenced = _FENCE.match(whole)
    whole = fenced[1] if fenced else whole
    return [_call(whole)] if whole.startswith("{") and '"name"' in whole else []


def _call(text: str) -> Call:
    try:
        said = json.loads(text)
    except ValueError as problem:
        return Call("", {}, f"This tool call is not valid JSON: {problem}.")
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return Call("", {}, 'A tool call is an object such as {"name": "add", "arguments": {"a": 1}}.')
    arguments = said.get("arguments", said.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI's own form
        try:
            arguments = json.loads(arguments)
        except ValueError as problem:
            return Call(said["name"], {}, f"The arguments are not valid JSON: {problem}.")
    if not isinstance(arguments, dict):
        return Call(said["name"], {}, "The arguments of a tool call are an object of names and values.")
    return Call(said["name"], arguments)
