"""/score: what texts are worth as responses to others, in vLLM's shape."""

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tokenq.jobs.reader import Reader
from tokenq.server.asked import OfModel
from tokenq.server.errors import ERRORS, ApiError
from tokenq.server.openai.sse import unless_gone
from tokenq.server.scoring.rerank import ReadUsage, check_count
from tokenq.server.scoring.totals import Ranking, Sums, read_together, sums_of, worth
from tokenq.server.served import Serving

router = APIRouter(tags=["scoring"])

Texts = str | Annotated[list[str], Field(min_length=1)]


class ScoreRequest(OfModel):
    """Pairs of texts: one query with every document, or the n-th with the n-th."""

    queries: Texts | None = None
    documents: Texts | None = None
    text_1: Texts | None = None
    """Another name of queries."""
    text_2: Texts | None = None
    """Another name of documents."""
    ranking: Ranking = "reward"
    """What a score is: the sum of implicit rewards, log π, either by token, or a reward model's value."""


class Score(BaseModel):
    """What a document is worth as a response to its query."""

    index: int
    object: Literal["score"]
    score: float
    tokenq: Sums


class Scores(BaseModel):
    """Scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: ReadUsage
    comparable: bool
    """Whether all are of one query: implicit rewards of different prompts differ by more than what they are worth."""


@router.post("/score", response_model=Scores, responses=ERRORS)
@router.post("/v1/score", response_model=Scores, responses=ERRORS, operation_id="score_v1")
async def score(request: ScoreRequest, raw: Request, served: Serving) -> Response:
    """Score documents as responses to queries."""
    model = await served.model(request.model)
    queries, documents = _pairs(request)
    check_count(len(documents), served.settings.max_documents, "documents")
    facts = model.facts

    def job(reader: Reader) -> tuple[list[dict[str, Any]], int]:
        found, read = dict[int, dict[str, Any]](), 0
        for query in dict.fromkeys(queries):
            places = [place for place, one in enumerate(queries) if one == query]
            traces = read_together(reader, query, [documents[place] for place in places])
            read += sum(one.totals.tokens for one in traces) + len(facts.tokenizer(traces[0].prompt)["input_ids"])
            for place, one in zip(places, traces, strict=True):
                own = {"index": place, "object": "score", "score": worth(one.totals, request.ranking)}
                found[place] = {**own, "tokenq": sums_of(one.totals)}
        return [found[place] for place in range(len(documents))], read

    data, tokens = await unless_gone(raw, model.run(job))
    head = {"id": f"score-{secrets.token_hex(12)}", "object": "list", "created": int(time.time()), "model": model.name}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({**head, "data": data, "usage": usage, "comparable": len(set(queries)) == 1})


def _pairs(request: ScoreRequest) -> tuple[list[str], list[str]]:
    """Return queries and documents, as many of both.

    Raises:
        ApiError: one of them is missing, given twice, or they are not as many.
    """
    sides = []
    for name, other in (("queries", "text_1"), ("documents", "text_2")):
        given = {one: getattr(request, one) for one in (name, other) if getattr(request, one) is not None}
        if not given:
            raise ApiError(f"Missing parameter: {name}.", param=name, code="missing_required_parameter")
        if len(given) == 2:
            raise ApiError(f"{name} and {other} are two names of one field.", param=other, code="invalid_value")
        texts = next(iter(given.values()))
        sides.append([texts] if isinstance(texts, str) else texts)
    queries, documents = sides
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        said = f"There are {len(queries)} queries and {len(documents)} documents: give one query, or as many of both."
        raise ApiError(said, param="documents", code="invalid_value")
    return queries, documents
