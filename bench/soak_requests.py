"""What the clients of `bench.server_soak` ask, with the answers that are right, and how they come to ask it."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

PROMPTS = [f"Question {one}: what is {one} and {one * 7 % 13}? {'a b c ' * (one % 5)}" for one in range(40)]
CLOSE = 1e-5
PATIENCE = 120.0
"""Seconds after which a request counts as stuck."""


@dataclass
class Soak:
    """A soak under way.

    Attributes:
        url: of the server.
        client: asks it.
        right: what the quiet pass was answered, by what was asked.
        dice: draws what is asked.
        done: requests by what became of them.
        wrong: what was not right, a line each.
        saved: sessions that were confirmed.
    """

    url: str
    client: httpx.AsyncClient
    right: dict[str, Any]
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    saved: set[str] = field(default_factory=set)

    def held(self, kind: str, fine: bool, what: object = "") -> None:
        """Count a request, and keep what was wrong with it."""
        self.done[kind] += 1
        if not fine and len(self.wrong) < 50:
            self.wrong.append(f"{kind}: {str(what)[:300]}")


def same(one: Any, other: Any) -> bool:
    """Return whether two answers are one: numbers to 1e-5, everything else exactly."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {*one} == {*other} and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= CLOSE
    return bool(one == other)


def completion(number: int) -> dict[str, Any]:
    """Return a request whose answer is always the same."""
    body: dict[str, Any] = {"prompt": PROMPTS[number], "max_tokens": 4 + number % 13, "temperature": 0, "logprobs": 2}
    if number % 3 == 0:
        body |= {"tokenq": {"rewards": True}}
    if number % 4 == 1:
        body |= {"echo": True}
    if number % 5 == 2:
        body |= {"n": 2, "seed": number, "temperature": 1.0}
    return body


GOOD: Mapping[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "completion": lambda number: ("/v1/completions", completion(number)),
    "trace": lambda number: ("/trace", {"prompt": PROMPTS[number], "response": f" {number} and so on."}),
    "rerank": lambda number: (
        "/rerank",
        {"query": PROMPTS[number], "documents": [f" {one}" for one in range(1 + number % 4)]},
    ),
    "tokens": lambda number: ("/tokenize", {"prompt": PROMPTS[number]}),
}
"""Requests with one right answer each."""

BAD: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "no JSON": (400, {"content": b'{"prompt": '}),
    "no text": (400, {"content": b"\xff\xfe\x00"}),
    "unknown field": (400, {"json": {"prompt": "a", "max_tokens": 1, "no_such_field": 1}}),
    "unknown model": (404, {"json": {"prompt": "a", "max_tokens": 1, "model": "no-such-model"}}),
    "too long": (400, {"json": {"prompt": "a" * 5000, "max_tokens": 1}}),
    "too many tokens": (400, {"json": {"prompt": "a", "max_tokens": 10**9}}),
    "too large": (413, {"content": b"x" * (9 * 2**20)}),
    "another host": (403, {"json": {"prompt": "a", "max_tokens": 1}, "headers": {"Host": "evil.example"}}),
    "another origin": (403, {"json": {"prompt": "a", "max_tokens": 1}, "headers": {"Origin": "http://evil.example"}}),
    "odd temperature": (400, {"json": {"prompt": "a", "max_tokens": 1, "temperature": -1}}),
}
"""Requests with the status that they must have."""


def told(answer: Any) -> Any:
    """Return what of an answer is the same each time."""
    if not isinstance(answer, dict):
        return answer
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


async def good(soak: Soak) -> None:
    """Ask for something with one right answer."""
    kind, number = soak.dice.choice(list(GOOD)), soak.dice.randrange(len(PROMPTS))
    path, body = GOOD[kind](number)
    answer = await patient(soak, "POST", path, json=body)
    right = soak.right.get(f"{kind} {number}")
    fine = answer.status_code == 200 and (right is None or same(told(answer.json()), right))
    soak.held(kind, fine, f"{number} {answer.status_code} {answer.text}")


async def patient(soak: Soak, method: str, path: str, **more: Any) -> httpx.Response:
    """Ask again while the server says that it is busy."""
    while True:
        answer = await soak.client.request(method, f"{soak.url}{path}", **more)
        if answer.status_code != 429:
            return answer
        soak.done["busy"] += 1
        await asyncio.sleep(float(answer.headers["retry-after"]) * soak.dice.uniform(0.5, 1.5))


