"""Server-sent events: a stream of JSON objects that ends with [DONE], or with an error in the place of a chunk."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tokenq.server.errors import ApiError, of_any

T = TypeVar("T")

DONE = "data: [DONE]\n\n"


def event(body: Mapping[str, Any]) -> str:
    """Return one event."""
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


async def _events(bodies: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    try:
        async for body in bodies:
            yield event(body)
    except Exception as problem:
        # The status is out already: clients of OpenAI raise what stands in the place of a chunk.
        yield event(of_any(problem).body())
    yield DONE


class Streamed(StreamingResponse):
    """An answer that sends objects as they come.

    Args:
        bodies: the objects.
        close: called when the answer is over, also where the client has gone before its first or its last object.
    """

    def __init__(self, bodies: AsyncIterator[Mapping[str, Any]], close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(bodies), media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what some work comes to, which is broken off where the client goes.

    Raises:
        ApiError: the client has gone, and nobody reads it.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError("The client has gone.", status=499, code="client_closed_request")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
