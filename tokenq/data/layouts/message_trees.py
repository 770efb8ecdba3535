"""Conversations that branch (OpenAssistant): a row for each message, or for each tree, to a row for each question.

Every message of a person that was answered is a prompt, with all that was said before it; its answers are ranked, 0 the
best. Messages that were deleted are left out, with what stands below them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenq.data.files.local import Row
from tokenq.data.layouts import cells
from tokenq.data.turns import BadRow

_FLAT = {"message_id", "parent_id", "text", "role"}
_PERSON = ("prompter", "user", "human")


def question_rows(rows: Sequence[Row]) -> list[Row]:
    """Return rows of questions with their answers; other rows are unchanged."""
    first = next((row.values for row in rows if not row.fault), {})
    if is_flat(first):
        return [*(row for row in rows if row.fault), *_from_messages([row for row in rows if not row.fault])]
    prompt = first.get("prompt")
    if isinstance(prompt, Mapping) and {"text", "role", "replies"} <= prompt.keys():
        return [found for row in rows for found in ([row] if row.fault else _from_tree(row))]
    return list(rows)


def is_flat(values: Mapping[str, Any]) -> bool:
    """Return whether a row is one message of a tree, whose answers are rows of their own."""
    return values.keys() >= _FLAT


def _from_messages(rows: Sequence[Row]) -> Iterator[Row]:
    kept = [row for row in rows if not _deleted(row.values)]
    by_id = {row.values.get("message_id"): row for row in kept}
    answers: dict[Any, list[Row]] = {}
    for row in kept:
        if row.values.get("role") not in _PERSON:
            answers.setdefault(row.values.get("parent_id"), []).append(row)
    for row in kept:
        name = row.values.get("message_id")
        if row.values.get("role") not in _PERSON or name not in answers:
            continue
        path, seen = [row], {name}
        while (parent := path[-1].values.get("parent_id")) in by_id and parent not in seen:
            path.append(by_id[parent])
            seen.add(parent)
        if cells.is_missing(path[-1].values.get("parent_id")):
            messages = [one.values for one in reversed(path)]
            yield replace(row, values=_question(messages, [one.values for one in answers[name]]))
        else:
            lost = f"message {name!r} stands below one that is not in the data"
            yield Row({}, row.where, BadRow("a conversation without its beginning", lost))


def _from_tree(row: Row) -> Iterator[Row]:
    rest: list[tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]] = [(row.values["prompt"], ())]
    while rest:
        message, above = rest.pop(0)
        replies = cells.listed(message.get("replies")) or []
        path = (*above, message)
        kept = [reply for reply in replies if isinstance(reply, Mapping) and not _deleted(reply)]
        if kept and message.get("role") in _PERSON:
            where = f"{row.where}, message {message.get('message_id')}" if above else row.where
            yield replace(row, values=_question(path, kept), where=where)
        rest.extend((reply, path) for reply in kept)


def _question(path: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    prompt = [{"role": one.get("role"), "content": one.get("text")} for one in path]
    return {"prompt": prompt, "answers": [{"answer": one.get("text"), "rank": one.get("rank")} for one in answers]}


def _deleted(message: Mapping[str, Any]) -> bool:
    return message.get("deleted") in (True, "true", "True", 1)
