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
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.soak_requests import PATIENCE, Soak, asking, quiet_pass, saved, slow_reader


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
