"""Layouts of single responses, which training imitates."""

from collections.abc import Mapping
from dataclasses import replace

from tokenq.data import turns as talk
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import ANSWER, CONVERSATION, QUESTION, ParsedRow, question, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Response


def read_completion(values: Values) -> ParsedRow:
    """Read a prompt and a response."""
    prompt, name = cells.content(values, "prompt"), "completion" if "completion" in values else "response"
    content = cells.content(values, name)
    if not isinstance(prompt, str) or not isinstance(content, str):
        prompt, content = talk.prompt_turns(prompt), reply(content)
    return ParsedRow(prompt, (Response(content),))


def read_messages(values: Values) -> ParsedRow:
    """Read a conversation: its last turns from the assistant's first on are the response."""
    prompt, response = talk.split_messages(conversation(values))
    return ParsedRow(prompt, (Response(response),))


def conversation(values: Values) -> tuple[Message, ...]:
    """Return the turns of a conversation; texts alone are a user's and an assistant's by turns (LIMA, Capybara)."""
    name = next(name for name in CONVERSATION if name in values)
    items = cells.items(values, name)
    if items and all(isinstance(item, Mapping) and {"input", "output"} <= item.keys() for item in items):
        items = [cells.text(item, side) for item in items for side in ("input", "output")]
    if items and all(isinstance(item, str) for item in items):
        return tuple(Message(("user", "assistant")[place % 2], item) for place, item in enumerate(items))
    return cells.turns(values, name)


def read_instruction(values: Values) -> ParsedRow:
    """Read an instruction, with an input below it, and the answer."""
    return ParsedRow(
        question(values, "instruction"), (_answer(values, "output", "response", "completion"),), fields=True
    )


def read_answer(values: Values) -> ParsedRow:
    """Read a question and its answer; a problem's answer is its solution."""
    names = ("solution", *ANSWER) if "problem" in values else (*ANSWER, "solution")
    return ParsedRow(question(values, *QUESTION), (_answer(values, *names),), fields=True)


def _answer(values: Values, *names: str) -> Response:
    return Response(reply(cells.text(values, *names)))


def read_labelled_answer(values: Values) -> ParsedRow:
    """Read an answer to a question that is desirable or not."""
    response = replace(_answer(values, *ANSWER), label=label_of(values))
    return ParsedRow(question(values, *QUESTION), (response,), fields=True)


def read_labelled_conversation(values: Values) -> ParsedRow:
    """Read a conversation whose end is desirable or not (LLaMA-Factory, TRL)."""
    prompt, response = talk.split_messages(conversation(values))
    return ParsedRow(prompt, (Response(response, label=label_of(values)),))


def label_of(values: Values) -> bool:
    """Return whether the response of a row is desirable.

    Raises:
        BadRow: its label says neither; a column of that name may mean something else, and can be hidden.
    """
    name = next(name for name in LABELS if name in values)
    try:
        return cells.label(values[name], name)
    except BadRow as problem:
        hide = f"if the column means something else, hide it: --columns unused={name}"
        raise BadRow(problem.reason, f"{problem.detail} ({hide})") from None


LABELS = ("label", "kto_tag", "is_safe", "desirable")
"""Columns that say whether a response is desirable."""


def read_text(values: Values) -> ParsedRow:
    """Read a text: a transcript is split after its last marker, other text has no prompt."""
    prompt, response = talk.split_transcript(cells.text(values, "text"))
    return ParsedRow(prompt, (Response(response),))
