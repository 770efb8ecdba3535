"""Render examples to text: apply chat templates and mark what the assistant wrote.

The prompt is rendered with the header of an assistant turn at its end, the whole conversation without; where they part
is decided in token space by `tokenize`. Several assistant turns in one response are told apart from what stands
between them by the template's own `{% generation %}` marks, else by rendering the conversation turn by turn.
"""

import datetime
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenq.data.turn_spans import Conversation, Span, Write, assistant_spans, learnt
from tokenq.data.turns import ASSISTANT, HUMAN, BadRow
from tokenq.records.examples import ContextMessage, Example, Message

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Tokenizer(Protocol):
    """The tokenizer methods used here; those of `transformers` fit."""

    bos_token_id: int | None
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


@dataclass(frozen=True)
class RenderedResponse:
    """One response as text, after its prompt.

    Attributes:
        full: the whole text, prompt and response, without blanks behind the end of the last turn.
        trimmed: whether such blanks were cut off.
        spans: stretches of `full` that the assistant wrote; a start of 0 stands for where the response begins. None
            when it wrote all of the response.
        token_mask: what the template marks: 1 for each token of `full` that the assistant wrote; of it counts what lies
            in `spans`, where there are any.
        last_turn_only: whether earlier turns of the assistant could not be told apart and are masked.
    """

    full: str
    trimmed: bool = False
    spans: tuple[Span, ...] | None = None
    token_mask: tuple[int, ...] | None = None
    last_turn_only: bool = False


@dataclass(frozen=True)
class RenderedExample:
    """An example as text.

    Attributes:
        prompt: the text of the prompt.
        responses: one for each response of the example.
        is_chat: whether a chat template made the text.
        is_dated: whether the template has written a date.
    """

    prompt: str
    responses: tuple[RenderedResponse, ...]
    is_chat: bool
    is_dated: bool = False

    @property
    def is_rewritten(self) -> bool:
        """Whether the template writes the prompt differently once a response follows."""
        return not all(response.full.startswith(self.prompt) for response in self.responses)


def render(example: Example, tokenizer: Tokenizer, marks: Sequence[str] = ()) -> RenderedExample:
    """Return the text of an example's prompt and of each response after it.

    Args:
        example: what is written.
        tokenizer: has the chat template.
        marks: the tokenizer's special tokens as text, EOS first.

    Raises:
        BadRow: a conversation without a chat template, or one that the template refuses; text that no tokenizer reads;
            a response that goes on after its end; turns of the assistant that cannot be found in the template's text.
    """
    if isinstance(example.prompt, str):
        rendered = _plain_example(example, tokenizer)
    else:
        rendered = _chat(example, tokenizer, marks or (str(tokenizer.eos_token),))
    for text in (rendered.prompt, *(response.full for response in rendered.responses)):
        refuse_halves(text)
    return rendered


def refuse_halves(text: str) -> None:
    """Refuse text with a lone surrogate, which JSON can hold and UTF-8 cannot.

    Raises:
        BadRow: says which half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        half = f"\\u{ord(text[problem.start]):04x}"
        raise BadRow(
            "half a character", f"the text holds {half}, half of a surrogate pair: a character was cut"
        ) from None


def _plain_example(example: Example, tokenizer: Tokenizer) -> RenderedExample:
    contents = [response.content for response in example.responses]
    texts = [_plain(str(example.prompt), content, tokenizer) for content in contents if isinstance(content, str)]
    if len(texts) < len(contents):
        raise BadRow("text and turns", "the prompt is text, but a response is a conversation; give both alike")
    return RenderedExample(str(example.prompt), tuple(texts), False)


def _chat(example: Example, tokenizer: Tokenizer, marks: Sequence[str]) -> RenderedExample:
    asked = tuple(turn for turn in example.prompt if isinstance(turn, Message))
    if tokenizer.chat_template is None:
        raise BadRow(
            "no chat template",
            "the data holds conversations, but the tokenizer has no chat template",
            "Give data with plain-text prompts and responses[, or a template with --chat-template FILE].",
        )
    template = tokenizer.get_chat_template(tools=example.context.get("tools"))
    options = {**example.context, "chat_template": with_fixed_date(template)}

    def write(turns: Sequence[Message], header: bool) -> str:
        how = {**options, "add_generation_prompt": header, "tokenize": False}
        return str(_apply(tokenizer, turns, how))

    prompt = write(asked, True)
    responses = []
    for response in example.responses:
        if isinstance(response.content, str):
            raise BadRow("text and turns", "the prompt is a conversation, but a response is text; give both alike")
        turns = (*asked, *response.content)
        whole = write(turns, False)
        closing = _closing(whole, response.content[-1].content)
        _refuse_ends([*response.content], {marks[0], closing.strip()} & {*marks})
        thoughtful = _with_thoughts(whole, turns, write)
        if response.goes_on:
            whole = _up_to(whole, response.content[-1].content)
        full = (thoughtful or whole).rstrip()
        talk = Conversation(turns, len(asked), prompt, full, write, marks)
        marked = _GENERATION.search(template) is not None and not thoughtful
        how = {**options, "tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
        mask = tuple(_apply(tokenizer, turns, how)["assistant_masks"]) if marked else None
        responses.append(_written(talk, full != (thoughtful or whole), mask))
    return RenderedExample(prompt, tuple(responses), True, _is_dated(template, prompt))


def _written(talk: Conversation, trimmed: bool, mask: tuple[int, ...] | None) -> RenderedResponse:
    """Return a response with its learnt spans: as the template marks them, else as its turns are found."""
    context = any(isinstance(turn, ContextMessage) for turn in talk.turns)
    if mask is not None and not context:
        return RenderedResponse(talk.full, trimmed, token_mask=mask)
    spans, lost = assistant_spans(talk)
    if mask is None:
        return RenderedResponse(talk.full, trimmed, learnt(talk, spans), last_turn_only=lost)
    return RenderedResponse(talk.full, trimmed, learnt(talk, spans), mask, last_turn_only=lost)


DATE = datetime.date(2024, 7, 26)
"""What every chat template that asks for today's date is told, in every command and on every day.

