"""What a row comes to, and the pieces that readers of layouts put together: a question, a reply, a pair."""

from typing import NamedTuple

from tokenq.data import cells
from tokenq.data.cells import Values
from tokenq.records import Message, Response, Text


class Parsed(NamedTuple):
    """What a reader makes of one row; a pair is (chosen, rejected), then a column `calibration` if there is one.

    `fields` says that the turns were made of named text columns, and not found as turns in the data: they may as well
    be written as plain text. `margin` says by how much the chosen response is the better one, where a column does.
    `undecided` says why neither of two responses is the better one, where the data says so: such a row is left out and
    counted.
    """

    prompt: Text
    responses: tuple[Response, ...]
    is_pair: bool = False
    fields: bool = False
    margin: float | None = None
    undecided: str = ""


def question(values: Values, *names: str) -> tuple[Message, ...]:
    """Return the user turn of formats with named fields; an `input` beside an `instruction` goes below it."""
    text = cells.text(values, *names)
    extra = values.get("input") if "instruction" in values and "instruction" in names else None
    return (Message("user", f"{text}\n\n{extra}" if isinstance(extra, str) and extra.strip() else text),)


def reply(content: Text) -> tuple[Message, ...]:
    """Return a response as turns: text is one turn of the assistant."""
    return (Message("assistant", content),) if isinstance(content, str) else content


def pair(prompt: Text, chosen: Text, rejected: Text, values: Values, *, fields: bool = False) -> Parsed:
    """Return a pair, with the ratings and the margin that stand beside it, and a response to calibrate on."""
    scores = [cells.number(values.get(name), name) for name in ("score_chosen", "score_rejected")]
    pair = (Response(chosen, score=scores[0]), Response(rejected, score=scores[1]))
    margin = cells.number(values.get("margin"), "margin")
    if margin is None and scores[0] is not None and scores[1] is not None:
        margin = scores[0] - scores[1]
    if values.get("calibration") is None:
        return Parsed(prompt, pair, True, fields, margin)
    beside = cells.content(values, "calibration")
    more = Response(beside if isinstance(chosen, str) else reply(beside))
    return Parsed(prompt, (*pair, more), True, fields, margin)