async def streamed(soak: Soak) -> None:
    """Read a stream, whose text is that of the same request at once."""
    number = soak.dice.randrange(len(PROMPTS))
    body = {"prompt": PROMPTS[number], "max_tokens": 12, "temperature": 0, "stream": True}
    text, ended = "", False
    async with soak.client.stream("POST", f"{soak.url}/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            ended |= line == "data: [DONE]"
            if line.startswith("data: {"):
                text += "".join(one["text"] for one in json.loads(line[6:]).get("choices", []))
    if answer.status_code == 429:
        soak.done["busy"] += 1
        return
    right = soak.right[f"text {number}"]
    soak.held("stream", answer.status_code == 200 and ended and text == right, f"{number} {text!r} for {right!r}")


async def cancelled(soak: Soak) -> None:
    """Begin a stream and go away."""
    number = soak.dice.randrange(len(PROMPTS))
    body = {"prompt": PROMPTS[number], "max_tokens": 100, "stream": True, "n": 1 + number % 3}
    with anyio.move_on_after(soak.dice.uniform(0.001, 0.5)):
        async with soak.client.stream("POST", f"{soak.url}/v1/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                pass
    soak.held("cancelled", True)


async def bad(soak: Soak) -> None:
    """Ask for what must be refused."""
    name = soak.dice.choice(list(BAD))
    status, how = BAD[name]
    given = {name: value for name, value in how.items() if name != "headers"}
    headers = {"content-type": "application/json", **how.get("headers", {})}
    try:
        answer = await soak.client.post(f"{soak.url}/v1/completions", headers=headers, **given)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError) as problem:
        soak.held(f"bad: {name}", status == 413, repr(problem))  # it may hang up on a body that is too large
        return
    fine = answer.status_code == status and "error" in answer.json()
    soak.held(f"bad: {name}", fine, f"{answer.status_code} {answer.text}")


async def saved(soak: Soak) -> None:
    """Save a session with a branch."""
    name = f"s{soak.dice.getrandbits(60):x}"
    answer = await patient(soak, "POST", "/app/sessions", json={"id": name, "name": "soak", "prompt": PROMPTS[0]})
    soak.held("session", answer.status_code == 200, answer.text)
    if answer.status_code == 200:
        soak.saved.add(name)


async def slow_reader(soak: Soak, end: float) -> None:
    """Hold a stream and read a byte now and then, until the end."""
    port = int(soak.url.rsplit(":", 1)[1])
    body = json.dumps({"prompt": soak.dice.choice(PROMPTS), "max_tokens": 100, "stream": True}).encode()
    lines = ("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64)
            writer.write(head.encode() + body)
            until = min(end, time.monotonic() + soak.dice.uniform(5, 60))
            while time.monotonic() < until and await reader.read(1):
                await asyncio.sleep(soak.dice.uniform(0.2, 2.0))
            writer.close()
            soak.done["slow reader"] += 1
        await asyncio.sleep(0.5)


MIX: tuple[tuple[float, Callable[[Soak], Awaitable[None]]], ...] = (
    (0.55, good),
    (0.20, streamed),
    (0.05, saved),
    (0.10, bad),
    (0.10, cancelled),
)
"""What share of requests is what."""


async def asking(soak: Soak, count: int, begin: float, seconds: float, at_once: int) -> None:
    """Send so many requests, spread over the time, so many at once."""
    turn = iter(range(count))

    async def worker() -> None:
        for number in turn:
            await asyncio.sleep(max(0.0, begin + seconds * number / count - time.monotonic()))
            what = soak.dice.choices([one for _, one in MIX], [share for share, _ in MIX])[0]
            try:
                with anyio.fail_after(PATIENCE):
                    await what(soak)
            except TimeoutError:
                soak.held("stuck", False, what.__name__)
            except httpx.HTTPError as problem:
                soak.held("broken", False, f"{what.__name__} {problem!r}")

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def quiet_pass(soak: Soak) -> None:
    """Learn the right answers, one request after the other."""
    for number in range(len(PROMPTS)):
        for kind, make in GOOD.items():
            path, body = make(number)
            answer = await soak.client.post(f"{soak.url}{path}", json=body)
            assert answer.status_code == 200, answer.text
            soak.right[f"{kind} {number}"] = told(answer.json())
        body = {"prompt": PROMPTS[number], "max_tokens": 12, "temperature": 0}
        answer = await soak.client.post(f"{soak.url}/v1/completions", json=body)
        soak.right[f"text {number}"] = answer.json()["choices"][0]["text"]
