"""Prompts to write answers to: from files of prompts alone, and from every form of data that trains.

A row of a known format (pairs, answers, conversations) gives its prompt exactly as training reads it; a row with a
prompt alone needs one of the columns `prompt`, `messages`, `question`, `instruction`, … or `turns`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenq.data import cells
from tokenq.data import turns as talk
from tokenq.data.chat import Tokenizer, render
from tokenq.data.columns import renamed
from tokenq.data.encode import Encoder
from tokenq.data.examples import as_example
from tokenq.data.files import Row
from tokenq.data.formats import FORMATS
from tokenq.data.parsed import CONVERSATION, QUESTION, Parsed, question
from tokenq.data.source_language import parse_source
from tokenq.data.sources import read_rows
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records import Example, Message, Text


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: its "id" in the data, else its number, from 1.
        text: a string, or turns.
        where: origin for error messages.
        context: keyword arguments for the chat template (for instance `tools`).
        values: the row it came from (for instance with the true answer).
    """

    id: str
    text: Text
    where: str
    context: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def load_prompts(
    sources: Sequence[str], columns: Mapping[str, str] | None = None, style: str = "as_given"
) -> list[Prompt]:
    """Return the prompts of files, folders or hub data sets, in order.

    Args:
        sources: as for `--data`.
        columns: the data set's name for a column of ours.
        style: "as_given", or "chat" (text becomes a user's turn).

    Raises:
        UserError: a row without a prompt, or with an id that another has, naming file and row.
    """
    prompts: list[Prompt] = []
    for source in sources:
        for row in read_rows(parse_source(source)):
            if row.fault:
                raise UserError(f"{row.where}: {row.fault.detail}.", "Mend the row or leave it out.")
            named = Row(renamed(row.values, columns or {}, row.where), row.where)
            prompts.append(_prompt(named, str(named.values.get("id", len(prompts) + 1)), style))
    seen: dict[str, str] = {}
    for prompt in prompts:
        if prompt.id in seen:
            raise UserError(
                f"{prompt.where}: the id {prompt.id!r} stands in {seen[prompt.id]} too.",
                "Make ids unique, or hide the column: --columns unused=id.",
            )
        seen[prompt.id] = prompt.where
    return prompts


def _prompt(row: Row, name: str, style: str) -> Prompt:
    try:
        example = as_example(row, _parsed(row), style)
    except BadRow as problem:
        raise UserError(f"{row.where}: {problem.detail}.", "Mend the row or leave it out.") from problem
    if not example.prompt:
        raise UserError(f"{row.where}: the prompt is empty.", "Mend the row or leave it out.")
    return Prompt(name, example.prompt, row.where, example.context, row.values)


def _parsed(row: Row) -> Parsed:
    """Return the prompt of a row, with the responses that it may have."""
    values, names = row.values, list(row.values)
    for form in FORMATS.values():
        if not form.missing(names) and form.fits(values) and names != ["text"]:
            with contextlib.suppress(BadRow):  # the responses may be what is wrong: nobody asks for them
                return form.read(values)
    if values.get("prompt") is not None:
        return Parsed(cells.content(values, "prompt"), ())
    for name in CONVERSATION:
        if values.get(name) is not None:
            return Parsed(_to_answer(cells.turns(values, name)), ())
    if values.get("turns") is not None:
        return Parsed((Message("user", _first_turn(values)),), (), fields=True)
    if isinstance(values.get("body"), Mapping):  # a request of a batch
        return _parsed(Row(dict(values["body"]), row.where))
    for name in QUESTION:
        if values.get(name) is not None:
            content = cells.content(values, name)
            if not isinstance(content, str):
                return Parsed(_to_answer(content), ())
            return Parsed(question(values, name), (), fields=True)
    raise UserError(
        f"{row.where} has no prompt (columns: {', '.join(map(repr, names))}).",
        "Name its column: --columns prompt=THEIRS.",
    )


def _first_turn(values: Mapping[str, Any]) -> str:
    """Return the first question of MT-bench or Arena-Hard: texts, or records of them; later ones need an answer."""
    turns = cells.items(values, "turns")
    first = turns[0] if turns else None
    return cells.text({"turns": first.get("content") if isinstance(first, Mapping) else first}, "turns")


def _to_answer(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation up to the last turn that the policy is to write."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns))
    return turns[:last] if last == len(turns) - 1 else turns


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return the token ids of every prompt, with the header of an assistant's turn where a chat template has one.

    Raises:
        UserError: a prompt without tokens, turns without a chat template, or a template that refuses them.
    """
    encoder = Encoder.of(tokenizer)
    texts = [
        render(Example(prompt.text, (), False, prompt.where, dict(prompt.context)), tokenizer).prompt
        for prompt in prompts
    ]
    table = encoder.encode(texts)
    ids = [tuple(table[text].ids.tolist()) for text in texts]
    for prompt, tokens in zip(prompts, ids, strict=True):
        if not tokens:
            raise UserError(f"{prompt.where}: the prompt has no tokens.", "Mend the row or leave it out.")
    return ids


Turns = Sequence[Message | Mapping[str, str]]
Given = str | Turns | Sequence[str | Turns]
"""Prompts as they are given in Python: a text, the turns of a conversation, or several of these."""


def given_prompts(given: Given, *, chat: bool) -> list[Prompt]:
    """Return prompts that were given in Python, numbered; text becomes a user's turn where `chat`."""
    every: Sequence[Any] = [given] if isinstance(given, str) or _is_conversation(given) else given
    return [_given(one, str(number), chat) for number, one in enumerate(every, 1)]


def _is_conversation(given: Sequence[Any]) -> bool:
    return len(given) > 0 and all(isinstance(one, Message) or talk.is_turn(one) for one in given)


def _given(one: Any, name: str, chat: bool) -> Prompt:
    where = f"prompt {name}"
    if isinstance(one, str):
        return Prompt(name, (Message("user", one),) if chat else one, where)
    if not isinstance(one, Sequence) or not _is_conversation(one):
        raise UserError(f"{where} is neither text nor turns: {one!r}.", 'A turn is {"role": "user", "content": "…"}.')
    try:
        turns = (turn if isinstance(turn, Message) else talk.as_turn(dict(turn)) for turn in one)
        return Prompt(name, tuple(turns), where)
    except BadRow as problem:
        raise UserError(f"{where}: {problem.detail}.", 'A turn is {"role": "user", "content": "…"}.') from problem
