"""The door of the server: a table of what every request is asked before it comes in, and who is inside.

To ask something more, write a function and a row of `CHECKS`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenq.server.guards.hosts import Names
from tokenq.server.guards.keys import Keys, bearer, digest
from tokenq.server.guards.limits import Limits
from tokenq.server.guards.refusal import Refusal

OPEN = ("/", "/health", "/favicon.ico")
"""Paths that tell nothing of models or texts, and need no key; so does what stands below `STATIC`."""

STATIC = "/static/"
"""Below this are the files of the web app."""

ADMIN = (
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/pause", "/resume", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version"),
)
"""Paths that change what is served."""

UNCOUNTED = ("/health", "/metrics")
"""Paths that are answered whatever is under way, also while the server ends."""


@dataclass
class Gate:
    """Lets requests in, or says why not; a layer around an application.

    Attributes:
        app: what is asked.
        keys: who may ask.
        names: where from.
        limits: how much at once.
        draining: whether the server ends: what is under way goes on, and nothing else begins.
        inside: requests under way, by client.
        scopes: what ends them.
    """

    app: ASGIApp
    keys: Keys
    names: Names
    limits: Limits
    draining: bool = False
    inside: Counter[str] = field(default_factory=Counter)
    scopes: set[anyio.CancelScope] = field(default_factory=set, repr=False)

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return self.inside.total()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self.refusal(Request(scope))) is not None:
            await refusal.send(send)
        elif scope["path"] in UNCOUNTED:
            await self.app(scope, receive, send)
        else:
            client = Request(scope).client
            self.inside[client] += 1
            try:
                await self._in_time(scope, receive, send)
            finally:
                self.inside[client] -= 1
                self.inside += Counter()  # clients without requests are forgotten

    def refusal(self, asked: "Request") -> Refusal | None:
        """Return why a request is not let in, None where it is."""
        return next((said for check in CHECKS if (said := check(self, asked)) is not None), None)

    def break_off(self) -> None:
        """End all requests that are under way; called on the thread of the server."""
        for scope in self.scopes:
            scope.cancel()

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with anyio.move_on_after(self.limits.seconds) as time:
            self.scopes.add(time)
            try:
                await self.app(scope, receive, sent)
            finally:
                self.scopes.discard(time)
        if time.cancelled_caught and not begun:
            said = f"The request was not answered within {self.limits.seconds:g} s, the server's --request-seconds."
            late = Refusal(504, said, "timeout", kind="server_error")
            await (_ENDING if self.draining else late).send(send)


@dataclass(frozen=True)
class Request:
    """What a check looks at."""

    scope: Scope

    @property
    def path(self) -> str:
        """The path, without what is asked behind it."""
        return str(self.scope["path"])

    @property
    def headers(self) -> Headers:
        """The headers."""
        return Headers(scope=self.scope)

    @property
    def key(self) -> str:
        """The key that comes with it, "" for none."""
        return bearer(self.headers.get("authorization", ""))

    @property
    def client(self) -> str:
        """Who asks: whoever has the key, else the address."""
        address = str((self.scope.get("client") or ("unknown", 0))[0])
        return digest(self.key).hex()[:16] if self.key else address


def is_open(path: str) -> bool:
    """Return whether a path needs no key."""
    return path in OPEN or path.startswith(STATIC)


def _host(gate: Gate, asked: Request) -> Refusal | None:
    given = asked.headers.getlist("host")
    if len(given) == 1 and gate.names.knows(given[0]):
        return None
    said = "This server does not go by that name. If it should, start it with --allow-host NAME."
    return Refusal(403, said, "unknown_host")


def _origin(gate: Gate, asked: Request) -> Refusal | None:
    given = asked.headers.get("origin")
    if given is None or gate.names.admits(given, asked.headers.get("host", ""), str(asked.scope["scheme"])):
        return None
    said = "Pages of that address may not use this server. If they should, start it with --allow-origin ADDRESS."
    return Refusal(403, said, "unknown_origin")


_ENDING = Refusal(
    503,
    "The server is about to end.",
    "shutting_down",
    {"retry-after": "5", "connection": "close"},
    "server_error",
)


def _draining(gate: Gate, asked: Request) -> Refusal | None:
    if not gate.draining or asked.path == "/metrics":
        return None
    return _ENDING


def _key(gate: Gate, asked: Request) -> Refusal | None:
    if is_open(asked.path) or gate.keys.asks(asked.key):
        return None
    said = (
        "This server needs a key: Authorization: Bearer KEY." if not asked.key else "The key is not one of this server."
    )
    return Refusal(401, said, "invalid_api_key", {"www-authenticate": "Bearer"}, "authentication_error")


def _admin(gate: Gate, asked: Request) -> Refusal | None:
    if asked.path not in ADMIN or gate.keys.administers(asked.key):
        return None
    said = (
        "This needs the admin key."
        if gate.keys.admin
        else (
            "Nothing can be loaded: the server was started without an admin key (TOKENQ_ADMIN_KEY or --admin-key-file)."
        )
    )
    return Refusal(403, said, "admin_key_needed", kind="permission_error")


def _room(gate: Gate, asked: Request) -> Refusal | None:
    if asked.path in UNCOUNTED or gate.inside[asked.client] < gate.limits.of_a_client:
        return None
    said = f"{gate.limits.of_a_client} requests of yours are under way, and no more are taken at once."
    return Refusal(429, said, "too_many_requests", {"retry-after": "1"}, "rate_limit_error")


CHECKS: tuple[Callable[[Gate, Request], Refusal | None], ...] = (_host, _origin, _draining, _key, _admin, _room)
"""What is asked of every request, in this order: nobody without a key learns more than that one is needed."""
