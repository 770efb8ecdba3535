"""Load prompts to answer: from files of prompts, and from every layout of training data.

A row of a known format (pairs, answers, conversations) gives its prompt exactly as training reads it; a row with a
prompt alone needs one of the columns `prompt`, `messages`, `question`, `instruction`, … or `turns`.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenq.data.bad_rows import HINT, BadRowsError, UnusableRow
from tokenq.data.chat.messages import as_turn, is_turn
from tokenq.data.chat.rendering import refuse_halves, render
from tokenq.data.chat.template import Tokenizer
from tokenq.data.conditioning.control import Levels, with_control
from tokenq.data.encoding import Encoder
from tokenq.data.examples import as_example
from tokenq.data.files.local import Row
from tokenq.data.layouts import cells
from tokenq.data.layouts.columns import renamed_columns
from tokenq.data.layouts.formats import FORMATS
from tokenq.data.layouts.parsed_row import CONVERSATION, QUESTION, ParsedRow, question
from tokenq.data.sources import Data, hold_out, tables_of
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Text


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: its "id" in the data, else its number, from 1.
        text: a string, or turns.
        where: origin for error messages.
        context: keyword arguments for the chat template (for instance `tools`).
        values: the row it came from (for instance with the true answer).
        begun: tokens of a response that are written already: what is asked for stands behind them.
        condition: the levels of attributes that are asked for in it, which `text` does not say.
    """

    id: str
    text: Text
    where: str
    context: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    begun: tuple[int, ...] = ()
    condition: Levels = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedPrompts:
    """Prompts and an account of the rows that they came from.

    Attributes:
        prompts: the prompts, in order.
        rows: the rows read.
        dropped: those that gave no prompt, by reason.
    """

    prompts: list[Prompt]
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return the account as one line."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        lost = f"; dropped {self.dropped.total():,} ({reasons})" if reasons else ""
        return f"{self.rows:,} rows: {len(self.prompts):,} prompts{lost}"


def load_prompts(
    data: Data,
    columns: Mapping[str, str] | None = None,
    style: str = "as_given",
    bad_rows: str = "error",
) -> LoadedPrompts:
    """Return the prompts of files, folders, hub data sets or rows in memory, in order.

    Args:
        data: as for `--data`, or rows.
        columns: the data set's name for a column of ours.
        style: "as_given", or "chat" (text becomes a user's turn).
        bad_rows: "error" or "drop", for a row without a prompt, or with an id that another has.

    Raises:
        BadRowsError: names the first such row.
    """
    rows = [row for table in tables_of(data) for row in renamed_columns(table, columns or {})]
    prompts: list[Prompt] = []
    bad: list[UnusableRow] = []
    seen: dict[str, str] = {}
    first = len(rows)
    for place, row in enumerate(rows):
        try:
            if row.fault:
                raise row.fault
            prompt = _prompt(row, _id(row.values) or str(place + 1), style)
            if prompt.id in seen:
                said = f"the id {prompt.id!r} stands in {seen[prompt.id]} too"
                raise BadRow("an id that another row has", said, _UNIQUE)
        except BadRow as problem:
            bad.append(UnusableRow(place, row.where, problem))
            first = min(first, len(prompts))
        else:
            seen[prompt.id] = row.where
            prompts.append(prompt)
    if bad and bad_rows == "error":
        raise BadRowsError(bad, len(rows), prompts[:first])
    dropped = Counter(one.problem.reason for one in bad)
    if not prompts:
        raise UserError(f"None of the {len(rows)} rows has a prompt. {bad[0].where}: {bad[0].problem.detail}.", HINT)
    return LoadedPrompts(prompts, len(rows), dropped)


_UNIQUE = "Make ids unique, hide the column (--columns unused=id), or leave such rows out with --bad-rows drop."


def _id(values: Mapping[str, Any]) -> str:
    """Return the id in a row, "" if it has none; a whole number may be stored as a float."""
    value = values.get("id")
    if cells.is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadRow("an id that is no name", f"the id is {cells.shown(value)}, neither text nor a whole number")
    name = cells.text({"id": value}, "id")
    refuse_halves(name)
    return name


def _prompt(row: Row, name: str, style: str) -> Prompt:
    example = as_example(row, *_parsed(row, style))
    if not isinstance(example.prompt, str) and not example.prompt:
        raise BadRow("empty prompt", "the prompt is empty")
    return Prompt(name, example.prompt, row.where, example.context, row.values)


def _parsed(row: Row, style: str) -> tuple[ParsedRow, str, Collection[str]]:
    """Return the prompt of a row with the responses that it may have, the style, and the columns of its layout."""
    values, names = row.values, list(row.values)
    for form in FORMATS.values():
        if not form.missing(names) and form.fits(values) and names != ["text"]:
            with contextlib.suppress(BadRow):  # the responses may be what is wrong: nobody asks for them
                return form.read(values), style, form.used(names)
    if isinstance(values.get("body"), Mapping) and values.get("prompt") is None:  # a request of a batch
        return _parsed(Row(dict(values["body"]), row.where), style)
    return _bare(values), style, ()


