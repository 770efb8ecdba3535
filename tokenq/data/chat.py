"""Examples to the text that is tokenised: chat templates applied, and the stretches that the assistant wrote marked.

The prompt is rendered with the header of an assistant turn at its end, the whole conversation without; where they part
is decided in token space by `tokenize`. Several assistant turns in one response are told apart from what stands
between them by the template's own `{% generation %}` marks, else by rendering the conversation turn by turn.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenq.data.turns import ASSISTANT, HUMAN, BadRow, common_length
from tokenq.errors import UserError
from tokenq.records import Example, Message

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of `transformers` fit."""

    bos_token_id: int | None
    eos_token_id: int | None
    eos_token: Any
    chat_template: Any

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Return a mapping with "input_ids", a list of ids for each text."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Return a conversation as text, or as a mapping of ids and masks."""
        ...

    def get_chat_template(self, chat_template: str | None = None, tools: list[Any] | None = None) -> str:
        """Return the template in use."""
        ...


@dataclass(frozen=True)
class Written:
    """One response as text, behind its prompt.

    Attributes:
        full: the whole text, prompt and response, without blanks behind the end of the last turn.
        trimmed: whether such blanks were cut off.
        spans: stretches of `full` that the assistant wrote; a start of 0 stands for where the response begins. None
            when it wrote all of the response.
        token_mask: instead of spans, what the template marks: 1 for each token of `full` that the assistant wrote.
        last_turn_only: whether earlier turns of the assistant could not be told apart and are masked.
    """

    full: str
    trimmed: bool = False
    spans: tuple[Span, ...] | None = None
    token_mask: tuple[int, ...] | None = None
    last_turn_only: bool = False


@dataclass(frozen=True)
class Rendered:
    """An example as text.

    Attributes:
        prompt: the text of the prompt.
        responses: one for each response of the example.
        is_chat: whether a chat template made the text.
    """

    prompt: str
    responses: tuple[Written, ...]
    is_chat: bool

    @property
    def is_rewritten(self) -> bool:
        """Whether the template writes the prompt differently once a response follows."""
        return not all(response.full.startswith(self.prompt) for response in self.responses)


Render = Callable[[Sequence[Message], bool], str]


def render(example: Example, tokenizer: Tokenizer) -> Rendered:
    """Return the text of an example and of each response behind its prompt.

    Raises:
        UserError: for conversations without a chat template, and when the template refuses a conversation.
        BadRow: when the assistant's turns cannot be found in what the template made.
    """
    if isinstance(example.prompt, str):
        contents = [response.content for response in example.responses]
        texts = [_plain(example.prompt, content, tokenizer) for content in contents if isinstance(content, str)]
        if len(texts) < len(contents):
            raise UserError(
                f"{example.where}: the prompt is text, but a response is a conversation.", "Give both alike."
            )
        return Rendered(example.prompt, tuple(texts), False)
    if tokenizer.chat_template is None:
        raise UserError(
            f"{example.where}: the data holds conversations, but the tokenizer has no chat template.",
            "Give a template with --chat-template FILE, or data with plain-text prompts and responses.",
        )
    template = tokenizer.get_chat_template(tools=example.context.get("tools"))
    options = {**example.context, "chat_template": template}

    def text(turns: Sequence[Message], header: bool) -> str:
        asked = {**options, "add_generation_prompt": header, "tokenize": False}
        return str(_apply(tokenizer, turns, example.where, asked))

    prompt = text(example.prompt, True)
    marked = _GENERATION.search(template) is not None
    responses = []
    for response in example.responses:
        if isinstance(response.content, str):
            raise UserError(
                f"{example.where}: the prompt is a conversation, but a response is text.", "Give both alike."
            )
        turns = (*example.prompt, *response.content)
        whole = text(turns, False)
        if response.goes_on:
            whole = _up_to(whole, response.content[-1].content)
        full, trimmed = whole.rstrip(), whole != whole.rstrip()
        if marked:
            asked = {**options, "tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
            found = _apply(tokenizer, turns, example.where, asked)
            responses.append(Written(full, trimmed, token_mask=tuple(found["assistant_masks"])))
            continue
        spans, last_turn_only = _spans(turns, len(example.prompt), prompt, full, text)
        responses.append(Written(full, trimmed, spans, last_turn_only=last_turn_only))
    return Rendered(prompt, tuple(responses), True)


def _apply(tokenizer: Tokenizer, turns: Sequence[Message], where: str, options: Mapping[str, Any]) -> Any:
    from jinja2 import TemplateError

    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return tokenizer.apply_chat_template(conversation, **options)
    except (TemplateError, ValueError, TypeError) as error:
        raise UserError(
            f"{where}: the chat template refuses the conversation ({' '.join(turn.role for turn in turns)}): {error}",
            "Mend the row, or give another template with --chat-template FILE.",
        ) from error


def _up_to(whole: str, content: str) -> str:
    """Return a rendered conversation up to the end of its last turn's text, without what closes the turn."""
    place = whole.rfind(content.strip())
    if place < 0:
        raise BadRow("assistant turn not found in the chat template's text")
    return whole[: place + len(content.strip())]


def _plain(prompt: str, content: str, tokenizer: Tokenizer) -> Written:
    """Return a response in plain text; what other speakers say in a transcript is left out of the spans."""
    kept = content.rstrip() if content.rstrip().endswith(str(tokenizer.eos_token)) else content
    full = prompt + kept
    if HUMAN not in kept or ASSISTANT not in prompt:
        return Written(full, kept != content)
    spans: list[Span] = []
    start = 0
    while start >= 0:
        place = start or len(prompt)
        end = full.find(HUMAN, place)
        spans.append((start, len(full) if end < 0 else end))
        start = -1 if end < 0 else full.find(ASSISTANT, end)
        start = start + len(ASSISTANT) if start >= 0 else -1
    return Written(full, kept != content, tuple(spans))


def _spans(
    turns: Sequence[Message], first: int, prompt: str, full: str, text: Render
) -> tuple[tuple[Span, ...] | None, bool]:
    """Return the stretches of `full` that the assistant wrote in turns `first` and later, and whether some were lost.

    None stands for the whole response. A turn reaches to the end of its last token, such as an end-of-turn mark, and
    not over the blanks behind it, which belong to what the template puts between turns.
    """
    places = [index for index in range(first, len(turns)) if turns[index].role == "assistant"]
    spans: list[Span] = []
    for index in places:
        before = prompt if index == first else text(turns[:index], True)
        shared = len(before) if full.startswith(before) else common_length(before, full)
        last = index == len(turns) - 1
        after = full if last else text(turns[: index + 1], False).rstrip()
        known = shared == len(before) or shared >= len(text(turns[:index], False).rstrip())
        if not known or not full.startswith(after):
            return _last_turn(turns, full, text), len(places) > 1
        spans.append((0 if index == first else shared, len(after)))
    return (None if len(turns) - first == 1 else tuple(spans)), False


def _last_turn(turns: Sequence[Message], full: str, text: Render) -> tuple[Span, ...]:
    """Return the stretch of the last turn, found by its header, where the template rewrites what came before it."""
    before, header = text(turns[:-1], False), text(turns[:-1], True)
    header = header[common_length(before, header) :]
    for mark in (header, header.partition("\n")[0] + "\n"):
        if mark.strip() and (place := full.rfind(mark)) >= 0:
            return ((place + len(mark), len(full)),)
    raise BadRow("assistant turn not found in the chat template's text")
