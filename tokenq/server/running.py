"""A server that runs: in a thread of its own, until it is told to end; then it first ends what is under way."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

import uvicorn

from tokenq.errors import UserError
from tokenq.server.guards.guarded import Guarded

IDLE_SECONDS = 30
"""How long a connection may be open without a request."""

LAST_SECONDS = 2
"""What connections are given to close once nothing is under way, or it is broken off."""

HEAD_BYTES = 32 * 1024
"""Most bytes of the lines before a body."""

_NEVER = threading.Event()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address, before anything that takes time; clients are refused until a server takes it.

    Raises:
        UserError: the address is none of this machine, or taken.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as problem:
        raise UserError(f"--host {host}: there is no such address ({problem.strerror}).", "Try 127.0.0.1.") from problem
    found = socket.socket(family, kind, proto)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free again as soon as a server has ended
    try:
        found.bind(address)
    except OSError as problem:
        found.close()
        hint = "Give another one, or --port 0 for any that is free."
        raise UserError(f"Nothing can listen at {host}:{port}: {problem.strerror}.", hint) from problem
    return found


def url_of(host: str, port: int) -> str:
    """Return the address of a server, as it is reached from this machine."""
    near = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{near}:{port}"


class ServerHandle:
    """A server that runs; a context manager that ends it.

    Args:
        guarded: what is served.
        listening: the socket.
        host: what that is called.
        patience: seconds that requests under way have when the server ends.
        close: ends what is behind it.

    Attributes:
        url: where it is reached.
        port: the same as a number.
    """

    def __init__(
        self, guarded: Guarded, listening: socket.socket, host: str, patience: float, close: Callable[[], None]
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self.url = url_of(host, self.port)
        self._guarded, self._patience, self._close = guarded, patience, close
        self._ending = threading.Lock()
        self._broken_off = 0
        config = uvicorn.Config(
            guarded,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever asks could else say that it is somebody else
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=LAST_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, args=(listening,), name="tokenq-server", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        if not self._server.started:
            close()
            raise UserError("The server did not start.", "What it said before tells why.")

    def _run(self, listening: socket.socket) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve([listening])

        asyncio.run(run())

    def _break_off(self) -> None:
        """End what is under way, on the thread of the server; whoever reads nothing would else never be done."""
        self._guarded.gate.break_off()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return self._guarded.gate.running

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def stop(self, at_once: threading.Event | None = None) -> int:
        """End the server: new requests are answered 503, those under way end first, for as long as they may.

        Args:
            at_once: what is under way is broken off when this is set.

        Returns:
            How many requests were broken off.
        """
        with self._ending:
            if not self.alive:
                return self._broken_off
            self._guarded.gate.draining = True
            end = time.monotonic() + self._patience
            while self.running and self.alive and time.monotonic() < end and not (at_once or _NEVER).wait(0.02):
                pass
            self._broken_off = self.running
            if self._broken_off and self._loop is not None:
                self._loop.call_soon_threadsafe(self._break_off)
            self._server.should_exit = True
            self._thread.join()
            self._close()
            return self._broken_off

    def wait(self) -> None:
        """Serve until somebody ends it; Ctrl-C does."""
        try:
            while self.alive:
                self._thread.join(0.5)
        except KeyboardInterrupt:
            self.stop()

    def __enter__(self) -> "ServerHandle":
        """Return the server, which runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server; at once where the block has failed."""
        at_once = threading.Event()
        if problem is not None:
            at_once.set()
        self.stop(at_once)
