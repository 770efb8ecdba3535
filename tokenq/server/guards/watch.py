"""What every request leaves behind: a line of the access log and its place in the metrics. No text, no key, no query.

The log says who asked what, when, and how it ended: nothing that was written or is to be written stands in it.
"""

import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenq.server.guards.metrics import Metrics

LOG = logging.getLogger("tokenq.access")
LOG.addHandler(logging.NullHandler())

GONE = 499
"""The status of a request whose client went before it was answered, as nginx has it."""

QUIET = ("/health", "/metrics")
"""Paths that are asked again and again, and are logged where something is wrong alone."""

_LONGEST = 120


@dataclass(frozen=True)
class Watch:
    """Logs and counts requests; a layer around an application.

    Attributes:
        app: what is asked.
        metrics: where they are counted.
    """

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(f"req-{secrets.token_hex(8)}")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = int(message["status"])
                MutableHeaders(scope=message)["x-request-id"] = seen.number
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception:
            seen.status = 500
            raise
        finally:
            self._count(scope, seen)

    def _count(self, scope: Scope, seen: "_Seen") -> None:
        seconds, path = time.perf_counter() - seen.began, route_of(scope)
        self.metrics.answered.labels(path, str(seen.status)).inc()
        if path not in QUIET:
            self.metrics.request.labels(path).observe(seconds)
        if seen.status >= 400:
            self.metrics.errors.labels(NAMED.get(seen.status, "server" if seen.status >= 500 else "request")).inc()
        if path in QUIET and seen.status < 400:
            return
        client, shown = (scope.get("client") or ("unknown", 0))[0], quote(str(scope["path"])[:_LONGEST])
        LOG.info("%s %s %s %d %.1f ms %s", client, scope["method"], shown, seen.status, 1e3 * seconds, seen.number)


@dataclass
class _Seen:
    number: str
    status: int = GONE
    began: float = field(default_factory=time.perf_counter)


NAMED = {
    400: "bad_request",
    401: "key",
    403: "forbidden",
    404: "not_found",
    408: "slow_body",
    413: "too_large",
    422: "invalid",
    429: "busy",
    499: "client_gone",
    503: "ending",
    504: "timeout",
}
"""Types of errors by status."""


def route_of(scope: Scope) -> str:
    """Return the path of a request as the server has it, `/sessions/{id}`; "other" where it has none.

    Whatever anybody asks for would else be a label of its own, and labels are kept for ever.
    """
    route: Any = scope.get("route")
    return "other" if route is None else str(route.path)