With the day's own date the same data would have other tokens tomorrow. It is what the templates that ask (Llama 3.1
and later) write themselves where nobody tells them. `chat_template_kwargs` of a row may say another (date_string).
"""


def with_fixed_date(template: str) -> str:
    """Return the chat template with every date replaced by `DATE`."""
    return _TODAY.sub(lambda found: repr(DATE.strftime(found[2])), template)


_TODAY = re.compile(r"strftime_now\(\s*(?:format\s*=\s*)?(['\"])(.*?)\1\s*\)")


def _is_dated(template: str, prompt: str) -> bool:
    return any(DATE.strftime(form) in prompt for _, form in _TODAY.findall(template))


_REFUSED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _apply(tokenizer: Tokenizer, turns: Sequence[Message], options: Mapping[str, Any]) -> Any:
    from jinja2 import TemplateError

    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        return tokenizer.apply_chat_template(conversation, **options)
    except (TemplateError, *_REFUSED) as error:  # a template is a program of somebody else
        roles = " ".join(turn.role for turn in turns)
        raise BadRow(
            "refused by the chat template",
            f"the chat template refuses the conversation ({roles}): {(str(error) or type(error).__name__)[:200]}",
            "Mend the row, or leave it out with --bad-rows drop[, or give another template with --chat-template FILE].",
        ) from error


def _refuse_ends(turns: Sequence[Message], ends: Collection[str]) -> None:
    """Refuse an assistant turn with text after a token that ends it."""
    for turn in turns:
        said = turn.content.rstrip()
        for end in ends if turn.role == "assistant" else ():
            if end in said.removesuffix(end):
                raise BadRow(INSIDE, f"a turn of the assistant goes on after {end!r}, which ends it")


INSIDE = "EOS inside a response"


def _closing(whole: str, content: str) -> str:
    """Return the text that the template writes after the last turn's content."""
    return whole.rpartition(content.strip())[2] if content.strip() else ""


def _up_to(whole: str, content: str) -> str:
    """Return a rendered conversation up to the end of its last turn's text, without what closes the turn."""
    place = whole.rfind(content.strip())
    if place < 0:
        raise BadRow("assistant turn not found in the chat template's text")
    return whole[: place + len(content.strip())]


def _with_thoughts(whole: str, turns: Sequence[Message], write: Write) -> str | None:
    """Return the conversation with the last turn's reasoning put back if the template drops it, else None.

    Templates of reasoning models drop the thoughts of turns that are over, and some take the last turn for one. What
    the model is to write is what it would write when asked: behind the header, which may have opened the thoughts.
    """
    content = turns[-1].content
    thoughts, found, answer = content.rpartition("</think>")
    thoughts = thoughts.rpartition("<think>")[2].strip()
    if not found or not thoughts or not answer.strip() or thoughts in whole or answer.strip() not in whole:
        return None
    asked = write(turns[:-1], True)
    opened = asked.rstrip().endswith("<think>")
    said = content.partition("<think>")[2].lstrip("\n") if opened and "<think>" in content else content
    return f"{asked}{said.rstrip()}{_closing(whole, answer)}"


def _plain(prompt: str, content: str, tokenizer: Tokenizer) -> RenderedResponse:
    """Return a plain-text response; spans leave out other speakers of a transcript."""
    kept = content.rstrip() if content.rstrip().endswith(str(tokenizer.eos_token)) else content
    full = prompt + kept
    if HUMAN not in kept or ASSISTANT not in prompt:
        return RenderedResponse(full, kept != content)
    spans: list[Span] = []
    start = 0
    while start >= 0:
        place = start or len(prompt)
        end = full.find(HUMAN, place)
        spans.append((start, len(full) if end < 0 else end))
        start = -1 if end < 0 else full.find(ASSISTANT, end)
        start = start + len(ASSISTANT) if start >= 0 else -1
    return RenderedResponse(full, kept != content, tuple(spans))
