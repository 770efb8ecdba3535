"""What the assistant thought before it spoke: in a field of its own, or in the text between marks."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from tokenq.records.examples import Message


def text_thoughts(content: str) -> str:
    """Return the thoughts that a text begins with, "" if it has none."""
    return content.rpartition("</think>")[0].rpartition("<think>")[2].strip()


def thoughts_of(turn: Message) -> str:
    """Return what a turn's assistant thought, wherever that stands."""
    return turn.reasoning.strip() or text_thoughts(turn.content)


def with_thoughts_in_place(turns: Iterable[Message], template: str) -> tuple[Message, ...]:
    """Return turns with their thoughts where a chat template looks for them.

    One that knows the marks of thoughts and no field for them finds them in the text.
    """
    if field_of_thoughts(template) or "</think>" not in template:
        return tuple(turns)
    return tuple(_in_text(turn) if turn.reasoning else turn for turn in turns)


def _in_text(turn: Message) -> Message:
    return replace(turn, content=f"<think>\n{turn.reasoning.strip()}\n</think>\n\n{turn.content}", reasoning="")


@lru_cache(maxsize=16)
def field_of_thoughts(template: str) -> str:
    """Return the field of a turn in which a chat template looks for thoughts, "" if there is none."""
    return next((name for name in FIELDS if re.search(rf"(?:\.|['\"]){name}\b", template)), "")


FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields of thoughts, in the spellings of data sets and templates."""