def _bare(values: Mapping[str, Any]) -> ParsedRow:
    """Return the prompt of a row without responses."""
    if values.get("prompt") is not None:
        return ParsedRow(cells.content(values, "prompt"), ())
    for name in CONVERSATION:
        if values.get(name) is not None:
            return ParsedRow(_to_answer(cells.turns(values, name)), ())
    if values.get("turns") is not None:
        return ParsedRow((Message("user", _first_turn(values)),), (), fields=True)
    for name in QUESTION:
        if values.get(name) is not None:
            content = cells.content(values, name)
            if not isinstance(content, str):
                return ParsedRow(_to_answer(content), ())
            return ParsedRow(question(values, name), (), fields=True)
    raise BadRow(
        "no prompt",
        f"it has no prompt (columns: {', '.join(map(repr, values))})",
        "Name its column: --columns prompt=THEIRS.",
    )


def _first_turn(values: Mapping[str, Any]) -> str:
    """Return the first question of MT-bench or Arena-Hard: texts, or records of them; later ones need an answer."""
    turns = cells.items(values, "turns")
    first = turns[0] if turns else None
    return cells.text({"turns": first.get("content") if isinstance(first, Mapping) else first}, "turns")


def _to_answer(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation up to the turn that the policy is to write."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns))
    return turns[:last] if last == len(turns) - 1 else turns


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return the token ids of every prompt, with the chat template's header of an assistant turn and what is begun.

    Raises:
        BadRowsError: a prompt without tokens, turns without a chat template, or a template that refuses them.
    """
    ids, bad = _encoded(prompts, tokenizer)
    if bad:
        raise BadRowsError(bad, len(prompts))
    return [(*found, *prompt.begun) for prompt, found in zip(prompts, ids, strict=True) if found]


def usable_prompts(loaded: LoadedPrompts, tokenizer: Tokenizer, bad_rows: str) -> LoadedPrompts:
    """Return the prompts that have tokens; others raise an error, or are dropped and counted.

    Raises:
        BadRowsError: names the first of the others, unless they are left out.
        UserError: nothing is left.
    """
    ids, bad = _encoded(loaded.prompts, tokenizer)
    if bad and bad_rows == "error":
        raise BadRowsError(bad, loaded.rows)
    kept = [prompt for prompt, found in zip(loaded.prompts, ids, strict=True) if found]
    if not kept:
        raise UserError(f"No prompt is left. {bad[0].where}: {bad[0].problem.detail}.", bad[0].problem.hint or HINT)
    return LoadedPrompts(kept, loaded.rows, loaded.dropped + Counter(one.problem.reason for one in bad))


def _encoded(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> tuple[list[tuple[int, ...]], list[UnusableRow]]:
    """Return the ids of every prompt, None for unusable ones, and the unusable ones."""
    encoder = Encoder.of(tokenizer)
    texts: dict[int, str] = {}
    bad: list[UnusableRow] = []
    for place, prompt in enumerate(prompts):
        try:
            asked = with_control(prompt.text, prompt.condition)
            example = Example(asked, (), False, prompt.where, dict(prompt.context))
            texts[place] = render(example, tokenizer).prompt
        except BadRow as problem:
            bad.append(UnusableRow(place, prompt.where, problem))
    table = encoder.encode(texts.values())
    ids = [tuple(table[texts[place]].ids.tolist()) if place in texts else () for place in range(len(prompts))]
    empty = BadRow("prompt without tokens", "the prompt has no tokens, and the tokenizer writes no BOS")
    bad += [UnusableRow(place, prompts[place].where, empty) for place in texts if not ids[place]]
    return ids, sorted(bad, key=lambda one: one.place)


def hold_out_prompts(prompts: Sequence[Prompt], size: float, *, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Return the prompts that are left, and those that are held out: the ones that `hold_out` takes of data.

    Raises:
        UserError: nothing would be left, or nothing is held out.
    """
    examples = [Example(prompt.text, (), False, prompt.where) for prompt in prompts]
    chosen = {example.prompt for example in hold_out(examples, size, seed=seed)[1]}
    if not chosen:
        raise UserError(f"--eval-size {size:g} holds out none of {len(prompts)} prompts.", "Make it larger.")
    parts = ([prompt for prompt in prompts if (prompt.text in chosen) == held] for held in (False, True))
    kept, held_out = parts
    return kept, held_out


Turns = Sequence[Message | Mapping[str, Any]]
Given = str | Turns | Sequence[str | Turns]
"""Prompts as they are given in Python: a text, the turns of a conversation, or several of these."""


def given_prompts(given: Given, *, chat: bool) -> list[Prompt]:
    """Return prompts given in Python, numbered; with `chat`, text becomes a user's turn."""
    every: Sequence[Any] = [given] if isinstance(given, str) or _is_conversation(given) else given
    return [_given(one, str(number), chat) for number, one in enumerate(every, 1)]


def _is_conversation(given: Sequence[Any]) -> bool:
    return len(given) > 0 and all(isinstance(one, Message) or is_turn(one) for one in given)


def _given(one: Any, name: str, chat: bool) -> Prompt:
    where = f"prompt {name}"
    if isinstance(one, str):
        return Prompt(name, (Message("user", one),) if chat else one, where)
    if not isinstance(one, Sequence) or not _is_conversation(one):
        raise UserError(f"{where} is neither text nor turns: {one!r}.", 'A turn is {"role": "user", "content": "…"}.')
    try:
        turns = (turn if isinstance(turn, Message) else as_turn(dict(turn)) for turn in one)
        return Prompt(name, tuple(turns), where)
    except BadRow as problem:
        raise UserError(f"{where}: {problem.detail}.", 'A turn is {"role": "user", "content": "…"}.') from problem
