"""/v1/completions: texts, or tokens, that the policy continues; with echo it reads them, and gives their log-probs."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tokenq.data.encoding import pieces_of
from tokenq.server.document import STREAM
from tokenq.server.engine.request import PromptLogps
from tokenq.server.errors import ERRORS, ApiError, unsupported
from tokenq.server.openai.choice import Delta
from tokenq.server.openai.numbers import RewardSum, joined, number, prompt_logprobs, text_logprobs
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
from tokenq.server.openai.prompts import Asked, text_prompts
from tokenq.server.openai.requests import CompletionRequest
from tokenq.server.openai.responses import Completion
from tokenq.server.openai.search import is_search, searched
from tokenq.server.openai.sse import Streamed, unless_gone
from tokenq.server.openai.stream import answer_in_chunks, answering, client_of, whole_answer
from tokenq.server.served import Facts, Model, Served, Serving

router = APIRouter(tags=["openai"])

DEFAULT_TOKENS = 16
"""Tokens of a completion where nobody says how many; it is OpenAI's."""


@router.post("/v1/completions", response_model=Completion, responses={**ERRORS, 200: STREAM})
async def completions(request: CompletionRequest, raw: Request, served: Serving) -> Response:
    """Continue texts or tokens."""
    model = await served.model(request.model)
    _check(request)
    facts = model.facts
    prompts = await text_prompts(request, facts, served.settings.max_prompts)
    check_written(request, served.settings, model)
    top = top_of(request.logprobs, "logprobs", served.settings)
    lengths = [_length(request, one, facts, served) for one in prompts]
    shape, head = TextShape(request, facts, prompts, top), _head(model, served)
    if is_search(request):
        return await searched(request, raw, served, model, prompts, min(lengths), shape, head)
    reads = request.echo and (request.logprobs is not None or request.max_tokens == 0)
    asked = [
        generation(request, one, length, top, facts, prompt_logps=reads)
        for one, length in zip(prompts, lengths, strict=True)
    ]
    answer = answering(request, asked, prompts, model, stops_of(request), client_of(raw, request.user))
    if request.stream:
        return Streamed(answer_in_chunks(answer, shape, head), answer.close)
    return JSONResponse(await unless_gone(raw, whole_answer(answer, shape, head)))


def _check(request: CompletionRequest) -> None:
    """Refuse what cannot be meant.

    Raises:
        ApiError: names the field.
    """
    if request.best_of not in (None, request.n):
        raise unsupported("best_of", 'rank samples with "tokenq": {"method": "best_of_n"}.')
    if request.max_tokens == 0 and not request.echo:
        raise ApiError("max_tokens: 0 writes nothing; it goes with echo.", param="max_tokens", code="invalid_value")


def _length(request: CompletionRequest, prompt: Asked, facts: Facts, served: Served) -> int:
    return length_of(request.max_tokens, DEFAULT_TOKENS, prompt, facts, served.settings, ("max_tokens", "prompt"))


def _head(model: Model, served: Served) -> dict[str, Any]:
    """Return what an answer, and each chunk of it, begins with."""
    stamp = {} if served.version is None else {"weight_version": served.version}
    made = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
    return {**made, "model": model.name, **stamp}


@dataclass
class TextShape:
    """How what comes of a completion is told.

    Attributes:
        request: what was asked for.
        facts: of the model.
        prompts: in tokens.
        top: alternatives at a token.
    """

    request: CompletionRequest
    facts: Facts
    prompts: Sequence[Asked]
    top: int
    _read: dict[int, PromptLogps] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _sums: dict[int, RewardSum] = field(default_factory=dict)
    _echoes: dict[int, tuple[str, list[int]]] = field(default_factory=dict)

    def read(self, prompt: int, found: PromptLogps) -> None:
        """Take the log-probs of a prompt."""
        self._read[prompt] = found

    def openings(self) -> list[dict[str, Any]]:
        """Return nothing: the first chunk of a choice has what it begins with."""
        return []

    def whole(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Return a choice that is over."""
        return self.come(index, delta, more)

    def come(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Return a choice with what has come of it.

        Args:
            index: its number.
            delta: what has come.
            more: what "tokenq" holds beside rewards.
        """
        request, prompt = self.request, index // self.request.n
        begins = index not in self._begun
        self._begun.add(index)
        ids, read = self.prompts[prompt].ids, self._read.get(prompt) if begins else None
        echo = self._echo(prompt)[0]
        told: dict[str, Any] = {"index": index, "text": f"{echo if begins else ''}{delta.text}"}
        told |= {"finish_reason": delta.finish, "logprobs": self._logprobs(prompt, delta, read)}
        if request.return_token_ids:
            told |= {"token_ids": [one.token.id for one in delta.tokens]}
            told |= {"prompt_token_ids": list(ids)} if begins else {}
        if options_of(request).rewards:
            more = {**more, **self._sum(index).told(delta.tokens)}
            if read is not None and read.ref_logps is not None:
                more["prompt_ref_logprobs"] = [None if one is None else number(one) for one in read.ref_logps]
        return told | ({"tokenq": dict(more)} if more else {})

    def answer(self, choices: Sequence[Mapping[str, Any]], written: int) -> dict[str, Any]:
        """Return what a whole answer holds besides its head."""
        return {"choices": list(choices), "usage": usage_of(self.prompts, written)}

    def chunk(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what a chunk holds besides its head."""
        return {"choices": list(choices), **({"usage": None} if include_usage(self.request) else {})}

    def usage(self, written: int) -> dict[str, Any] | None:
        """Return the chunk with the number of tokens, where it is asked for."""
        if not include_usage(self.request):
            return None
        return {"choices": [], "usage": usage_of(self.prompts, written)}

    def _logprobs(self, prompt: int, delta: Delta, read: PromptLogps | None) -> dict[str, Any] | None:
        if self.request.logprobs is None:
            return None
        echo, offsets = self._echo(prompt)
        own = text_logprobs(delta.tokens, self.top, self.facts.vocabulary, len(echo))
        if read is None:
            return own
        ids = self.prompts[prompt].ids
        return joined(prompt_logprobs(ids, read, offsets, self.top, self.facts.vocabulary), own)

    def _sum(self, index: int) -> RewardSum:
        if index not in self._sums:
            options, reader = options_of(self.request), self.facts.reader
            self._sums[index] = RewardSum(reader.options.beta, options.alternatives, self.facts.vocabulary)
        return self._sums[index]

    def _echo(self, prompt: int) -> tuple[str, list[int]]:
        """Return the text of a prompt, and where the piece of each of its tokens begins; nothing without echo."""
        if not self.request.echo:
            return "", []
        if prompt not in self._echoes:
            one = self.prompts[prompt]
            pieces = pieces_of(self.facts.tokenizer, (), one.ids)
            offsets = list(accumulate(map(len, pieces), initial=0))[:-1]
            self._echoes[prompt] = "".join(pieces) if one.text is None else one.text, offsets
        return self._echoes[prompt]
