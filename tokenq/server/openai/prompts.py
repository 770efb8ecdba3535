"""From a request to the tokens of its prompts: the same tokens that training, scoring and searching make of a text."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from tokenq.data.chat.messages import as_turns
from tokenq.data.prompts import Prompt, encode_prompts
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.server.errors import ApiError
from tokenq.server.openai.requests import CompletionRequest, Talk, Turn
from tokenq.server.served import Facts


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens.

    Attributes:
        ids: its token ids.
        text: as it was given; None for token ids.
        given: as a search takes it; None for token ids.
    """

    ids: tuple[int, ...]
    text: str | None = None
    given: Prompt | None = None


async def text_prompts(request: CompletionRequest, facts: Facts, most: int) -> list[Asked]:
    """Return the prompts of a completion.

    Raises:
        ApiError: too many, a token that the models do not know, a text without tokens.
    """
    given = request.prompt
    several: Sequence[str | list[int]]
    several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    if len(several) > most:
        raise ApiError(f"prompt: {len(several)} prompts, and at most {most} may come at once.", param="prompt")
    texts = {place: one for place, one in enumerate(several) if isinstance(one, str)}
    found: dict[int, Asked] = {}
    if texts:
        prompts = [Prompt(str(place), text, "prompt") for place, text in texts.items()]
        ids = await encoded(prompts, facts, "prompt")
        found |= {
            place: Asked(own, text, prompt)
            for (place, text), own, prompt in zip(texts.items(), ids, prompts, strict=True)
        }
    for place, one in enumerate(several):
        if not isinstance(one, str):
            check_ids(one, facts, "prompt")
            found[place] = Asked(tuple(one))
    return [found[place] for place in range(len(several))]


def check_ids(ids: Sequence[int], facts: Facts, param: str) -> None:
    """Refuse token ids that the policy does not have.

    Raises:
        ApiError: names the first.
    """
    odd = next((one for one in ids if not 0 <= one < facts.size), None)
    if odd is not None:
        raise ApiError(f"{param}: token id {odd} is out of vocabulary, which has {facts.size} tokens.", param=param)


async def talk_prompt(request: Talk, facts: Facts) -> Asked:
    """Return the conversation of a chat, with the header of the assistant's turn behind it.

    Raises:
        ApiError: there is no chat template, or it refuses the conversation; a turn that cannot be read.
    """
    prompt = prompt_of_talk(request)
    (ids,) = await encoded([prompt], facts, "messages")
    return Asked(ids, None, prompt)


def prompt_of_talk(request: Talk) -> Prompt:
    """Return a conversation as data has it, with what its chat template is told.

    Raises:
        ApiError: a turn that cannot be read.
    """
    try:
        turns = as_turns([_turn(one) for one in request.messages])
    except BadRow as problem:
        raise ApiError(f"messages: {problem.detail}.", param="messages", code="invalid_value") from None
    context = dict(request.chat_template_kwargs or {})
    if odd := next((name for name in context if name in _TAKEN), None):
        raise ApiError(f"chat_template_kwargs: {odd} cannot be set.", param=f"chat_template_kwargs.{odd}")
    if request.tools:
        context["tools"] = [one.model_dump(exclude_none=True) for one in request.tools]
    return Prompt("1", turns, "messages", context)


_TAKEN = frozenset(
    {
        *("tools", "chat_template", "conversation", "tokenize", "add_generation_prompt", "continue_final_message"),
        *("return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "documents"),
        *("padding", "truncation", "max_length"),
    }
)
"""Arguments of `apply_chat_template` that a request decides otherwise, or not at all."""


def _turn(turn: Turn) -> dict[str, object]:
    """Return a turn as data has it."""
    said = turn.model_dump(exclude_none=True)
    if turn.content is None and not turn.tool_calls:
        raise BadRow("content that is not text", f"a {turn.role!r} turn has no content")
    return {"content": None, **said}


async def encoded(prompts: Sequence[Prompt], facts: Facts, param: str) -> list[tuple[int, ...]]:
    """Return the token ids of prompts.

    Args:
        prompts: texts or turns.
        facts: of the model.
        param: the field that they come from.

    Raises:
        ApiError: one that cannot be encoded.
    """
    try:
        return await run_in_threadpool(encode_prompts, prompts, facts.tokenizer)
    except UserError as problem:
        raise ApiError(problem.message, param=param, code="invalid_value") from None
