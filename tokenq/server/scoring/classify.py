"""/classify, /pooling, /get_reward: what a reward model says, in the shapes of vLLM and OpenRLHF."""

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tokenq.data.prompts import Prompt
from tokenq.jobs.reader import Reader
from tokenq.models.reward_model import text_ids
from tokenq.records.examples import Example
from tokenq.records.examples import Response as Reply
from tokenq.server.asked import OfModel
from tokenq.server.errors import ERRORS, ApiError
from tokenq.server.openai.prompts import check_ids, encoded
from tokenq.server.openai.requests import Ids
from tokenq.server.openai.sse import unless_gone
from tokenq.server.scoring.judge import every_output, last_outputs, rewards_of
from tokenq.server.scoring.rerank import ReadUsage, check_count
from tokenq.server.scoring.score import Texts
from tokenq.server.scoring.trace import traced
from tokenq.server.served import Facts, Model, Served, Serving

router = APIRouter(tags=["scoring"])

Inputs = str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]


READS: Mapping[str, Callable[[Reader, Sequence[Sequence[int]]], Sequence[Any]]] = {
    "token_classify": every_output,
    "classify": last_outputs,
}
"""How a reward model is read for each task."""


class ClassifyRequest(OfModel):
    """Texts, or tokens, that the reward model reads as they are."""

    input: Inputs
    use_activation: bool = False
    """Whether its outputs are made probabilities: a softmax over several, a sigmoid of one."""


class Class(BaseModel):
    """What the reward model says at the end of a text; `probs` are its outputs themselves without an activation."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classes(BaseModel):
    """What it says of every text."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Class]
    usage: ReadUsage


class PoolingRequest(OfModel):
    """Texts, or tokens, that the reward model reads at every token."""

    input: Inputs
    task: Literal["token_classify", "classify"] = "token_classify"
    """At every token, or at the last alone."""


class Pooled(BaseModel):
    """Its outputs for one text: a list for each token, or one list."""

    index: int
    object: Literal["pooling"]
    data: list[list[float]] | list[float]


class Pools(BaseModel):
    """Its outputs for every text."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: ReadUsage


class RewardRequest(OfModel):
    """Whole texts, prompt and response in one, as OpenRLHF sends them."""

    query: Texts
    prompts: Texts | None = None
    """The prompt of each: without a reward model the implicit reward of what follows it is the reward."""
    labels: list[Any] | None = None
    """Not looked at: a reward that knows the answer is no model's."""


class RewardAnswer(BaseModel):
    """Rewards in the order of the texts."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


@router.post("/classify", response_model=Classes, responses=ERRORS)
async def classify(request: ClassifyRequest, raw: Request, served: Serving) -> Response:
    """Say what the reward model says at the end of each text."""
    model = await served.model(request.model)
    rows = await _rows(request.input, model.facts, served)
    names = list(rewards_of(model.facts.reader).outputs)
    outputs = await unless_gone(raw, model.run(lambda reader: last_outputs(reader, rows)))
    data = []
    for index, values in enumerate(outputs):
        probs = _activated(values) if request.use_activation else values
        label = names[max(range(len(values)), key=values.__getitem__)]
        data.append({"index": index, "label": label, "probs": probs, "num_classes": len(values)})
    return JSONResponse(_listed("classify", model, data, rows))


@router.post("/pooling", response_model=Pools, responses=ERRORS)
async def pooling(request: PoolingRequest, raw: Request, served: Serving) -> Response:
    """Say what the reward model says at every token of each text."""
    model = await served.model(request.model)
    rows = await _rows(request.input, model.facts, served)
    read = READS[request.task]
    outputs = await unless_gone(raw, model.run(lambda reader: read(reader, rows)))
    data = [{"index": index, "object": "pooling", "data": one} for index, one in enumerate(outputs)]
    return JSONResponse(_listed("pool", model, data, rows))


@router.post("/get_reward", response_model=RewardAnswer, responses=ERRORS)
async def get_reward(request: RewardRequest, raw: Request, served: Serving) -> Response:
    """Give the reward of whole texts: the reward model's, else the sum of implicit rewards behind the prompt."""
    model = await served.model(request.model)
    texts = [request.query] if isinstance(request.query, str) else request.query
    check_count(len(texts), served.settings.max_documents, "query")
    facts = model.facts
    if facts.reader.rewards is not None:
        rows = [text_ids(facts.tokenizer, "", text, ended=True, eos=True) for text in texts]
        outputs = await unless_gone(raw, model.run(lambda reader: last_outputs(reader, rows)))
        weights = facts.reader.rewards.weights
        rewards = [math.fsum(a * b for a, b in zip(one, weights, strict=True)) for one in outputs]
    else:
        pairs = _parted(texts, request.prompts, str(facts.tokenizer.eos_token))
        rewards = await unless_gone(raw, model.run(lambda reader: _implicit(reader, pairs)))
    return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {}})


def _implicit(reader: Reader, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the sum of implicit rewards of each response; both texts are read as they are."""
    examples = [Example(prompt, (Reply(text),), False, f"query {n}") for n, (prompt, text) in enumerate(pairs)]
    return [one.totals.given("implicit_reward") for one in traced(reader, examples)]


def _parted(texts: Sequence[str], prompts: str | list[str] | None, eos: str) -> list[tuple[str, str]]:
    """Return prompt and response of each text.

    Raises:
        ApiError: there are no prompts, or a text does not begin with its own.
    """
    if prompts is None:
        said = "Missing parameter: prompts. Without a reward model the reward is that of what follows the prompt."
        raise ApiError(said, param="prompts", code="missing_required_parameter")
    before = [prompts] if isinstance(prompts, str) else prompts
    if len(before) != len(texts):
        raise ApiError(
            f"There are {len(texts)} texts and {len(before)} prompts.", param="prompts", code="invalid_value"
        )
    odd = next((n for n, (one, text) in enumerate(zip(before, texts, strict=True)) if not text.startswith(one)), None)
    if odd is not None:
        raise ApiError(f"query {odd} does not begin with its prompt.", param="prompts", code="invalid_value")
    return [(one, text[len(one) :].removesuffix(eos)) for one, text in zip(before, texts, strict=True)]


def _activated(values: Sequence[float]) -> list[float]:
    """Return outputs as probabilities."""
    if len(values) == 1:
        return [1 / (1 + math.exp(-values[0]))] if values[0] > -700 else [0.0]
    highest = max(values)
    weights = [math.exp(one - highest) for one in values]
    return [one / math.fsum(weights) for one in weights]


async def _rows(given: Any, facts: Facts, served: Served) -> list[tuple[int, ...]]:
    """Return inputs as token ids.

    Raises:
        ApiError: too many, too long, or not of this vocabulary; no reward model is served.
    """
    rewards_of(facts.reader)
    several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    check_count(len(several), served.settings.max_documents, "input")
    if isinstance(several[0], str):
        prompts = [Prompt(str(place), text, f"input {place}") for place, text in enumerate(several)]
        rows = await encoded(prompts, facts, "input")
    else:
        rows = [tuple(one) for one in several]
    for one in rows:
        check_ids(one, facts, "input")
        facts.room(len(one), "input")
    return rows


def _listed(kind: str, model: Model, data: list[dict[str, Any]], rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    tokens = sum(map(len, rows))
    head = {"id": f"{kind}-{secrets.token_hex(12)}", "object": "list", "created": int(time.time()), "model": model.name}
    return {**head, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
