"""/rerank: documents in the order of what they are worth as responses to a query, in the shape of Cohere and Jina."""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tokenq.jobs.reader import Reader
from tokenq.server.asked import Asked, OfModel
from tokenq.server.errors import ERRORS, ApiError
from tokenq.server.openai.sse import unless_gone
from tokenq.server.scoring.totals import Ranking, Sums, read_together, sums_of, worth
from tokenq.server.served import Serving

router = APIRouter(tags=["scoring"])


class Document(Asked):
    """A document as an object."""

    text: str


class RerankRequest(OfModel):
    """Documents to rank as responses to a query."""

    query: str
    documents: Annotated[list[str | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    """How many come back; all when left out."""
    return_documents: bool = False
    """Whether their texts come back."""
    ranking: Ranking = "reward"
    """What they are ranked by: the sum of implicit rewards, log π, either by token, or a reward model's value."""


class DocumentText(BaseModel):
    """The text of a document."""

    text: str


class Ranked(BaseModel):
    """A document, and what it is worth; numbers of one query may be compared."""

    index: int
    relevance_score: float
    document: DocumentText | None = None
    tokenq: Sums


class ReadUsage(BaseModel):
    """How many tokens were read: the query once."""

    prompt_tokens: int
    total_tokens: int


class Reranking(BaseModel):
    """Documents, best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: ReadUsage


@router.post("/rerank", response_model=Reranking, responses=ERRORS)
@router.post("/v1/rerank", response_model=Reranking, responses=ERRORS, operation_id="rerank_v1")
@router.post("/v2/rerank", response_model=Reranking, responses=ERRORS, operation_id="rerank_v2")
async def rerank(request: RerankRequest, raw: Request, served: Serving) -> Response:
    """Rank documents as responses to a query: all of them share its keys and values."""
    model = await served.model(request.model)
    check_count(len(request.documents), served.settings.max_documents, "documents")
    if request.top_n is not None and request.top_n > len(request.documents):
        said = f"top_n: {request.top_n}, and there are {len(request.documents)} documents."
        raise ApiError(said, param="top_n", code="invalid_value")
    texts = [one if isinstance(one, str) else one.text for one in request.documents]

    def job(reader: Reader) -> tuple[list[dict[str, Any]], int]:
        found = read_together(reader, request.query, texts)
        ranked = [
            {"index": place, "relevance_score": worth(one.totals, request.ranking), "tokenq": sums_of(one.totals)}
            for place, one in enumerate(found)
        ]
        return ranked, sum(one.totals.tokens for one in found) + len(facts.tokenizer(found[0].prompt)["input_ids"])

    facts = model.facts
    results, tokens = await unless_gone(raw, model.run(job))
    results.sort(key=lambda one: -one["relevance_score"])
    if request.return_documents:
        results = [{**one, "document": {"text": texts[one["index"]]}} for one in results]
    body = {"id": f"rerank-{secrets.token_hex(12)}", "model": model.name, "results": results[: request.top_n]}
    return JSONResponse({**body, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def check_count(count: int, most: int, param: str) -> None:
    """Refuse more texts than a request may hold.

    Raises:
        ApiError: says both numbers.
    """
    if count > most:
        raise ApiError(f"{param}: {count}, and at most {most} may come at once.", param=param, code="invalid_value")
