"""The tokens of a conversation while it goes on: what stands before each action, as ids that are never made anew.

An action stays the ids that were sampled. What follows it is the text that the chat template writes behind it, once it
is proven that the template writes what stood before the action, and the action, as they were. A template that rewrites
the past (it drops earlier reasoning, or moves the tools) starts over there: the ids of the whole conversation, of
which the tokens before are no prefix.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tokenq.data.chat.rendering import refuse_halves
from tokenq.data.chat.template import Tokenizer, Write, template_options, template_writer
from tokenq.data.encoding import Encoder, whole_text
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Message, Text

PLAIN_HEADER = "\n> "
"""What invites an action where the tokenizer has no chat template."""


@dataclass(frozen=True)
class DialogueState:
    """A conversation in front of an action.

    Attributes:
        turns: of the conversation so far, the instructions first.
        text: of all of it, as the template writes it, up to where the action begins.
        ids: of all of it: what the action is sampled behind.
        observation_ids: the last of `ids`, which came since the action before; all of them at the start and where the
            template has rewritten the past.
        starts_over: whether the past was rewritten, so that the ids before and the action are no prefix of `ids`.
    """

    turns: tuple[Message, ...]
    text: str
    ids: tuple[int, ...]
    observation_ids: tuple[int, ...]
    starts_over: bool = False


@dataclass(frozen=True)
class Dialogue:
    """How conversations become tokens.

    Attributes:
        encoder: texts to ids.
        write: turns to the text in front of the next action.
        instructions: the turns before the first observation.
    """

    encoder: Encoder
    write: Callable[[Sequence[Message]], str]
    instructions: tuple[Message, ...]

    def start(self, observation: Text) -> DialogueState:
        """Return a conversation in front of its first action.

        Args:
            observation: what the environment says, as a user's text or as turns.

        Raises:
            UserError: the chat template refuses it.
        """
        turns = (*self.instructions, *_turns(observation))
        text = self._written(turns)
        ids = self._whole(text)
        return DialogueState(turns, text, ids, ids)

    def action_ids(self, action: str) -> tuple[int, ...]:
        """Return an action that nobody sampled (an expert's) as ids, with the EOS that ends it."""
        return (*self._amid(action, self.encoder.marks[0]), self.encoder.eos)

    def extend(self, state: DialogueState, action_ids: Sequence[int], action: str, observation: Text) -> DialogueState:
        """Return a conversation in front of the next action.

        Blanks at the ends of an action that the template would cut off stay, as they were sampled.

        Args:
            state: the conversation before the last action.
            action_ids: the action as it was sampled, with the token that ended it where there is one.
            action: its text, without that token.
            observation: what the environment answered.

        Raises:
            UserError: the chat template refuses it.
        """
        opened = re.search(r"<think>\s*$", state.text)  # by the header, and the turn itself has to say it again
        said = Message("assistant", (opened[0] if opened else "") + action)
        turns = (*state.turns, said, *_turns(observation))
        text = self._written(turns)
        rest, end = _behind(text, state.text, action), self._end(action_ids)
        if rest is None or not rest.startswith(end):
            ids = self._whole(text)
            return DialogueState(turns, text, ids, ids, starts_over=True)
        new = self._amid(rest.removeprefix(end), end or self.encoder.marks[0])
        return DialogueState(turns, text, (*state.ids, *action_ids, *new), new)

    def _written(self, turns: Sequence[Message]) -> str:
        try:
            text = self.write(turns)
            refuse_halves(text)
        except BadRow as problem:
            raise UserError(f"A conversation cannot be written: {problem.detail}.", _HINT) from problem
        return text

    def _whole(self, text: str) -> tuple[int, ...]:
        return tuple(self.encoder.encode([text])[text].ids.tolist())

    def _amid(self, text: str, before: str) -> tuple[int, ...]:
        """Return the ids of a text behind special tokens: at the start of a text some tokenizers put a blank."""
        found = self.encoder.tokenizer([before, before + text], add_special_tokens=False)["input_ids"]
        return tuple(found[1][len(found[0]) :])

    def _end(self, action_ids: Sequence[int]) -> str:
        """Return the special tokens at the end of an action that may close it, as text."""
        end, tokenizer = "", self.encoder.tokenizer
        none = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} - {self.encoder.eos}
        for token in reversed(action_ids):
            said = whole_text(tokenizer, [token])
            if token in none or said not in self.encoder.marks:
                break
            end = said + end
        return end


