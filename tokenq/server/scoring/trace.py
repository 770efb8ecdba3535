"""/trace: a given response read token by token, as `tokenq score` keeps it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from tokenq.data.prompts import Prompt
from tokenq.errors import UserError
from tokenq.files import plain
from tokenq.jobs.reader import Reader
from tokenq.records.examples import Example, Message
from tokenq.records.examples import Response as Given
from tokenq.records.traces import TokenTrace
from tokenq.server.asked import OfModel
from tokenq.server.errors import ERRORS, ApiError, of_user
from tokenq.server.openai.prompts import prompt_of_talk
from tokenq.server.openai.requests import Talk, Tool, Turn
from tokenq.server.openai.sse import unless_gone
from tokenq.server.served import Serving

router = APIRouter(tags=["scoring"])


class TraceRequest(OfModel):
    """A prompt and a response to it; or a conversation whose last turn is read."""

    prompt: str | Annotated[list[Turn], Field(min_length=1)] | None = None
    """Text as the models read it; for a tokenizer with a chat template the user's turn. Or turns."""
    response: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    """Instead of both: turns, of which the last is the assistant's."""
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    top_k: Annotated[int, Field(ge=0, le=50)] | None = None
    """Alternatives at every token, under each model; those of the server when left out."""
    levels: list[str] | None = None
    """Levels of spans: word, sentence, line, paragraph, step, turn, regex:PATTERN."""


class TraceBody(BaseModel):
    """A trace at rest; docs/artefacts.md says what each field is."""

    model_config = ConfigDict(extra="allow")

    schema_: Annotated[int, Field(alias="schema")]
    id: str
    prompt: str
    response: str
    beta: float
    tokens: list[dict[str, Any]]
    spans: list[dict[str, Any]]
    totals: dict[str, Any]


@router.post("/trace", response_model=TraceBody, responses=ERRORS)
async def trace(request: TraceRequest, raw: Request, served: Serving) -> Response:
    """Read a response token by token."""
    model = await served.model(request.model)
    example = _example(request, model.facts.reader)

    def job(reader: Reader) -> str:
        options = reader.options
        top_k = options.top_k if request.top_k is None else request.top_k
        levels = options.levels if request.levels is None else request.levels
        options = replace(options, top_k=top_k, levels=levels)
        return json.dumps(plain(traced(replace(reader, options=options), [example])[0].to_dict()), allow_nan=False)

    try:
        body = await unless_gone(raw, model.run(job))
    except UserError as problem:
        raise of_user(problem, None) from None
    return Response(body, media_type="application/json")


def traced(reader: Reader, examples: Sequence[Example]) -> list[TokenTrace]:
    """Return the traces of examples with one response each."""
    rows, _ = reader.rows(examples)
    return [one for found in reader.traces(rows) for one in found]


def _example(request: TraceRequest, reader: Reader) -> Example:
    """Return what is read.

    Raises:
        ApiError: neither a prompt with a response nor a conversation that ends with the assistant's turn.
    """
    if request.messages is not None:
        if request.prompt is not None or request.response is not None:
            raise ApiError("messages stand instead of prompt and response.", param="messages", code="invalid_value")
        prompt = _talk(request, request.messages)
        assert not isinstance(prompt.text, str)
        *before, last = prompt.text
        if last.role != "assistant" or not before:
            said = "messages: the last of several turns is the assistant's, and is read."
            raise ApiError(said, param="messages", code="invalid_value")
        return Example(tuple(before), (Given((last,)),), False, "messages", dict(prompt.context))
    for name in ("prompt", "response"):
        if getattr(request, name) is None:
            raise ApiError(f"Missing parameter: {name}.", param=name, code="missing_required_parameter")
    assert request.prompt is not None
    assert request.response is not None
    if not isinstance(request.prompt, str):
        prompt = _talk(request, request.prompt)
        response = Given((Message("assistant", request.response),))
        return Example(prompt.text, (response,), False, "the given text", dict(prompt.context))
    return reader.example(request.prompt, request.response)


def _talk(request: TraceRequest, turns: list[Turn]) -> Prompt:
    kwargs = request.chat_template_kwargs
    return prompt_of_talk(Talk(messages=turns, tools=request.tools, chat_template_kwargs=kwargs))
