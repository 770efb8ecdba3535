"""Servers side by side: `python -m bench.serving --model FOLDER`.

Every server has the same weights in the same type, on the same cores, one after the other in turns: 1, 8 and 32 clients
at once each stream 64 tokens of a prompt of their own, greedily, through /v1/completions. Measured are tokens a second
of all streams together, and seconds from a request to its first text (median and 99th percentile). Rows of all turns
are kept, so that their spread is seen. A server that needs what is not installed is left out, in words.

`transformers serve` needs `pip install 'transformers[serving]'`, llama-cpp-python's server `[server]` and GGUF files
(`--gguf`), whose names say their precision. `python -m bench.serving --gguf-float32 OLD NEW` writes one in float32.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOKENS = 64
STREAMS = (1, 8, 32)
WORDS = (
    *("river", "mountain", "kitchen", "winter", "engine", "garden", "letter", "station"),
    *("doctor", "island", "market", "window", "teacher", "village"),
)


@dataclass(frozen=True)
class Rival:
    """A server.

    Attributes:
        name: in the table.
        words: its command line, with {model} and {port}.
        model: its name for the model in requests; None for the folder.
        needs: packages without which it does not start.
    """

    name: str
    words: tuple[str, ...]
    model: str | None = None
    needs: tuple[str, ...] = ()


_FOLDER = Path(sys.executable).parent
_TRANSFORMERS = (
    *(str(_FOLDER / "transformers"), "serve", "{model}", "--device", "cpu"),
    *("--dtype", "float32", "--port", "{port}"),
)

RIVALS = (
    Rival(
        "tokenq serve",
        (
            *(sys.executable, "-m", "tokenq", "serve", "--policy", "{model}", "--reference", "{model}"),
            *(
                "--model-name",
                "m",
                "--dtype",
                "float32",
                "--device",
                "cpu",
                "--port",
                "{port}",
                "--access-log",
                "false",
            ),
        ),
        "m",
    ),
    Rival("transformers serve", _TRANSFORMERS, None, ("fastapi", "uvicorn", "openai")),
    Rival(
        "transformers serve --continuous-batching",
        (*_TRANSFORMERS, "--continuous-batching"),
        None,
        ("fastapi", "uvicorn", "openai"),
    ),
)


def llama(gguf: Path, threads: int) -> Rival:
    """Return llama-cpp-python's server of a file."""
    words = (sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--port", "{port}")
    threads_of = ("--n_threads", str(threads), "--n_threads_batch", str(threads))
    own = (*threads_of, "--interrupt_requests", "false")  # by default a new request breaks off the one being written
    return Rival(f"llama-cpp-python, {gguf.stem}", (*words, *own), "m", ("llama_cpp", "sse_starlette"))


def as_float32(old: Path, new: Path) -> None:
    """Write the weights of a GGUF file in float32."""
    import llama_cpp

    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    if llama_cpp.llama_model_quantize(str(old).encode(), str(new).encode(), how):
        raise SystemExit(f"{old} could not be written as {new}.")


@dataclass(frozen=True)
class Stream:
    """What came of one request.

    Attributes:
        first: seconds to its first text.
        whole: seconds to its end.
        tokens: written, as the server counts them.
    """

    first: float
    whole: float
    tokens: int


def prompt_of(number: int) -> str:
    """Return a prompt that no other number has: some sixteen tokens."""
    words = [WORDS[(number * 7 + place * 3) % len(WORDS)] for place in range(6)]
    return f"Story {number}. Once there was a {' and a '.join(words)}, and"


async def streamed(port: int, model: str, number: int) -> Stream:
    """Ask for a stream by hand, so that the client costs next to nothing, and return what came of it."""
    body = {"model": model, "prompt": prompt_of(number), "max_tokens": TOKENS, "temperature": 0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    data, begin = json.dumps(body).encode(), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    first, tokens, pieces = None, 0, 0
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r} {await reader.read(2000)!r}")
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if any(choice.get("text") for choice in chunk.get("choices") or ()):
            first = first or time.perf_counter() - begin
            pieces += 1
        tokens = max(tokens, ((chunk.get("usage") or {}).get("completion_tokens")) or 0)
    writer.close()
    if first is None:
        raise RuntimeError("nothing was written")
    return Stream(first, time.perf_counter() - begin, tokens or pieces)


async def at_once(port: int, model: str, count: int, begin: int) -> tuple[float, list[Stream]]:
    """Return (seconds, streams) of so many clients at once."""
    start = time.perf_counter()
    found = await asyncio.gather(*(streamed(port, model, begin + number) for number in range(count)))
    return time.perf_counter() - start, list(found)


@contextlib.contextmanager
def running(rival: Rival, model: str, log: Path) -> Iterator[tuple[int, int]]:
    """Run a server and give its (port, process number) once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word.format(model=model, port=port) for word in rival.words]
    with log.open("ab") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 600
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{rival.name} did not start; {log} says why.")
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    for path in ("/health", "/v1/models"):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30):
            return True
    return False


def memory_of(process: int) -> float:
    """Return the resident memory of a process and of those it has started, in gigabytes."""
    import psutil

    own = psutil.Process(process)
    return sum(one.memory_info().rss for one in (own, *own.children(recursive=True))) / 1e9


def turn(rival: Rival, asked: argparse.Namespace, number: int) -> list[dict[str, Any]]:
    """Return the rows of one turn of one server."""
    rows, model = [], rival.model or asked.model
    with running(rival, asked.model, asked.output / "servers.log") as (port, process):
        asyncio.run(at_once(port, model, 1, 10_000))  # a first request pays for what is loaded late
        for count in asked.streams:
            seconds, streams = asyncio.run(at_once(port, model, count, 1000 * number + 100 * count))
            rows.append(
                {
                    "server": rival.name,
                    "streams": count,
                    "turn": number,
                    "tokens": sum(one.tokens for one in streams),
                    "seconds": seconds,
                    "first": [one.first for one in streams],
                    "gigabytes": memory_of(process),
                }
            )
            print(json.dumps({**rows[-1], "first": [round(one, 3) for one in rows[-1]["first"]]}), flush=True)
    return rows


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: medians of turns, with the least and the most in brackets."""
    lines = []
    for server, count in dict.fromkeys((row["server"], row["streams"]) for row in rows):
        own = [row for row in rows if (row["server"], row["streams"]) == (server, count)]
        rates = [row["tokens"] / row["seconds"] for row in own]
        firsts = [one for row in own for one in row["first"]]
        rate = f"{statistics.median(rates):.1f} [{min(rates):.1f}, {max(rates):.1f}]"
        both = (f"{quantile(firsts, share):.2f}" for share in (0.5, 0.99))
        lines.append([server, str(count), rate, *both, f"{max(row['gigabytes'] for row in own):.2f}"])
    head = ["server", "streams", "tokens/s", "first text, p50 s", "p99 s", "resident GB"]
    return markdown(head, lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure every server that starts, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a model, with weights in float32")
    parser.add_argument("--gguf", type=Path, nargs="*", default=(), help="the same as GGUF files, for llama-cpp-python")
    parser.add_argument("--gguf-float32", type=Path, nargs=2, help="write a GGUF file in float32, and end")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--only", nargs="*", default=(), help="beginnings of servers' names")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("runs/serving"))
    asked = parser.parse_args()
    if asked.gguf_float32:
        as_float32(*asked.gguf_float32)
        return
    if asked.model is None:
        parser.error("--model is needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no server is left behind
    asked.output.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    rivals = (*RIVALS, *(llama(one, asked.threads) for one in asked.gguf))
    chosen = [one for one in rivals if not asked.only or one.name.startswith(tuple(asked.only))]
    rows = []
    for rival in [one for one in chosen if not all(find_spec(name) for name in one.needs)]:
        print(f"{rival.name} is left out: it needs {', '.join(rival.needs)}.")
        chosen.remove(rival)
    for number in range(asked.turns):
        for rival in chosen:
            try:
                rows += turn(rival, asked, number)
            except RuntimeError as problem:
                print(f"{rival.name}: {problem}")
            (asked.output / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    print(summary(rows))


if __name__ == "__main__":
    main()
