"""Refuse a conversation of which the chat template would leave something out: nothing is lost in silence."""

from collections.abc import Sequence
from dataclasses import replace

from tokenq.data.chat.template import Write, writes_alike
from tokenq.data.chat.thoughts import thoughts_of
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message

_HINT = "Give a template that does with --chat-template FILE[, or leave the row out with --bad-rows drop]."


def refuse_unwritten_tools(asked: Sequence[Message], write: Write, without: Write) -> None:
    """Refuse tools of which the template writes nothing.

    Args:
        asked: the turns of a prompt.
        write: writes turns with the tools.
        without: writes them without.

    Raises:
        BadRow: both write the same.
    """
    written = write(asked, True)
    try:
        same = written == without(asked, True)
    except BadRow:  # it needs tools
        return
    if same:
        raise BadRow(
            "tools that are not written", "the row has tools, and the chat template does not write them", _HINT
        )


def refuse_unwritten(turns: tuple[Message, ...], first: int, write: Write) -> None:
    """Refuse turns from a place on with tool calls, or results of tools, that the template does not write.

    Of turns alike (with so many calls, of a tool) the first is tried: a template goes by what a turn has.

    Raises:
        BadRow: says which.
    """
    tried: set[tuple[str, int]] = set()
    for place, turn in enumerate(turns[first:], first):
        kind = turn.role, len(turn.tool_calls)
        asks = turn.tool_calls or (turn.role == "tool" and turn.content.strip())
        if not asks or kind in tried:
            continue
        tried.add(kind)
        less = replace(turn, tool_calls=turn.tool_calls[:-1]) if turn.tool_calls else replace(turn, content="")
        if writes_alike(turns[:place], turn, less, write):
            every = "all " if len(turn.tool_calls) > 1 else ""
            what, said = ("tool calls", f"{every}the tool calls of") if turn.tool_calls else _RESULTS
            raise BadRow(
                f"{what} that are not written", f"the chat template does not write {said} turn {place + 1}", _HINT
            )


_RESULTS = ("results of tools", "the result of a tool in")


def refuse_lost_thoughts(turns: tuple[Message, ...], write: Write) -> None:
    """Refuse a last turn whose thoughts the template does not write.

    Raises:
        BadRow: it writes the same without them.
    """
    turn = turns[-1]
    other = replace(turn, reasoning="", content=turn.content.rpartition("</think>")[2])
    if (turn.reasoning or turn.tool_calls) and thoughts_of(turn) and writes_alike(turns[:-1], turn, other, write):
        said = "the chat template does not write the reasoning of the last turn"
        hint = "Put it into the text of the turn, as the model is to write it[, or give another --chat-template FILE]."
        raise BadRow("reasoning that is not written", said, hint)
