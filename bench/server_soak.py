"""A server in hard times: `python -m bench.server_soak --minutes 10 --requests 10000 --slow 500`.

A tiny model is served by `tokenq serve` in a process of its own. Clients ask for completions, streams, chats, log-probs
of prompts, rewards, traces, rankings and saved sessions; a fifth of the requests are bad (no JSON, unknown fields, too
long, no such model, another host) or called off in the middle; slow readers open streams and read a byte now and then.
All the while it is measured: resident memory, what runs and waits. At the end nothing may run, every good request must
have had its right answer (that of a first, quiet pass: greedy text and log-probs to 1e-5), every bad one its status,
and memory must be flat: its mean over the last fifth within 5 % of that over the second, when what is kept is full.
Then the server is killed with -9 while sessions are being saved, begun again, and asked for all that it had confirmed.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil

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


def write_tiny_pair(folder: Path) -> None:
    """Write a policy and a reference of one layer."""
    from tests.tiny import tiny_model, tiny_tokenizer

    for seed, name in enumerate("PR"):
        tiny_model("llama", layers=1, seed=seed).save_pretrained(folder / name)
        tiny_tokenizer("bytes").save_pretrained(folder / name)


@dataclass
class Server:
    """A server in a process of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, and wait until it answers."""
        models = ["--policy", self.folder / "P", "--reference", self.folder / "R"]
        words = [sys.executable, "-m", "tokenq", "serve", *models]
        words += ["--device", "cpu", "--port", self.port, "--sessions", self.folder / "sessions.sqlite"]
        words += ["--max-requests", 5000, "--max-kept-bytes", 2**22, "--request-seconds", PATIENCE]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log)
        for _ in range(1200):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=10).status_code == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text())

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(90)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)


async def soaked(server: Server, asked: argparse.Namespace) -> tuple[Soak, list[tuple[float, float]]]:
    """Run the soak and return it, with (seconds, MB) as they were measured."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client:
        soak = Soak(f"http://127.0.0.1:{server.port}", client, {}, random.Random(asked.seed))
        await quiet_pass(soak)
        begin, seconds = time.monotonic(), 60 * asked.minutes
        memory: list[tuple[float, float]] = []

        async def measure() -> None:
            while time.monotonic() < begin + seconds:
                memory.append((time.monotonic() - begin, server.memory))
                await asyncio.sleep(max(0.5, seconds / 600))

        slow = [asyncio.create_task(slow_reader(soak, begin + seconds)) for _ in range(asked.slow)]
        measuring = asyncio.create_task(measure())
        await asking(soak, asked.requests, begin, seconds, asked.at_once)
        await asyncio.gather(measuring, *slow)
        await idle(soak)
        return soak, memory


async def idle(soak: Soak) -> None:
    """Wait until nothing runs, and say what still does."""
    for _ in range(60):
        page = (await soak.client.get(f"{soak.url}/metrics")).text
        left = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line.startswith("tokenq:num_")}
        if not any(left.values()):
            return
        await asyncio.sleep(0.5)
    soak.held("left over", False, left)


async def killed(server: Server, soak: Soak) -> tuple[int, int]:
    """Kill the server while sessions are saved; return how many were confirmed, and how many of them are lost."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        soak.client = client

        async def saving() -> None:
            with contextlib.suppress(httpx.HTTPError):
                while True:
                    await saved(soak)

        tasks = [asyncio.create_task(saving()) for _ in range(8)]
        await asyncio.sleep(1.5)
        server.end(signal.SIGKILL)
        await asyncio.gather(*tasks)
        server.start()
        there = {one["id"] for one in (await client.get(f"{soak.url}/app/sessions")).json()}
    return len(soak.saved), len(soak.saved - there)


def verdict(soak: Soak, memory: list[tuple[float, float]], most: float) -> list[str]:
    """Print what was found, and return what failed."""
    fifth = len(memory) // 5
    before, after = (sum(one for _, one in some) / len(some) for some in (memory[fifth : 2 * fifth], memory[-fifth:]))
    print(f"requests: {soak.done.total()} {dict(sorted(soak.done.items()))}")
    shown = ", ".join(f"{at:.0f} s: {size:.0f}" for at, size in memory[:: max(1, len(memory) // 10)])
    print(f"resident MB: {shown}")
    print(f"second fifth {before:.1f} MB, last fifth {after:.1f} MB: {after / before - 1:+.1%}")
    for line in soak.wrong:
        print(f"WRONG {line}")
    failed = [f"{len(soak.wrong)} wrong or stuck"] if soak.wrong else []
    return [*failed, *(["memory grows"] if after / before - 1 > most else [])]


def main() -> None:
    """Run it and say whether it held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flat", type=float, default=0.05)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no server is left behind
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_pair(Path(folder))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(Path(folder), port)
        server.start()
        try:
            soak, memory = asyncio.run(soaked(server, asked))
            failed = verdict(soak, memory, asked.flat)
            confirmed, lost = asyncio.run(killed(server, soak))
            print(f"killed with -9 while saving: {confirmed} sessions confirmed, {lost} lost")
            code = server.end(signal.SIGTERM)
            print(f"SIGTERM: exit code {code}")
            failed += [f"{lost} sessions lost"] * bool(lost) + [f"exit code {code}"] * bool(code)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.process.kill()
        log = [line for line in (Path(folder) / "server.log").read_text().splitlines() if " req-" not in line]
        print("\n".join(["what the server said:", *log[:60]]))
    print("held" if not failed else f"FAILED: {'; '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
