"""A server that runs: it begins, ends what is under way before it ends itself, and breaks off what does not end."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from tokenq.errors import UserError
from tokenq.server.guards.guarded import Guards, guarded
from tokenq.server.guards.limits import Limits
from tokenq.server.guards.metrics import Metrics
from tokenq.server.running import ServerHandle, bound, url_of

pytestmark = pytest.mark.integration


def running(patience=5.0, host="127.0.0.1", limits=None):
    """A server of one application, and what it did when it ended."""
    app, told = FastAPI(), []

    @app.get("/health")
    async def health():
        return "well"

    @app.get("/slow")
    async def slow(seconds: float = 0.4):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        return "done"

    @app.get("/stream")
    async def stream(parts: int = 20, size: int = 1):
        async def written():
            try:
                for part in range(parts):
                    yield f"{part} ".ljust(size)
                    await asyncio.sleep(0.02)
            finally:
                told.append("closed")

        return StreamingResponse(written())

    made = guarded(app, Guards(limits=limits or Limits()), Metrics())
    handle = ServerHandle(made, bound(host, 0), host, patience, lambda: told.append("ended"))
    return handle, told


class Asking(threading.Thread):
    """Asks in a thread of its own."""

    def __init__(self, url):
        super().__init__()
        self.url, self.text, self.problem = url, None, None
        self.start()

    def run(self):
        try:
            self.text = httpx.get(self.url, timeout=20).text
        except httpx.HTTPError as problem:
            self.problem = problem


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_answers_when_it_is_made_and_not_when_it_has_ended():
    handle, told = running()
    with handle:
        assert handle.url == f"http://127.0.0.1:{handle.port}"
        answer = httpx.get(f"{handle.url}/health")
        assert (answer.status_code, answer.headers.get("server")) == (200, None)
    assert not handle.alive
    assert told == ["ended"]
    assert handle.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{handle.url}/health")


def test_what_is_under_way_ends_and_nothing_new_begins():
    handle, told = running()
    slow, stream = Asking(f"{handle.url}/slow"), Asking(f"{handle.url}/stream")
    until(lambda: handle.running == 2)
    ending = threading.Thread(target=handle.stop)
    ending.start()
    until(lambda: httpx.get(f"{handle.url}/health").status_code == 503)
    late = httpx.get(f"{handle.url}/slow")
    assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
    for one in (slow, stream, ending):
        one.join(10)
    assert (slow.text, stream.text.split()) == ('"done"', [str(part) for part in range(20)])
    assert told == ["closed", "ended"]


def test_what_does_not_end_in_time_is_broken_off():
    handle, told = running(patience=0.1)
    slow = Asking(f"{handle.url}/slow?seconds=30")
    until(lambda: handle.running == 1)
    begin = time.monotonic()
    assert handle.stop() == 1
    assert time.monotonic() - begin < 5
    slow.join(10)
    assert slow.problem is not None  # the connection is gone
    assert told == ["cancelled", "ended"]


def test_whoever_cannot_wait_ends_it_at_once():
    handle, told = running(patience=60.0)
    slow = Asking(f"{handle.url}/slow?seconds=30")
    until(lambda: handle.running == 1)
    at_once = threading.Event()
    ending = threading.Thread(target=handle.stop, args=(at_once,))
    ending.start()
    time.sleep(0.1)
    assert handle.alive
    at_once.set()
    ending.join(5)
    slow.join(5)
    assert not handle.alive
    assert told == ["cancelled", "ended"]


def test_a_reader_that_reads_nothing_does_not_hold_it():
    handle, _ = running(patience=0.2)
    with socket.create_connection(("127.0.0.1", handle.port)) as lazy:
        lazy.sendall(b"GET /stream?parts=1000&size=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: handle.running == 1)
        begin = time.monotonic()
        assert handle.stop() == 1
    assert time.monotonic() - begin < 6


def test_a_stream_that_takes_too_long_is_cut():
    handle, told = running(limits=Limits(seconds=0.1))
    with handle, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{handle.url}/stream")
    assert told == ["closed", "ended"]


def test_a_block_that_fails_ends_it_at_once():
    handle, _ = running(patience=60.0)
    slow = Asking(f"{handle.url}/slow?seconds=30")
    until(lambda: handle.running == 1)
    with pytest.raises(ZeroDivisionError), handle:
        raise ZeroDivisionError
    slow.join(5)
    assert not handle.alive


def test_a_port_that_is_taken_and_an_address_of_another_machine():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Nothing can listen at 127.0.0.1:{port}: Address already in use") as taken:
            bound("127.0.0.1", port)
    assert "--port 0" in str(taken.value)
    with pytest.raises(UserError, match=r"Nothing can listen at 192\.0\.2\.1:0"):
        bound("192.0.2.1", 0)
    with pytest.raises(UserError, match="no such address"):
        bound("no-such-name.invalid", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7"),
        ("0.0.0.0", "http://127.0.0.1:7"),
        ("::", "http://[::1]:7"),
        ("::1", "http://[::1]:7"),
        ("localhost", "http://localhost:7"),
    ],
)
def test_urls(host, url):
    assert url_of(host, 7) == url


@pytest.mark.parametrize(
    "said",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"\r\n" * 9,
    ],
)
def test_what_is_no_request_is_refused_and_ends_nothing(said):
    handle, _ = running()
    with handle:
        answer = b""
        where = "127.0.0.1", handle.port
        with socket.create_connection(where, timeout=5) as client, contextlib.suppress(ConnectionError):
            client.sendall(said)
            with contextlib.suppress(OSError):  # it may have hung up by now; one that only waits is found out below
                client.shutdown(socket.SHUT_WR)
            answer = client.recv(4096)
        assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 403")
        assert httpx.get(f"{handle.url}/health").status_code == 200
