"""Headers that every answer has: what a browser may do with it, unless the answer says so itself."""

from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""What is said where an answer says nothing itself: it is data, belongs into no frame and is kept nowhere."""


@dataclass(frozen=True)
class Headers:
    """Adds headers to answers; a layer around an application.

    Attributes:
        app: what is asked.
        shared: whether pages of other addresses may read answers.
    """

    app: ASGIApp
    shared: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cross-origin-resource-policy", "cross-origin" if self.shared else "same-origin")
            await send(message)

        await self.app(scope, receive, sent)
