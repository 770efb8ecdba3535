"""Read conversations and transcripts: turns, implicit prompts, and the two styles of prompts.

An implicit prompt is what chosen and rejected have in common, cut back to a place where a response can begin: an
assistant turn of a conversation or of a transcript, else a blank or a line break, and never the inside of a word. This
module knows no tokens; where a prompt ends in token space is decided when it is tokenised.
"""

import re
from collections.abc import Sequence
from typing import Any

from tokenq.records.examples import ContextMessage, Message, Text

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

_CJK_STOPS = "。！？；：，、"


class BadRow(Exception):
    """A row that cannot be used.

    Args:
        reason: a fixed phrase, under which such rows are counted.
        detail: what is wrong in this row, for the error message; the reason when left out.
        hint: what to do about it, where there is more to say than of any bad row.
    """

    def __init__(self, reason: str, detail: str = "", hint: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail or reason
        self.hint = hint


def learnt_turns(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns of a response up to the last that is learnt.

    Raises:
        BadRow: none is.
    """
    last = max((place for place, turn in enumerate(turns) if is_learnt(turn)), default=-1)
    if last < 0 and any(isinstance(turn, ContextMessage) for turn in turns):
        raise BadRow("no turn to learn", "every turn of the assistant is marked as not to be learnt")
    return tuple(turns[: last + 1]) if any(isinstance(turn, ContextMessage) for turn in turns) else tuple(turns)


def is_learnt(turn: Message) -> bool:
    """Return whether the assistant says a turn and it is learnt."""
    return turn.role == "assistant" and not isinstance(turn, ContextMessage)


def split_turns(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Return (prompt, chosen, rejected) of two whole conversations.

    The prompt is their longest common run of turns after which both go on with an assistant turn.
    """
    systems = [turn.content for turns in (chosen, rejected) for turn in turns[:1] if turn.role == "system"]
    if len(systems) == 1:
        raise BadRow(
            "a system turn on one side", "chosen or rejected begins with a system turn, and the other does not"
        )
    common = common_length(chosen, rejected)
    starts = [
        index
        for index in range(min(common, len(chosen) - 1, len(rejected) - 1), 0, -1)
        if chosen[index].role == rejected[index].role == "assistant"
    ]
    if not starts:
        raise BadRow("no common prompt", "chosen and rejected share no turns before an assistant turn")
    return chosen[: starts[0]], chosen[starts[0] :], rejected[starts[0] :]


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the length of the longest common prefix."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)


def split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Return (prompt, chosen, rejected) of two whole texts.

    A transcript is split after the last common `\n\nAssistant:`. Other text is split at the last common place that is
    not inside a word and leaves both responses something to say: blanks go with the response, as tokenizers expect
    (`"The sky is"`, `" blue"`), line breaks with the prompt.
    """
    common = chosen[: common_length(chosen, rejected)]
    place = common.rfind(ASSISTANT)
    if place >= 0:
        place += len(ASSISTANT)
        return common[:place], chosen[place:], rejected[place:]
    for place in range(len(common), 0, -1):
        if _between_words(chosen, place) and _between_words(rejected, place):
            prompt, first, second = common[:place], chosen[place:], rejected[place:]
            if prompt.strip() and first.strip() and second.strip():
                return prompt, first, second
    raise BadRow("no common prompt", "chosen and rejected begin differently, so they hold no prompt")


def _between_words(text: str, place: int) -> bool:
    """Return whether a response may begin at `place`: at the first blank of a run, or after a line break."""
    before, after = text[place - 1], text[place : place + 1]
    if before in "\n\r":
        return before + after != "\r\n"
    return (after in (" ", "\t") and not before.isspace()) or before in _CJK_STOPS


def split_transcript(text: str) -> tuple[str, str]:
    """Return (prompt, response) of one transcript, split after its last assistant marker; ("", text) without any."""
    place = text.rfind(ASSISTANT)
    return ("", text) if place < 0 else (text[: place + len(ASSISTANT)], text[place + len(ASSISTANT) :])


def split_messages(turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return (prompt, response) of one conversation: the response runs from its first assistant turn to its last.

    Turns that are not to be learnt (weight 0) count as context at both ends; what comes after the response is left out.
    """
    places = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not places:
        raise BadRow("no assistant turn", "the conversation has no assistant turn")
    taught = [index for index in places if is_learnt(turns[index])]
    if not taught:
        raise BadRow("no turn to learn", "every turn of the assistant is marked as not to be learnt")
    return turns[: taught[0]], turns[taught[0] : taught[-1] + 1]


def plain_prompt(turns: Sequence[Message]) -> str:
    """Return turns of named fields (system, question) as plain text that ends in a line break."""
    text = "\n\n".join(turn.content for turn in turns if turn.content.strip())
    return text if text[-1:].isspace() else f"{text}\n"


def transcript_turns(text: str) -> tuple[Message, ...]:
    """Return the turns of an HH transcript; text before the first marker is a system turn, an open turn is left out."""
    pieces = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    turns = [Message("system", pieces[0].strip())]
    turns += [
        Message("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    return tuple(turn for turn in turns if turn.content)


def prompt_turns(prompt: Text) -> tuple[Message, ...]:
    """Return a prompt as turns: the turns of a transcript, else one user turn."""
    if not isinstance(prompt, str):
        return prompt
    return transcript_turns(prompt) if ASSISTANT in prompt else (Message("user", prompt.strip()),)


def response_turns(content: Text, prompt: str) -> tuple[Message, ...]:
    """Return a response as turns: an assistant turn, and those after it where the prompt's transcript goes on."""
    if not isinstance(content, str):
        return content
    if ASSISTANT in prompt:
        return transcript_turns(f"{ASSISTANT}{content}")
    return (Message("assistant", content.strip()),)
