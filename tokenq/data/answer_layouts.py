"""Layouts of single responses, which are there to be imitated."""

from tokenq.data import cells
from tokenq.data import turns as talk
from tokenq.data.cells import Values
from tokenq.data.parsed import Parsed, question, reply
from tokenq.records import Response


def read_completion(values: Values) -> Parsed:
    """Read a prompt and a response."""
    prompt, name = cells.content(values, "prompt"), "completion" if "completion" in values else "response"
    content = cells.content(values, name)
    if not isinstance(prompt, str) or not isinstance(content, str):
        prompt, content = talk.prompt_turns(prompt), reply(content)
    return Parsed(prompt, (Response(content),))


def read_messages(values: Values) -> Parsed:
    """Read a conversation: its last turns from the assistant's first on are the response."""
    turns = cells.turns(values, "messages" if "messages" in values else "conversations")
    prompt, response = talk.split_messages(turns)
    return Parsed(prompt, (Response(response),))


def read_instruction(values: Values) -> Parsed:
    """Read an instruction, with an input below it, and the answer."""
    return Parsed(question(values, "instruction"), (Response(reply(cells.text(values, "output"))),), fields=True)


def read_answer(values: Values) -> Parsed:
    """Read a question and its answer."""
    return Parsed(question(values, "question"), (Response(reply(cells.text(values, "answer"))),), fields=True)


def read_text(values: Values) -> Parsed:
    """Read a text: a transcript is split behind its last marker, other text has no prompt."""
    prompt, response = talk.split_transcript(cells.text(values, "text"))
    return Parsed(prompt, (Response(response),))
