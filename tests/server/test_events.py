"""Events of a stream: what it holds is called off however it ends, and an error stands in the place of a chunk."""

import asyncio
import json

import pytest
from starlette.requests import ClientDisconnect

from tokenq.server.errors import ApiError
from tokenq.server.openai.sse import Streamed

SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}}


def sent(bodies, *, fails=False):
    """Return what is sent, and how often it was closed, to a client that is gone where `fails`."""
    messages, closed = [], []

    async def send(message):
        if fails:
            raise OSError
        messages.append(message)

    async def receive():
        await asyncio.Event().wait()

    async def run():
        await Streamed(bodies, lambda: closed.append(True))(SCOPE, receive, send)

    if fails:
        with pytest.raises(ClientDisconnect):
            asyncio.run(run())
    else:
        asyncio.run(run())
    return b"".join(one.get("body", b"") for one in messages).decode(), len(closed)


async def two():
    yield {"n": 1}
    yield {"n": "é"}


async def broken():
    yield {"n": 1}
    raise ApiError("no more", status=503)


def test_objects_come_as_events_and_end():
    assert sent(two()) == ('data: {"n": 1}\n\ndata: {"n": "é"}\n\ndata: [DONE]\n\n', 1)


def test_an_error_stands_in_the_place_of_a_chunk():
    lines = sent(broken())[0].split("\n\n")
    error = json.loads(lines[1].removeprefix("data: "))["error"]
    assert (error["message"], error["type"]) == ("no more", "service_unavailable_error")
    assert lines[2] == "data: [DONE]"


def test_a_client_that_is_gone_before_the_first_event_frees_it():
    assert sent(two(), fails=True) == ("", 1)
