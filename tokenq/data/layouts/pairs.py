"""Layouts of pairs: one row to its prompt, its chosen and its rejected response."""

from collections.abc import Mapping
from typing import Any

from tokenq.data import turns as talk
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import CHOSEN, CONVERSATION, QUESTION, REJECTED, ParsedRow, pair, question, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Response, Text

Turns = tuple[Message, ...]


def read_preference(values: Values) -> ParsedRow:
    """Read a prompt with chosen and rejected; both may repeat the turns of the prompt."""
    prompt = cells.content(values, "prompt")
    chosen, rejected = cells.content(values, *CHOSEN), cells.content(values, *REJECTED)
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return pair(prompt, chosen, rejected, values)
    return _beside(prompt, reply(chosen), reply(rejected), values)


def _beside(prompt: Text, chosen: Turns, rejected: Turns, values: Values) -> ParsedRow:
    """Return the pair of a prompt and two responses as turns, which may be whole conversations."""
    if chosen[0].role == "assistant" or rejected[0].role == "assistant":
        return pair(talk.prompt_turns(prompt), chosen, rejected, values)
    first, chosen, rejected = talk.split_turns(chosen, rejected)
    asked = (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)
    if not {text.strip() for text in asked} <= {turn.content.strip() for turn in first}:
        raise BadRow("prompt and conversation differ", "the prompt is no turn of the conversations")
    return pair(first, chosen, rejected, values)


def read_step_preference(values: Values) -> ParsedRow:
    """Read two next steps of one solution (Step-DPO): what was written before stands in both responses."""
    begun = cells.text(values, "initial_reason_steps") if values.get("initial_reason_steps") is not None else ""
    steps = [cells.text(values, side) for side in ("chosen", "rejected")]
    chosen, rejected = (Response(reply(begun + step), goes_on=True) for step in steps)
    return ParsedRow((Message("user", cells.text(values, "prompt")),), (chosen, rejected), is_pair=True, fields=True)


def read_implicit(values: Values) -> ParsedRow:
    """Read chosen and rejected that hold their prompt."""
    chosen, rejected = cells.content(values, *CHOSEN), cells.content(values, *REJECTED)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return pair(*talk.split_text(chosen, rejected), values)
    return pair(*talk.split_turns(reply(chosen), reply(rejected)), values)


def read_question_pair(values: Values) -> ParsedRow:
    """Read a question in a column of its own, and two answers."""
    prompt = question(values, *QUESTION)
    chosen, rejected = cells.content(values, *CHOSEN), cells.content(values, *REJECTED)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return pair(prompt, reply(chosen), reply(rejected), values, fields=True)
    return _beside(prompt, reply(chosen), reply(rejected), values)


def read_conversation_pair(values: Values) -> ParsedRow:
    """Read a conversation to answer, and two answers; where it ends with the chosen one, that is left out of it."""
    prompt = cells.turns(values, next(name for name in (*CONVERSATION, "trajectory") if name in values))
    chosen, rejected = reply(cells.content(values, *CHOSEN)), reply(cells.content(values, *REJECTED))
    if chosen[0].role != "assistant" and rejected[0].role != "assistant":
        return pair(*talk.split_turns(chosen, rejected), values)
    if prompt[-len(chosen) :] == chosen:
        prompt = prompt[: -len(chosen)]
    if not prompt or prompt[-1].role == "assistant":
        raise BadRow("a conversation that is answered already", "the conversation does not end with a turn to answer")
    return pair(prompt, chosen, rejected, values)


def read_answered_pair(values: Values) -> ParsedRow:
    """Read a conversation that ends with the chosen answer, and the rejected one beside it (ms-swift)."""
    turns = cells.turns(values, next(name for name in CONVERSATION if name in values))
    place = max((index + 1 for index, turn in enumerate(turns) if turn.role != "assistant"), default=0)
    if not 0 < place < len(turns):
        raise BadRow("no assistant turn", "the conversation does not end with an answer to a turn before it")
    rejected = reply(cells.content(values, *ANSWERED))
    if rejected[0].role != "assistant":
        return pair(*talk.split_turns(turns, rejected), values)
    return pair(turns[:place], turns[place:], rejected, values)


ANSWERED = ("rejected_response", "rejected_messages")
"""Columns of what a conversation should not have ended with."""


def read_summary_comparison(values: Values) -> ParsedRow:
    """Read a summary comparison, with the prompt as the TL;DR models of the literature are asked."""
    info, summaries = values["info"], cells.records(values, "summaries", "text")
    choice = cells.whole(values.get("choice"), "choice")
    if not isinstance(info, Mapping):
        raise BadRow("a column without a record", "column 'info' holds no record")
    if choice not in (0, 1) or len(summaries) != 2:
        raise BadRow("a comparison without a choice", f"choice is {cells.shown(choice)}, not 0 or 1")
    texts = [f" {summary['text'].strip()}" for summary in summaries]
    return pair(summary_prompt(info), texts[choice], texts[1 - choice], values)


def summary_prompt(info: Mapping[str, Any]) -> str:
    """Return the prompt for a summary of a post or of an article, as the TL;DR models of the literature are asked."""
    if info.get("post") is None:
        return f"{info.get('article') or ''}\n\nTL;DR:"
    return f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {info['post']}\n\nTL;DR:"


def read_instruction_pair(values: Values) -> ParsedRow:
    """Read an instruction with both answers in one list, the chosen one first."""
    output = cells.items(values, "output")
    if len(output) != 2 or not all(isinstance(text, str) for text in output):
        raise BadRow("an output that is no pair", "column 'output' is not [chosen, rejected]")
    return pair(question(values, "instruction"), reply(output[0]), reply(output[1]), values, fields=True)
