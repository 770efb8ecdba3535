"""Bodies of requests, read whole before anything looks at them: no more than a limit, and not for ever."""

from dataclasses import dataclass

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenq.server.guards.refusal import Refusal

PATIENCE = 30.0
"""Seconds that the body of a request may take to arrive."""


@dataclass(frozen=True)
class Bodies:
    """Reads the body of a request and hands it on; a layer around an application.

    Attributes:
        app: what is asked.
        most: bytes of a body.
        patience: seconds until it has arrived.
    """

    app: ASGIApp
    most: int
    patience: float = PATIENCE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = await self._body(scope, receive)
        if isinstance(found, Refusal):
            await found.send(send)
        elif found is not None:
            await self.app(scope, _again(found, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Refusal | None:
        """Return the body, why it is refused, or None where the client has gone."""
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said[:20]) > self.most:
            return self._too_long()
        parts, size = list[bytes](), 0
        with anyio.move_on_after(self.patience):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self.most:
                    return self._too_long()
                if not message.get("more_body", False):
                    return b"".join(parts)
        said_slow = f"The request did not arrive within {self.patience:g} s."
        return Refusal(408, said_slow, "request_timeout", {"connection": "close"})

    def _too_long(self) -> Refusal:
        said = f"The request is longer than {self.most:,} bytes. The server's --max-body-bytes says how long it may be."
        return Refusal(413, said, "request_too_large", {"connection": "close"})


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then whatever comes."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return parts.pop() if parts else await receive()

    return given
