"""Layouts of pairs: one row to its prompt, its chosen and its rejected response."""

from collections.abc import Mapping

from tokenq.data import cells
from tokenq.data import turns as talk
from tokenq.data.cells import Values
from tokenq.data.parsed import Parsed, pair, question, reply
from tokenq.data.turns import BadRow
from tokenq.records import Message, Response


def read_preference(values: Values) -> Parsed:
    """Read a prompt with chosen and rejected; both may repeat the turns of the prompt."""
    prompt = cells.content(values, "prompt")
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return pair(prompt, chosen, rejected, values)
    chosen, rejected = reply(chosen), reply(rejected)
    if chosen[0].role != "assistant" and rejected[0].role != "assistant":
        first, chosen, rejected = talk.split_turns(chosen, rejected)
        asked = (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)
        if not {text.strip() for text in asked} <= {turn.content.strip() for turn in first}:
            raise BadRow("prompt and conversation differ", "the prompt is no turn of the conversations")
        return pair(first, chosen, rejected, values)
    return pair(talk.prompt_turns(prompt), chosen, rejected, values)


def read_step_preference(values: Values) -> Parsed:
    """Read two next steps of one solution (Step-DPO): what was written before stands in both responses."""
    begun = cells.text(values, "initial_reason_steps") if values.get("initial_reason_steps") is not None else ""
    steps = [cells.text(values, side) for side in ("chosen", "rejected")]
    chosen, rejected = (Response(reply(begun + step), goes_on=True) for step in steps)
    return Parsed((Message("user", cells.text(values, "prompt")),), (chosen, rejected), is_pair=True, fields=True)


def read_implicit(values: Values) -> Parsed:
    """Read chosen and rejected that hold their prompt."""
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return pair(*talk.split_text(chosen, rejected), values)
    return pair(*talk.split_turns(reply(chosen), reply(rejected)), values)


def read_question_pair(values: Values) -> Parsed:
    """Read a question in a column of its own, and two answers."""
    prompt = question(values, "question", "instruction", "input")
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    fields = isinstance(chosen, str) and isinstance(rejected, str)
    return pair(prompt, reply(chosen), reply(rejected), values, fields=fields)


def read_conversation_pair(values: Values) -> Parsed:
    """Read a conversation to answer, and two answers."""
    prompt = cells.turns(values, "conversations")
    return pair(prompt, reply(cells.content(values, "chosen")), reply(cells.content(values, "rejected")), values)


def read_comparison(values: Values) -> Parsed:
    """Read a summary comparison, with the prompt as the TL;DR models of the literature are asked."""
    info, summaries, choice = values["info"], cells.records(values, "summaries", "text"), values.get("choice")
    if not isinstance(info, Mapping):
        raise BadRow("a column without a record", "column 'info' holds no record")
    if choice not in (0, 1) or len(summaries) != 2:
        raise BadRow("a comparison without a choice", f"choice is {choice!r}, not 0 or 1")
    post = info.get("post")
    if post is None:
        prompt = f"{info.get('article') or ''}\n\nTL;DR:"
    else:
        prompt = f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {post}\n\nTL;DR:"
    texts = [f" {summary['text'].strip()}" for summary in summaries]
    return pair(prompt, texts[choice], texts[1 - choice], values)


def read_instruction_pair(values: Values) -> Parsed:
    """Read an instruction with both answers in one list, the chosen one first."""
    output = cells.items(values, "output")
    if len(output) != 2 or not all(isinstance(text, str) for text in output):
        raise BadRow("an output that is no pair", "column 'output' is not [chosen, rejected]")
    return pair(question(values, "instruction"), reply(output[0]), reply(output[1]), values, fields=True)
