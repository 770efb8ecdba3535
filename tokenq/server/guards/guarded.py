"""An application behind its guards: the layers in their order, the door that a server closes, the numbers."""

from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenq.server.guards.bodies import Bodies
from tokenq.server.guards.gate import Gate
from tokenq.server.guards.headers import Headers
from tokenq.server.guards.hosts import Names
from tokenq.server.guards.keys import Keys
from tokenq.server.guards.limits import Limits
from tokenq.server.guards.metrics import Metrics
from tokenq.server.guards.watch import Watch

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SENT = ("authorization", "content-type")
SHOWN = ("retry-after", "x-request-id")
"""Headers that pages of other addresses may send, and read."""


@dataclass(frozen=True)
class Guards:
    """What stands before an application.

    Attributes:
        keys: who may ask.
        names: where from.
        limits: how much at once.
    """

    keys: Keys = field(default_factory=Keys)
    names: Names = field(default_factory=Names)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Guarded:
    """An application behind its guards.

    Attributes:
        app: all of it.
        gate: its door.
        metrics: its numbers.
    """

    app: ASGIApp
    gate: Gate
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.app(scope, receive, send)


def guarded(app: FastAPI, guards: Guards, metrics: Metrics) -> Guarded:
    """Return an application behind its guards, with its numbers at /metrics.

    Args:
        app: the endpoints.
        guards: what stands before them.
        metrics: where requests are counted.
    """

    async def numbers(request: Request) -> Response:
        page, kind = metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": kind})

    app.add_route("/metrics", numbers, include_in_schema=False)
    gate = Gate(Bodies(app, guards.limits.body_bytes), guards.keys, guards.names, guards.limits)
    inner: ASGIApp = gate
    if guards.names.origins:
        allowed = sorted(guards.names.origins)
        inner = CORSMiddleware(
            gate, allowed, allow_methods=METHODS, allow_headers=SENT, expose_headers=SHOWN, allow_credentials=False
        )
    return Guarded(Headers(Watch(inner, metrics), shared=bool(guards.names.origins)), gate, metrics)
