"""Find the assistant's turns in a conversation rendered by a chat template.

A turn is found by writing the conversation up to it. It reaches to its end mark where the template has one, wherever
that is written: with the turn, only behind the last turn, or as the first thing of the next.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenq.data.chat.template import Write, writes_alike
from tokenq.data.chat.thoughts import thoughts_of
from tokenq.data.turns import BadRow, common_length
from tokenq.records.examples import ContextMessage, Message

Span = tuple[int, int]


class Conversation(NamedTuple):
    """A conversation with its rendering.

    Attributes:
        turns: prompt and response.
        first: the number of the first turn of the response.
        prompt: the text of the prompt with the header of the response.
        full: the text of all turns, without blanks behind the last.
        write: writes turns.
        marks: special tokens, EOS first.
    """

    turns: Sequence[Message]
    first: int
    prompt: str
    full: str
    write: Write
    marks: Sequence[str]


def assistant_spans(talk: Conversation) -> tuple[dict[int, Span], bool]:
    """Return the span of each assistant turn in the response by number, and whether one to be learnt was not found.

    A start of 0 stands for where the response begins. A turn that the template writes otherwise once others follow
    (without what was thought there, say), or behind another text than it was written behind, is left out.

    Raises:
        BadRow: not even the last turn can be found.
    """
    places = [index for index in range(talk.first, len(talk.turns)) if talk.turns[index].role == "assistant"]
    found = {index: span for index in places if (span := _span(talk, index)) is not None}
    spans = {index: (0 if index == talk.first else start, end) for index, (start, end) in found.items()}
    if places[-1] not in spans:
        spans[places[-1]] = _last_turn(talk)
    return spans, any(index not in spans and not isinstance(talk.turns[index], ContextMessage) for index in places)


def learnt(talk: Conversation, spans: dict[int, Span]) -> tuple[Span, ...] | None:
    """Return the learnt spans; None for the whole response."""
    taught = [span for index, span in spans.items() if not isinstance(talk.turns[index], ContextMessage)]
    return None if taught == [(0, len(talk.full))] and len(talk.turns) == talk.first + 1 else tuple(taught)


def _span(talk: Conversation, index: int) -> Span | None:
    """Return the span of a turn, None if it cannot be found."""
    turns, full = talk.turns, talk.full
    before = talk.prompt if index == talk.first else talk.write(turns[:index], True)
    start = _begin(before, full)
    if start < len(before) and start < len(talk.write(turns[:index], False).rstrip()):
        return None
    if index == len(turns) - 1:
        return start, len(full)
    after = talk.write(turns[: index + 1], False).rstrip()
    turn = turns[index]
    if turn.reasoning and not _writes_thoughts(talk, index, after[start:]):
        return None
    if full.startswith(after) and len(after) >= start:
        return start, _closed(talk, index, len(after))
    said = _said(talk, index, after[start:])
    lead, found, _ = after[start:].partition(said)
    # Empty thoughts, which some templates write into the last turn alone, are no part of an earlier one.
    leads = [one for one in (lead, "")[: 1 if turn.reasoning else 2] if full.startswith(one + said, start)]
    return (start, _closed(talk, index, start + len(leads[0]) + len(said))) if found and said and leads else None


def _writes_thoughts(talk: Conversation, index: int, written: str) -> bool:
    """Return whether a template writes what was thought before a turn that is the last one."""
    turn, before = talk.turns[index], tuple(talk.turns[:index])
    if len(turn.reasoning) > _TELLING and turn.reasoning.strip() in written:
        return True
    return not writes_alike(before, turn, replace(turn, reasoning=""), talk.write)


_TELLING = 40
"""Characters of which a text is nowhere by chance."""


def _begin(before: str, full: str) -> int:
    """Return where a turn begins behind its header, before thoughts that only the header opens."""
    opened = _OPENED.search(before)
    if opened and not full.startswith(before) and full.startswith(before[: opened.start()]):
        return opened.start()
    return len(before) if full.startswith(before) else common_length(before, full)


def _said(talk: Conversation, index: int, written: str) -> str:
    """Return what a template writes of a turn itself: its text, or all that is not the end of any turn."""
    turn = talk.turns[index]
    if not turn.tool_calls:
        return turn.content.strip()
    said = written.removesuffix(end_of_turn(talk.write, talk.turns[:index]).strip()).strip()
    return said if thoughts_of(turn) else _NO_THOUGHTS.sub("", said)


def end_of_turn(write: Write, before: Sequence[Message]) -> str:
    """Return what a template writes behind the text of an assistant turn that is the last one, "" if it takes none."""
    try:
        return write((*before, Message("assistant", _PROBE)), False).rpartition(_PROBE)[2]
    except BadRow:
        return ""


_PROBE = "Good."
_OPENED = re.compile(r"<think>\s*\Z")
_NO_THOUGHTS = re.compile(r"\A<think>\s*</think>\s*")


def as_generated(turns: Sequence[Message], before: str, whole: str, write: Write) -> str | None:
    """Return a conversation with its last turn behind the text that it was generated behind.

    None where the template writes it so, up to the header of the turn, or where the turn's own text cannot be told.
    Some templates drop what was thought before a tool was called as soon as the answer is there.

    Args:
        turns: of the conversation, the last of them the assistant's.
        before: the text of all but the last, with its header.
        whole: the text of all of them.
        write: writes turns.
    """
    if whole.startswith(before) or turns[-2].role == "assistant":
        return None
    if common_length(before, whole) >= len(write(turns[:-1], False).rstrip()):
        return None
    alone = (*(turn for turn in turns[:1] if turn.role == "system"), Message("user", _PROBE))
    try:
        asked, said = write(alone, True), write((*alone, turns[-1]), False)
    except BadRow:
        return None
    own = said.removeprefix(asked).rstrip()
    return before + own if said.startswith(asked) and whole.rstrip().endswith(own) else None


def _closed(talk: Conversation, index: int, end: int) -> int:
    """Return the end of a turn with the mark that closes it, where the template writes that with the next turn."""
    full, rest = talk.full, talk.full[end:].lstrip()
    mark = next((mark for mark in talk.marks if rest.startswith(mark)), None)
    if mark is None or full[:end].endswith(tuple(talk.marks)):
        return end
    if mark != talk.marks[0] and not _is_apart(talk, index + 1, rest):
        return end
    return len(full) - len(rest) + len(mark)


def _is_apart(talk: Conversation, index: int, rest: str) -> bool:
    """Return whether there is more before a turn than its own header."""
    turn = talk.turns[index]
    try:
        alone = talk.write((turn,), False)
    except BadRow:  # a turn that cannot stand alone tells nothing
        return False
    said = turn.content.strip()
    header, between = alone.partition(said)[0], rest.partition(said)[0]
    return bool(said) and not header.endswith(between)


def _last_turn(talk: Conversation) -> Span:
    """Return the span of the last turn by its header, for templates that rewrite earlier turns."""
    before, header = (talk.write(talk.turns[:-1], asked) for asked in (False, True))
    header = header[common_length(before, header) :]
    for mark in (header, header.partition("\n")[0] + "\n"):
        if mark.strip() and (place := talk.full.rfind(mark)) >= 0:
            return place + len(mark), len(talk.full)
    raise BadRow("assistant turn not found in the chat template's text")
