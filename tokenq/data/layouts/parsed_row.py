"""The result of reading a row, and its building blocks: a question, a reply, a pair."""

from dataclasses import replace
from typing import NamedTuple

from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.records.examples import Message, Response, Text


class ParsedRow(NamedTuple):
    """One row as read; a pair is (chosen, rejected), then the `calibration` response if there is one.

    `fields` says that the turns were made of named text columns, and not found as turns in the data: they may as well
    be written as plain text. `margin` says by how much the chosen response is the better one, where a column does.
    `undecided` says why neither of two responses is the better one, where the data says so: such a row is left out and
    counted. `left_out` has a reason for each response of the row that is not among `responses`; they are counted too.
    """

    prompt: Text
    responses: tuple[Response, ...]
    is_pair: bool = False
    fields: bool = False
    margin: float | None = None
    undecided: str = ""
    left_out: tuple[str, ...] = ()


QUESTION = ("question", "instruction", "input", "problem", "query")
"""Columns of a question, which is a user's turn (and a `prompt` is text as it stands)."""

CHOSEN = ("chosen", "chosen_response", "accepted", "preferred_response")
REJECTED = ("rejected", "rejected_response", "dispreferred_response")
"""Columns of the two responses of a pair."""

ANSWER = ("response", "output", "answer", "completion")
"""Columns of a response to a question."""

CONVERSATION = ("messages", "conversations", "conversation")
"""Columns of a conversation."""

_SCORES = ("score", "rating", "reward", "avg_rating")
_SCORED = [
    (f"score_{side}", *(f"{side}{join}{name}" for name in _SCORES for join in "_-"))
    for side in (CHOSEN[0], REJECTED[0])
]


FINISH = ("finish", "finish_reason")
"""Columns in which an engine says how a response ended: "length" where it was cut."""


def cut_where_said(parsed: ParsedRow, values: Values) -> ParsedRow:
    """Return a row whose response goes on where its engine says that it was cut: no EOS follows it then."""
    if len(parsed.responses) > 1 or not any(values.get(name) == "length" for name in FINISH):
        return parsed
    return parsed._replace(responses=tuple(replace(one, goes_on=True) for one in parsed.responses))


def question(values: Values, *names: str) -> tuple[Message, ...]:
    """Return the user turn of formats with named fields; an `input` beside an `instruction` goes below it."""
    text = cells.text(values, *names)
    beside = "input" if "input" in values else "context"  # Alpaca's name, and Dolly's
    extra = values.get(beside) if "instruction" in values and "instruction" in names else None
    return (Message("user", f"{text}\n\n{extra}" if isinstance(extra, str) and extra.strip() else text),)


def reply(content: Text) -> tuple[Message, ...]:
    """Return a response as turns: text is one turn of the assistant."""
    return (Message("assistant", content),) if isinstance(content, str) else content


def pair(prompt: Text, chosen: Text, rejected: Text, values: Values, *, fields: bool = False) -> ParsedRow:
    """Return a pair, with the ratings and the margin that stand beside it, and a response to calibrate on."""
    named = [next((name for name in names if name in values), names[0]) for names in _SCORED]
    scores = [cells.number(values.get(name), name) for name in named]
    pair = (Response(chosen, score=scores[0]), Response(rejected, score=scores[1]))
    said = "margin" if "margin" in values else "magnitude"
    margin = cells.number(values.get(said), said)
    if margin is None and scores[0] is not None and scores[1] is not None:
        margin = scores[0] - scores[1]
    if values.get("calibration") is None:
        return ParsedRow(prompt, pair, True, fields, margin)
    beside = cells.content(values, "calibration")
    more = Response(beside if isinstance(chosen, str) else reply(beside))
    return ParsedRow(prompt, (*pair, more), True, fields, margin)
