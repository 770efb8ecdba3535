"""Read a row's context: system text, earlier turns, arguments for the chat template.

Some names change what a row means: a picture that the question is about, a mask that says what is not to be learnt.
They are read, or make the row a bad one; none is passed over. `SYSTEM` and `HISTORY` are read, `TEMPLATE` goes to the
chat template, and what stands in `UNREAD` cannot be kept.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenq.data.chat.messages import as_turns, is_turns, unmarked, without_nulls
from tokenq.data.layouts import cells
from tokenq.data.layouts.nested import unpacked
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Text

SYSTEM = ("system", "system_prompt", "system_message")
"""Columns of a system text; the first that says something counts."""

HISTORY = "history"
"""The column of earlier turns: [[question, answer], …], or turns."""

TEMPLATE = ("chat_template_kwargs", "tools")
"""Columns of arguments for the chat template."""

_MEDIA = "image images image_url image_urls image_path video videos video_path audio audios audio_path pixel_values"
_MASKS = "loss_mask loss_masks train_mask assistant_mask assistant_masks sample_weight sample_weights loss_weight"
UNREAD: Mapping[str, str] = {
    **dict.fromkeys(_MEDIA.split(), "only text is read"),
    **dict.fromkeys(_MASKS.split(), "what is not to be learnt is marked at its turn: weight 0, or train false"),
    "functions": "tools are given in column 'tools'",
}
"""Columns that change what a row means and cannot be kept, with the reason. They may be empty."""

_TAKEN = (
    "add_generation_prompt chat_template continue_final_message conversation max_length messages padding "
    "return_assistant_tokens_mask return_dict return_tensors strftime_now tokenize tokenizer_kwargs truncation"
)
RESERVED = frozenset(_TAKEN.split())
"""Names that an argument for the chat template cannot have: they say what is rendered, and how."""


def refuse_unread(values: Mapping[str, Any], used: Collection[str] = ()) -> None:
    """Refuse a row with a column that changes its meaning and is not read.

    Args:
        values: the row.
        used: columns that its layout reads itself.

    Raises:
        BadRow: names the column.
    """
    for name, why in UNREAD.items():
        if name in values and name not in used and not _says_nothing(values[name]):
            raise BadRow("a column that cannot be kept", f"column {name!r} changes what the row means, and {why}")


def _says_nothing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, Mapping):  # an empty picture, as Arrow has it
        return all(map(_says_nothing, value.values()))
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}") or cells.is_missing(value)
    return isinstance(value, Sequence) and all(map(_says_nothing, value))


def with_context(prompt: Text, values: Mapping[str, Any], used: Collection[str] = ()) -> Text:
    """Return the prompt after the row's system text and earlier turns, unless it has a system turn of its own.

    Text goes below text, with an empty line between.

    Raises:
        BadRow: the earlier turns cannot be read.
    """
    earlier = () if HISTORY in used else history(values)
    system = next((said for name in SYSTEM if name not in used if (said := _system(values, name))), "")
    if isinstance(prompt, str):
        above = [*([system] if system else []), *(turn.content for turn in earlier)]
        return "\n\n".join([*above, prompt]) if prompt else prompt
    if not prompt:
        return prompt
    own = prompt[:1] if prompt[0].role == "system" else (Message("system", system),) if system else ()
    return (*own, *earlier, *(prompt[1:] if prompt[0].role == "system" else prompt))


def _system(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, Mapping | list):
        raise BadRow("a column without text", f"column {name!r} holds {type(value).__name__}, not text")
    return value if isinstance(value, str) and value.strip() and not cells.is_missing(value) else ""


def history(values: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the turns before the prompt; none if the row has no such column or an empty one.

    Raises:
        BadRow: the column holds neither turns nor pairs of a question and an answer.
    """
    value = values.get(HISTORY)
    if _says_nothing(value):
        return ()
    value = cells.listed(unpacked(value, HISTORY))
    if is_turns(value):
        return unmarked(as_turns(value))
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow("history that cannot be read", f"column {HISTORY!r} is no list of [question, answer]")
    if all(isinstance(said, str) for said in value) and len(value) % 2 == 0:
        value = [value[place : place + 2] for place in range(0, len(value), 2)]
    return tuple(turn for pair in value for turn in _exchange(pair))


def _exchange(pair: Any) -> tuple[Message, Message]:
    if isinstance(pair, Mapping):
        pair = list(pair.values())
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
        raise BadRow("history that cannot be read", f"column {HISTORY!r} holds {cells.shown(pair)}, no two texts")
    return Message("user", pair[0]), Message("assistant", pair[1])


def template_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for the chat template in a row.

    Raises:
        BadRow: they are no record, tools are no list of records, or a name is not theirs to set.
    """
    given, tools = (_argument(_holder(values, name), name) for name in TEMPLATE)
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(key, str) for key in given)):
        raise BadRow("broken chat_template_kwargs", "column 'chat_template_kwargs' holds no record of names and values")
    found = dict(given or {})
    taken = sorted(RESERVED & found.keys())
    if taken:
        raise BadRow("broken chat_template_kwargs", f"column 'chat_template_kwargs' may not set {taken[0]!r}")
    if tools is not None:
        found["tools"] = tools
    listed = found.get("tools")
    if listed is not None and not (isinstance(listed, list) and all(isinstance(tool, Mapping) for tool in listed)):
        raise BadRow("broken tools", "column 'tools' holds no list of records, one for each tool")
    return found


def _holder(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the record that has a column: the row, or the request within a row of OpenAI's files."""
    within = (values.get(key) for key, mark in REQUESTS.items() if mark in values)
    return next((one for one in within if isinstance(one, Mapping) and name in one and name not in values), values)


REQUESTS = {"input": "preferred_output", "body": "body"}
"""Columns of a request, and the columns by which rows with one are told: preferences, batches."""


def _argument(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column with JSON parsed and nulls left out; None if empty."""
    value = values.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = unpacked(value, name)
        except BadRow as problem:
            raise BadRow(f"broken {name}", problem.detail) from None
        if value is None:
            raise BadRow(f"broken {name}", f"column {name!r} holds text that is not JSON")
    return without_nulls(value) if value or value in (0, False) else None