_HINT = "Take an environment that says less[, or give a template that can with --chat-template FILE]."


def open_dialogue(tokenizer: Tokenizer, instructions: str = "", tools: Sequence[Mapping[str, Any]] = ()) -> Dialogue:
    """Return how conversations become tokens of a model.

    With the tokenizer's chat template, else as plain text: what is said, a line that begins with "> " for each action,
    and EOS behind it.

    Args:
        tokenizer: a tokenizer of `transformers`.
        instructions: a system text; in front of the first observation where the template has no system turn.
        tools: JSON schemas of the functions that may be called.

    Raises:
        UserError: tools that cannot be written: there is no chat template, or it does not write them or their results.
    """
    encoder = Encoder.of(tokenizer)
    system = (Message("system", instructions),) if instructions else ()
    if tokenizer.chat_template is None:
        if tools:
            raise UserError("The tokenizer has no chat template, so tools cannot be written.", _TOOLS)
        return Dialogue(encoder, partial(_plain, encoder.marks[0]), system)
    chat = template_writer(tokenizer, template_options(tokenizer, {}))
    write = template_writer(tokenizer, template_options(tokenizer, {"tools": [*tools]})) if tools else chat
    form = _headed if not system or _writes(chat, (*system, _PROBE)) else _joined
    try:
        if tools and form(write, (*system, _PROBE)) == form(chat, (*system, _PROBE)):
            raise BadRow("the chat template does not write tools")
        if tools:  # sooner than amid an episode
            form(write, (*system, _PROBE, Message("assistant", "Good."), _RESULT))
    except BadRow as problem:
        raise UserError(f"Tools cannot be written: {problem.detail}.", _TOOLS) from problem
    return Dialogue(encoder, partial(form, write), system)


_TOOLS = "Take a model that calls tools[, or give its template with --chat-template FILE]."
_PROBE = Message("user", "Hello.")
_RESULT = Message("tool", "Well.", tool_call_id="000000000", name="f")


def _headed(write: Write, turns: Sequence[Message]) -> str:
    return write(turns, True)


def _joined(write: Write, turns: Sequence[Message]) -> str:
    """Return a conversation whose system turn stands at the head of the first turn of the user."""
    system, first, *others = turns
    return write((replace(first, content=f"{system.content}\n\n{first.content}"), *others), True)


def _writes(write: Write, turns: Sequence[Message]) -> bool:
    """Return whether a template takes turns, and writes the text of the first."""
    try:
        return turns[0].content.strip() in write(turns, True)
    except BadRow:
        return False


def _plain(eos: str, turns: Sequence[Message]) -> str:
    """Return a conversation as plain text in front of the next action."""
    text = ""
    for turn in turns:
        if turn.role == "assistant":
            text += f"{PLAIN_HEADER}{turn.content}{eos}"
        else:
            text += f"\n{turn.content}" if text else turn.content
    return text + PLAIN_HEADER


def _turns(observation: Text) -> tuple[Message, ...]:
    return (Message("user", observation),) if isinstance(observation, str) else observation


def _behind(text: str, before: str, action: str) -> str | None:
    """Return what a text has behind an action, None where what stands before it or the action was rewritten."""
    for said in (action, action.rstrip(), action.lstrip(), action.strip()):
        if text.startswith(before + said):
            return text[len(before + said) :]
    return None
