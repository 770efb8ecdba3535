"""What is written for a request, choice by choice: the one way in which streams and whole answers come about."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastapi import Request

from tokenq.server.engine.request import Generation, PromptLogps, Token
from tokenq.server.errors import ApiError
from tokenq.server.openai.choice import Choice, Delta
from tokenq.server.openai.prompts import Asked
from tokenq.server.openai.requests import Written
from tokenq.server.openai.writing import Writing
from tokenq.server.served import Facts, Model


class Part(NamedTuple):
    """A part of an answer.

    Attributes:
        prompt: number of the prompt.
        choice: number of the choice; None for what holds for all of the prompt's.
        come: what has come of it.
    """

    prompt: int
    choice: int | None
    come: Delta | PromptLogps


class Answering:
    """The choices of a request as they are written.

    Args:
        writing: what the engine writes for it.
        prompts: before the choices.
        facts: of the model.
        n: choices of each prompt.
        stops: texts before which they are cut.
        nothing: whether no token is to be written.
    """

    def __init__(
        self, writing: Writing, prompts: Sequence[Asked], facts: Facts, n: int, stops: Sequence[str], *, nothing: bool
    ) -> None:
        self._writing, self._nothing = writing, nothing
        self.choices = [[Choice(facts.tokenizer, one.ids, stops) for _ in range(n)] for one in prompts]

    @property
    def written(self) -> int:
        """Tokens that were written."""
        return sum(one.count for some in self.choices for one in some)

    def index(self, part: Part) -> int:
        """Return the number of a part's choice among those of all prompts."""
        return part.prompt * len(self.choices[0]) + (part.choice or 0)

    def close(self) -> None:
        """Call off what still runs."""
        self._writing.cancel()

    async def parts(self) -> AsyncIterator[Part]:
        """Yield what comes, until all choices are over.

        Raises:
            ApiError: the server ends before them.
        """
        with self._writing as writing:
            async for prompt, found in writing.deliveries():
                if isinstance(found, PromptLogps):
                    yield Part(prompt, None, found)
                elif isinstance(found, Token):
                    choice = self.choices[prompt][found.choice]
                    if choice.over:  # a stop text has ended it, and the engine does not know yet
                        continue
                    delta = choice.take(found)
                    if delta.finish is not None and found.finish is None:
                        writing.stop(prompt, found.choice)
                    if delta:
                        yield Part(prompt, found.choice, delta)
                if not self._nothing and all(one.over for some in self.choices for one in some):
                    return
        for prompt, some in enumerate(self.choices):
            for number, choice in enumerate(some):
                if choice.over:
                    continue
                if not self._nothing:
                    raise ApiError("The server is going down.", status=503, code="service_unavailable")
                yield Part(prompt, number, choice.close("length"))


class Shape(Protocol):
    """How what comes is told: as a completion, or as a chat."""

    def read(self, prompt: int, found: PromptLogps) -> None:
        """Take the log-probs of a prompt, which come before anything of its choices."""

    def openings(self) -> list[dict[str, Any]]:
        """Return the choices of the chunks with which a stream begins."""

    def whole(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any]:
        """Return a choice that is over; `more` is what "tokenq" holds beside rewards."""

    def come(self, index: int, delta: Delta, more: Mapping[str, Any] = {}) -> dict[str, Any] | None:
        """Return what has come of a choice as a chunk has it; None where that is nothing."""

    def answer(self, choices: Sequence[Mapping[str, Any]], written: int) -> dict[str, Any]:
        """Return what a whole answer holds besides its head."""

    def chunk(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what a chunk holds besides its head."""

    def usage(self, written: int) -> dict[str, Any] | None:
        """Return the chunk with the number of tokens, None where nobody asks for it."""


async def whole_answer(answer: Answering, shape: Shape, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole answer: the parts of a stream, put together before they are told."""
    deltas: dict[int, list[Delta]] = {}
    async for part in answer.parts():
        if isinstance(part.come, Delta):
            deltas.setdefault(answer.index(part), []).append(part.come)
        else:
            shape.read(part.prompt, part.come)
    choices = [shape.whole(index, together(deltas[index])) for index in sorted(deltas)]
    return {**head, **shape.answer(choices, answer.written)}


def together(deltas: Sequence[Delta]) -> Delta:
    """Return what has come of a choice in several parts as one."""
    tokens = tuple(token for one in deltas for token in one.tokens)
    return Delta("".join(one.text for one in deltas), tokens, deltas[-1].finish)


async def answer_in_chunks(answer: Answering, shape: Shape, head: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a stream."""
    for opening in shape.openings():
        yield {**head, **shape.chunk([opening])}
    async for part in answer.parts():
        if isinstance(part.come, PromptLogps):
            shape.read(part.prompt, part.come)
            continue
        choice = shape.come(answer.index(part), part.come)
        if choice is not None:
            yield {**head, **shape.chunk([choice])}
    last = shape.usage(answer.written)
    if last is not None:
        yield {**head, **last}


def answering(
    request: Written,
    asked: Sequence[Generation],
    prompts: Sequence[Asked],
    model: Model,
    stops: Sequence[str],
    client: str,
) -> Answering:
    """Have the engine begin with a request.

    Raises:
        Full: too many wait.
        Closed: the server is going down.
    """
    writing = Writing(model.engine, asked, client)
    nothing = all(one.max_new_tokens == 0 for one in asked)
    return Answering(writing, prompts, model.facts, request.n, stops, nothing=nothing)


def client_of(request: Request, user: str | None) -> str:
    """Return who asks, for turns that are fair."""
    host = "" if request.client is None else request.client.host
    return f"{host} {user or ''}"
