"""/v1/chat/completions: conversations that the policy continues through its chat template, tools among them."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tokenq.server.document import STREAM
from tokenq.server.engine.request import PromptLogps
from tokenq.server.errors import ERRORS, ApiError
from tokenq.server.openai.choice import Delta
from tokenq.server.openai.numbers import RewardSum, chat_logprobs
from tokenq.server.openai.plans import (
    check_written,
    generation,
    include_usage,
    length_of,
    options_of,
    stops_of,
    top_of,
    usage_of,
)
from tokenq.server.openai.prompts import Asked, talk_prompt
from tokenq.server.openai.requests import ChatRequest
from tokenq.server.openai.responses import Chat
from tokenq.server.openai.search import is_search, searched
from tokenq.server.openai.sse import Streamed, unless_gone
from tokenq.server.openai.stream import answer_in_chunks, answering, client_of, whole_answer
from tokenq.server.openai.tools import CallingTurn, PlainTurn, Turned, told
from tokenq.server.served import Facts, Model, Served, Serving

router = APIRouter(tags=["openai"])


@router.post("/v1/chat/completions", response_model=Chat, responses={**ERRORS, 200: STREAM})
async def chat_completions(request: ChatRequest, raw: Request, served: Serving) -> Response:
    """Continue a conversation with a turn of the policy."""
    model = await served.model(request.model)
    _check(request)
    facts = model.facts
    prompt = await talk_prompt(request, facts)
    check_written(request, served.settings, model)
    top = top_of(request.top_logprobs, "top_logprobs", served.settings)
    length = _length(request, prompt, facts, served)
    shape, head = ChatShape(request, facts, prompt, top), _head(model, served)
    if is_search(request):
        return await searched(request, raw, served, model, [prompt], length, shape, head)
    asked = generation(request, prompt, length, top, facts)
    answer = answering(request, [asked], [prompt], model, stops_of(request), client_of(raw, request.user))
    if request.stream:
        return Streamed(answer_in_chunks(answer, shape, head), answer.close)
    return JSONResponse(await unless_gone(raw, whole_answer(answer, shape, head)))


def _check(request: ChatRequest) -> None:
    """Refuse what cannot be meant.

    Raises:
        ApiError: names the field.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError("top_logprobs goes with logprobs: set it to true.", param="top_logprobs", code="invalid_value")
    if request.tool_choice == "auto" and not request.tools:
        raise ApiError("tool_choice is given, and no tools are.", param="tool_choice", code="invalid_value")
    both = request.max_tokens is not None and request.max_completion_tokens is not None
    if both and request.max_tokens != request.max_completion_tokens:
        said = "max_tokens and max_completion_tokens are two names of one number."
        raise ApiError(said, param="max_tokens", code="invalid_value")


def _length(request: ChatRequest, prompt: Asked, facts: Facts, served: Served) -> int:
    named = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    settings = served.settings
    return length_of(asked, settings.max_new_tokens, prompt, facts, settings, (named, "messages"))


def _head(model: Model, served: Served) -> dict[str, Any]:
    """Return what an answer, and each chunk of it, begins with."""
    stamp = {} if served.version is None else {"weight_version": served.version}
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model.name, **stamp}


@dataclass
class ChatShape:
    """How what comes of a chat is told.

    Attributes:
        request: what was asked for.
        facts: of the model.
        prompt: in tokens.
        top: alternatives at a token.
    """

    request: ChatRequest
    facts: Facts
    prompt: Asked
    top: int
    _begun: bool = False
    _sums: dict[int, RewardSum] = field(default_factory=dict)
    _turns: dict[int, PlainTurn | CallingTurn] = field(default_factory=dict)

    def whole(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Return a choice that is over.

        Args:
            index: its number.
            delta: all that has come of it.
            more: what "tokenq" holds beside rewards.
        """
        turned = self._turn(index).take(delta)
        message: dict[str, Any] = {"role": "assistant", "content": turned.content, "refusal": None}
        if turned.calls:
            message |= {"content": turned.content or None, "tool_calls": [told(one) for one in turned.calls]}
        return {"index": index, "message": message, **self._rest(index, turned, more)}

    def come(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any] | None:
        """Return what has come of a choice as a chunk has it; None where nothing has."""
        turned = self._turn(index).take(delta)
        said: dict[str, Any] = {"content": turned.content} if turned.content else {}
        if turned.calls:
            said["tool_calls"] = [{"index": place, **told(one)} for place, one in enumerate(turned.calls)]
        if not (said or turned.tokens or turned.finish):
            return None
        return {"index": index, "delta": said, **self._rest(index, turned, more)}

    def openings(self) -> list[dict[str, Any]]:
        """Return the choices of the chunks with which a stream begins: whose turn it is."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        more = {"finish_reason": None, "logprobs": None}
        return [{"index": index, "delta": delta, **more} for index in range(self.request.n)]

    def read(self, prompt: int, found: PromptLogps) -> None:
        """Take the log-probs of a prompt; chats do not tell them."""

    def answer(self, choices: Sequence[Mapping[str, Any]], written: int) -> dict[str, Any]:
        """Return what a whole answer holds besides its head."""
        ids = {"prompt_token_ids": list(self.prompt.ids)} if self.request.return_token_ids else {}
        return {"object": "chat.completion", "choices": list(choices), "usage": usage_of([self.prompt], written), **ids}

    def chunk(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what a chunk holds besides its head."""
        null = {"usage": None} if include_usage(self.request) else {}
        first = not self._begun and self.request.return_token_ids
        self._begun = True
        ids = {"prompt_token_ids": list(self.prompt.ids)} if first else {}
        return {"object": "chat.completion.chunk", "choices": list(choices), **null, **ids}

    def usage(self, written: int) -> dict[str, Any] | None:
        """Return the chunk with the number of tokens, where it is asked for."""
        if not include_usage(self.request):
            return None
        return {"object": "chat.completion.chunk", "choices": [], "usage": usage_of([self.prompt], written)}

    def _rest(self, index: int, turned: Turned, more: Mapping[str, Any]) -> dict[str, Any]:
        options, vocabulary, request = options_of(self.request), self.facts.vocabulary, self.request
        logprobs = chat_logprobs(turned.tokens, self.top, vocabulary) if request.logprobs else None
        found: dict[str, Any] = {"finish_reason": turned.finish, "logprobs": logprobs}
        if request.return_token_ids:
            found["token_ids"] = [one.token.id for one in turned.tokens]
        if options.rewards:
            if index not in self._sums:
                self._sums[index] = RewardSum(self.facts.reader.options.beta, options.alternatives, vocabulary)
            more = {**more, **self._sums[index].told(turned.tokens)}
        return found | ({"tokenq": dict(more)} if more else {})

    def _turn(self, index: int) -> PlainTurn | CallingTurn:
        if index not in self._turns:
            tools = [] if self.request.tool_choice == "none" else self.request.tools or []
            names = [one.function.name for one in tools]
            self._turns[index] = CallingTurn(names) if names else PlainTurn()
        return self._turns[index]
