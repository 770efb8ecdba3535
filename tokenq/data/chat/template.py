"""Apply a tokenizer's chat template, a program of somebody else: what it is given, and what its refusal means."""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tokenq.data.chat.thoughts import field_of_thoughts
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message

Write = Callable[[Sequence[Message], bool], str]
"""(turns, whether the header of an assistant's turn follows) → text."""


class Tokenizer(Protocol):
    """The tokenizer methods used here; those of `transformers` fit."""

    bos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    eos_token_id: int | None
    eos_token: Any
    chat_template: Any
    added_tokens_decoder: Mapping[int, Any]

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Return a mapping with "input_ids", a list of ids for each text."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Return a conversation as text, or as a mapping of ids and masks."""
        ...

    def get_chat_template(self, chat_template: str | None = None, tools: list[Any] | None = None) -> str:
        """Return the template in use."""
        ...


DATE = datetime.date(2024, 7, 26)
"""What every chat template that asks for today's date is told, in every command and on every day.

With the day's own date the same data would have other tokens tomorrow. It is what the templates that ask (Llama 3.1
and later) write themselves where nobody tells them. `chat_template_kwargs` of a row may say another (date_string).
"""


def with_fixed_date(template: str) -> str:
    """Return the chat template with every date replaced by `DATE`."""
    return _TODAY.sub(lambda found: repr(DATE.strftime(found[2])), template)


_TODAY = re.compile(r"strftime_now\(\s*(?:format\s*=\s*)?(['\"])(.*?)\1\s*\)")


def is_dated(tokenizer: Tokenizer, context: Mapping[str, Any], prompt: str) -> bool:
    """Return whether the template has written a date into the prompt."""
    template = tokenizer.get_chat_template(tools=context.get("tools"))
    return any(DATE.strftime(form) in prompt for _, form in _TODAY.findall(template))


def template_options(tokenizer: Tokenizer, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the chat template, itself among them.

    Args:
        tokenizer: has the template.
        context: arguments that a row gives (`tools`, …).

    Raises:
        BadRow: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise BadRow(
            "no chat template",
            "the data holds conversations, but the tokenizer has no chat template",
            "Give data with plain-text prompts and responses[, or a template with --chat-template FILE].",
        )
    template = tokenizer.get_chat_template(tools=context.get("tools"))
    return {**context, "chat_template": with_fixed_date(template)}


def template_writer(tokenizer: Tokenizer, options: Mapping[str, Any]) -> Write:
    """Return what writes turns with the chat template; it raises BadRow where the template refuses them."""

    def write(turns: Sequence[Message], header: bool) -> str:
        return str(apply(tokenizer, turns, {**options, "add_generation_prompt": header, "tokenize": False}))

    return write


def writes_alike(before: tuple[Message, ...], turn: Message, other: Message, write: Write) -> bool:
    """Return whether a template writes two last turns alike."""
    try:
        return write((*before, turn), False) == write((*before, other), False)
    except BadRow:  # it has looked at them
        return False


_REFUSED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def apply(tokenizer: Tokenizer, turns: Sequence[Message], options: Mapping[str, Any]) -> Any:
    """Return what the chat template makes of turns.

    Raises:
        BadRow: the template refuses them, or fails on them.
    """
    from jinja2 import TemplateError

    field = field_of_thoughts(options["chat_template"])
    conversation = [_renamed(turn.to_dict(), field) for turn in turns]
    try:
        return tokenizer.apply_chat_template(conversation, **options)
    except (TemplateError, *_REFUSED) as error:  # a template is a program of somebody else
        roles = " ".join(turn.role for turn in turns)
        raise BadRow(
            "refused by the chat template",
            f"the chat template refuses the conversation ({roles}): {(str(error) or type(error).__name__)[:200]}",
            "Mend the row, or leave it out with --bad-rows drop[, or give another template with --chat-template FILE].",
        ) from error


def _renamed(turn: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a turn with its thoughts in the field in which the template looks for them."""
    return {field if key == "reasoning_content" and field else key: value for key, value in turn.items()}
