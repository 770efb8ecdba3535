"""Decoding by search: the methods of `tokenq search` behind the same endpoints, with their settings by their names."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from tokenq.errors import UserError
from tokenq.records.results import Candidate, SearchResult
from tokenq.search.settings import Sampling, names_of
from tokenq.server.engine.request import Token
from tokenq.server.engine.searching import Searching
from tokenq.server.errors import ApiError, of_user, unsupported
from tokenq.server.openai.choice import Delta, Placed
from tokenq.server.openai.numbers import number
from tokenq.server.openai.plans import options_of, search_settings, stops_of
from tokenq.server.openai.prompts import Asked
from tokenq.server.openai.requests import SEARCHED, ChatRequest, CompletionRequest, Written
from tokenq.server.openai.sse import Streamed, unless_gone
from tokenq.server.openai.stream import Shape
from tokenq.server.scoring.judge import judge_of
from tokenq.server.served import Model, Served

PAUSE = 0.1
"""Seconds between two events that say how far a search is."""


def is_search(request: Written) -> bool:
    """Return whether a request is answered by a search.

    Raises:
        ApiError: it has settings of a search, and no method.
    """
    search_settings(options_of(request))
    return options_of(request).method is not None


async def searched(
    request: Written,
    raw: Request,
    served: Served,
    model: Model,
    prompts: Sequence[Asked],
    length: int,
    shape: Shape,
    head: Mapping[str, Any],
) -> Response:
    """Answer a request by a search.

    Args:
        request: what was asked for.
        raw: the same as it came.
        served: what is served.
        model: that is searched.
        prompts: to answer.
        length: most tokens of a response.
        shape: how responses are told.
        head: what an answer begins with.

    Raises:
        ApiError: something is asked for that a search does not do.
    """
    _check(request, prompts)
    run = _Run(model, request, prompts, _settings(request, served, length))
    if request.stream:
        return Streamed(_chunks(run, request, shape, head), run.cancel)
    try:
        results = await unless_gone(raw, run.results())
    finally:
        run.cancel()
    choices = [shape.whole(index, delta, more) for index, delta, more in _choices(results, request)]
    told = [_told(one, options_of(request).tree) for one in results]
    written = sum(len(one.token_ids) for result in results for one in result.candidates)
    more = {"tokenq": told[0] if len(told) == 1 else told}
    return JSONResponse({**head, **shape.answer(choices, written), **more})


def _check(request: Written, prompts: Sequence[Asked]) -> None:
    """Refuse what a search does not do.

    Raises:
        ApiError: names the field.
    """
    why = "a search (tokenq.method) does not do it."
    asked = {
        "stop": bool(stops_of(request)),
        "stop_token_ids": bool(request.stop_token_ids),
        "ignore_eos": request.ignore_eos,
        "logit_bias": bool(request.logit_bias),
        "echo": isinstance(request, CompletionRequest) and request.echo,
        "prompt": any(one.given is None for one in prompts),
    }
    for name in (name for name, given in asked.items() if given):
        more = "a search takes texts, and no token ids." if name == "prompt" else why
        raise unsupported(name, more)
    tops = {"logprobs": request.logprobs} if isinstance(request, CompletionRequest) else {}
    tops |= {"top_logprobs": request.top_logprobs} if isinstance(request, ChatRequest) else {}
    for name in (name for name, top in tops.items() if top):
        raise unsupported(name, "a search gives log-probs of its tokens, and no alternatives: 0.")
    options = options_of(request)
    if options.rewards and options.proxy is not None:
        raise unsupported("tokenq.rewards", "a policy that is steered by proxies has no reference.")


def _settings(request: Written, served: Served, length: int) -> dict[str, Any]:
    """Return the settings of a search: those of its own, and how tokens are drawn, where a request says so."""
    options, most = options_of(request), served.settings.max_choices
    found = search_settings(options)
    for name in ("n", "width"):
        if found.get(name, 0) > most:
            raise ApiError(f"tokenq.{name}: {found[name]}, and at most {most}.", param=f"tokenq.{name}")
    drawn = {name: getattr(request, name) for name in names_of(Sampling) if name in request.model_fields_set}
    if "top_k" in drawn:
        drawn["top_k"] = max(0, drawn["top_k"])
    seed = 0 if request.seed is None else request.seed
    return {"method": options.method, "max_new_tokens": length, "seed": seed, **drawn, **found}


class _Run:
    """A search under way.

    Args:
        model: that is searched.
        request: what was asked for.
        prompts: to answer.
        settings: of the search.
    """

    def __init__(self, model: Model, request: Written, prompts: Sequence[Asked], settings: Mapping[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self.progress: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        reader, options = model.facts.reader, options_of(request)
        given = [one.given for one in prompts if one.given is not None]
        self._searching: Searching = model.engine.search(
            given, settings, proxy=options.proxy, judge=judge_of(reader), progress=self._tell
        )
        self._future = asyncio.wrap_future(self._searching.future)
        self._future.add_done_callback(lambda _: self.progress.put_nowait(None))

    def _tell(self, done: int, whole: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self.progress.put_nowait, (done, whole))

    def cancel(self) -> None:
        """End it before its next step."""
        self._searching.cancel()

    async def results(self) -> list[SearchResult]:
        """Return what it finds.

        Raises:
            ApiError: it cannot be done as it was asked for.
        """
        try:
            return await self._future
        except UserError as problem:
            raise _named(problem) from None


def _named(problem: UserError) -> ApiError:
    """Return an error of a search with its field as the request has it."""
    found = of_user(problem)
    if found.param in SEARCHED or found.param in ("method", "proxy"):
        found.param = f"tokenq.{found.param}"
    elif found.param is None and re.search("Unknown method", problem.message):
        found.param = "tokenq.method"
    return found


def _choices(results: Sequence[SearchResult], request: Written) -> list[tuple[int, Delta, dict[str, Any]]]:
    """Return the best responses to every prompt: number, text and tokens, and what the search says of each."""
    return [
        (place * request.n + rank, _delta(one), {"score": number(one.score), "answer": one.answer})
        for place, result in enumerate(results)
        for rank, one in enumerate(result.candidates[: request.n])
    ]


def _delta(candidate: Candidate) -> Delta:
    """Return a response of a search as one that was written."""
    offset, placed = 0, []
    refs = candidate.ref_logps or [None] * len(candidate.token_ids)
    for token, logp, ref, piece in zip(candidate.token_ids, candidate.logps, refs, candidate.pieces, strict=True):
        placed.append(Placed(Token(0, token, logp, ref_logp=ref), offset))
        offset += len(piece)
    return Delta(candidate.text, tuple(placed), "stop" if candidate.terminal else "length")


def _told(result: SearchResult, tree: bool) -> dict[str, Any]:
    """Return what a search has found besides its responses."""
    found = {"method": result.method, "objective": result.objective, "cost": dict(vars(result.cost))}
    drawn = None if result.tree is None or not tree else {name: list(one) for name, one in vars(result.tree).items()}
    return {**found, "stopped": result.stopped} | ({"tree": drawn} if tree else {})


async def _chunks(run: _Run, request: Written, shape: Shape, head: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield how far a search is while it runs, then its responses, whole."""
    told_at = 0.0
    while (told := await run.progress.get()) is not None:
        if time.monotonic() - told_at >= PAUSE:
            told_at = time.monotonic()
            yield {**head, **shape.chunk([]), "tokenq": {"progress": {"done": told[0], "whole": told[1]}}}
    results = await run.results()
    for opening in shape.openings():
        yield {**head, **shape.chunk([opening])}
    for index, delta, more in _choices(results, request):
        choice = shape.come(index, delta, more)
        if choice is not None:
            yield {**head, **shape.chunk([choice])}
    told_all = [_told(one, options_of(request).tree) for one in results]
    yield {**head, **shape.chunk([]), "tokenq": told_all[0] if len(told_all) == 1 else told_all}
    last = shape.usage(sum(len(one.token_ids) for result in results for one in result.candidates))
    if last is not None:
        yield {**head, **last}
