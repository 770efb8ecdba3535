"""Render examples to text: apply chat templates and mark what the assistant wrote.

The prompt is rendered with the header of an assistant turn at its end, the whole conversation without; where they part
is decided in token space by `tokenize`. Several assistant turns in one response are told apart from what stands
between them by the template's own `{% generation %}` marks, else by rendering the conversation turn by turn.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

from tokenq.data.chat.completeness import refuse_lost_thoughts, refuse_unwritten, refuse_unwritten_tools
from tokenq.data.chat.template import Tokenizer, Write, apply, is_dated, template_options, template_writer
from tokenq.data.chat.thoughts import text_thoughts, thoughts_of, with_thoughts_in_place
from tokenq.data.chat.turn_spans import Conversation, Span, as_generated, assistant_spans, end_of_turn, learnt
from tokenq.data.turns import ASSISTANT, HUMAN, BadRow
from tokenq.records.examples import ContextMessage, Example, Message

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


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
        rewritten_turns: whether turns of the assistant are masked, as the template writes them otherwise once others
            follow.
    """

    full: str
    trimmed: bool = False
    spans: tuple[Span, ...] | None = None
    token_mask: tuple[int, ...] | None = None
    rewritten_turns: bool = False


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
    options = template_options(tokenizer, example.context)
    template, writer = options["chat_template"], template_writer(tokenizer, options)
    asked = with_thoughts_in_place((turn for turn in example.prompt if isinstance(turn, Message)), template)
    prompt = writer(asked, True)
    if options.get("tools"):
        refuse_unwritten_tools(asked, writer, template_writer(tokenizer, {**options, "tools": None}))
    refuse_unwritten(asked, 0, writer)
    responses = []
    for response in example.responses:
        if isinstance(response.content, str):
            raise BadRow("text and turns", "the prompt is a conversation, but a response is text; give both alike")
        write = cache(writer)  # for one response: JSON of true and of 1 differ, and the turns do not
        turns = (*asked, *with_thoughts_in_place(response.content, template))
        refuse_unwritten(turns, len(asked), write)
        whole = write(turns, False)
        ends = end_of_turn(write, turns[:-1]) if turns[-1].tool_calls else _closing(whole, turns[-1].content)
        _refuse_ends(turns[len(asked) :], {marks[0], ends.strip()} & {*marks})
        thoughtful = _with_thoughts(whole, turns, write)
        if thoughtful is None:
            refuse_lost_thoughts(turns, write)
            before = prompt if len(response.content) == 1 else write(turns[:-1], True)
            thoughtful = as_generated(turns, before, whole, write)
        if response.goes_on:
            whole = _up_to(whole, turns[-1].content)
        full = (thoughtful or whole).rstrip()
        talk = Conversation(turns, len(asked), prompt, full, write, marks)
        marked = _GENERATION.search(template) is not None and not thoughtful
        how = {**options, "tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
        mask = tuple(apply(tokenizer, turns, how)["assistant_masks"]) if marked else None
        responses.append(_written(talk, full != (thoughtful or whole), mask))
    return RenderedExample(prompt, tuple(responses), True, is_dated(tokenizer, example.context, prompt))


def _written(talk: Conversation, trimmed: bool, mask: tuple[int, ...] | None) -> RenderedResponse:
    """Return a response with its learnt spans: as the template marks them, else as its turns are found."""
    asks = any(isinstance(turn, ContextMessage) or thoughts_of(turn) for turn in talk.turns[talk.first :])
    if mask is not None and not asks:
        return RenderedResponse(talk.full, trimmed, token_mask=mask)
    spans, lost = assistant_spans(talk)
    if mask is None:
        return RenderedResponse(talk.full, trimmed, learnt(talk, spans), rewritten_turns=lost)
    return RenderedResponse(talk.full, trimmed, learnt(talk, spans), mask, rewritten_turns=lost)


def _refuse_ends(turns: Sequence[Message], ends: Collection[str]) -> None:
    """Refuse an assistant turn with text after a token that ends it."""
    for turn in turns:
        said = turn.content.rstrip()
        calls = json.dumps(turn.tool_calls, ensure_ascii=False)
        for end in ends if turn.role == "assistant" else ():
            if end in said.removesuffix(end) or end in turn.reasoning or end in calls:
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
    content, thoughts = turns[-1].content, text_thoughts(turns[-1].content)
    answer = content.rpartition("</think>")[2]
    if not thoughts or not answer.strip() or thoughts in whole or answer.strip() not in whole:
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
