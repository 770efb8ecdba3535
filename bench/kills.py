"""Kills: every command that takes time is killed at random moments, started again, and compared with one that was not.

    python -m bench.kills --commands train stream score search sweep win-rate --kills 50 --seed 0
    python -m bench.kills --commands demo --kills 10

Everything is imported once, and each attempt is a fork of this process: a start costs milliseconds in place of seconds,
so that fifty kills of a command take minutes. A child is killed (SIGKILL) after a time drawn between 0 and what an
undisturbed run takes, and started again as a user would (`--resume` for a training, else the same words), perhaps to be
killed again. What then lies on the disk must be what the undisturbed run left, bit for bit but for what a run costs
(seconds, memory, dates); anything else is counted by name. Nothing half-written and no lock may be left.
"""

import argparse
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

COST = {
    *("seconds", "tokens_per_second", "peak_memory_gb", "peak_memory", "cost", "started", "command", "resumed"),
    *("seconds_with_loading", "sha256", "config", "platform", "git", "facts", "folder", "path"),
}
"""What is never the same twice, and where it was."""


IMPORTED = (
    *("jobs.train", "jobs.score", "jobs.search", "jobs.sweep", "jobs.evaluate"),
    *("demo.demonstration", "demo.posts", "demo.processes"),
)
"""What is imported once, before anything is forked."""


class Task(NamedTuple):
    """A command that is killed.

    Attributes:
        words: (inputs, output) → the command line of a first start.
        again: the same of a later start.
        found: output → what it holds, without what a run costs.
    """

    words: Callable[[Path, Path], list[str]]
    again: Callable[[Path, Path], list[str]]
    found: Callable[[Path], Any]


def _train(inputs: Path, output: Path) -> list[str]:
    words = ["train", "--model", str(inputs / "policy"), "--data", str(inputs / "rows.jsonl"), "--output", str(output)]
    words += ["--max-steps", "12", "--batch-size", "4", "--save-steps", "2", "--eval-size", "4", "--eval-steps", "4"]
    return [*words, "--learning-rate", "1e-3", "--device", "cpu", "--reference-store", str(inputs / "store")]


def _stream(inputs: Path, output: Path) -> list[str]:
    words = [word for word in _train(inputs, output) if word not in ("--reference-store", str(inputs / "store"))]
    words[words.index("--eval-size") + 1] = "0.2"
    return [*words, "--streaming", "--shuffle-buffer", "8"]


def _resumed_stream(inputs: Path, output: Path) -> list[str]:
    return [*_stream(inputs, output), "--resume"]


def _resumed(inputs: Path, output: Path) -> list[str]:
    return [*_train(inputs, output), "--resume"]


def _models(inputs: Path) -> list[str]:
    return ["--policy", str(inputs / "policy"), "--reference", str(inputs / "reference"), "--device", "cpu"]


def _score(inputs: Path, output: Path) -> list[str]:
    words = ["score", *_models(inputs), "--data", str(inputs / "rows.jsonl"), "--output", str(output / "traces.jsonl")]
    return [*words, "--tokens-per-batch", "100"]


def _search(inputs: Path, output: Path) -> list[str]:
    words = ["search", *_models(inputs), "--prompts", str(inputs / "prompts.jsonl")]
    words += ["--output", str(output / "found.jsonl"), "--max-new-tokens", "12", "--batch-size", "5"]
    return [*words, "--method", "sample", "--n", "3"]


def _sweep(inputs: Path, output: Path) -> list[str]:
    words = ["sweep", *_models(inputs), "--prompts", str(inputs / "prompts.jsonl"), "--output", str(output)]
    words += ["--answer", "last_number", "--gold", "answer", "--pool", "3", "--max-new-tokens", "6"]
    return [*words, "--settings", "greedy", "sample n=2", "beam width=2"]


def _win_rate(inputs: Path, output: Path) -> list[str]:
    url = (inputs / "url").read_text()
    words = ["eval", "win-rate", "--results", f"ours={inputs / 'ours.jsonl'}", f"theirs={inputs / 'theirs.jsonl'}"]
    words += ["--judge", "m", "--base-url", url, "--answers", str(output / "answers.jsonl"), "--concurrency", "2"]
    return [*words, "--output", str(output / "win_rate.json"), "--resamples", "100"]


def _demo(inputs: Path, output: Path) -> list[str]:
    return ["demo", "--quick", "--output", str(output)]


def _trained(output: Path) -> Any:
    lines = {name: _lines(output / f"{name}.jsonl") for name in ("metrics", "held_out")}
    checkpoints = sorted(path.name for path in (output / "checkpoints").iterdir())
    return lines, _digest(output / "policy" / "model.safetensors"), checkpoints


def _demonstrated(output: Path) -> Any:
    def held(path: Path) -> list[Any]:
        # Rows are named by the file that they stand in, and so by where the demonstration is.
        return [bare(json.loads(line)) for line in path.read_text().replace(f"{output}/", "").splitlines()]

    runs = sorted(output.glob("*/policy/model.safetensors"))
    numbers = bare(json.loads((output / "report" / "numbers.json").read_text().replace(f"{output}/", "")))
    traces = sorted(output.glob("**/*.traces.jsonl"))
    return numbers, [(path.parent.parent.name, _digest(path)) for path in runs], [held(path) for path in traces]


TASKS = {
    "train": Task(_train, _resumed, _trained),
    "score": Task(_score, _score, lambda output: _digest(output / "traces.jsonl")),
    "stream": Task(_stream, _resumed_stream, _trained),
    "search": Task(_search, _search, lambda output: _lines(output / "found.jsonl")),
    "sweep": Task(
        _sweep,
        _sweep,
        lambda output: (
            bare(json.loads((output / "sweep.json").read_text())["points"]),
            [_lines(path) for path in sorted((output / "results").glob("*.jsonl"))],
        ),
    ),
    "win-rate": Task(
        _win_rate,
        _win_rate,
        lambda output: (
            bare(json.loads((output / "win_rate.json").read_text())["numbers"]),
            _lines(output / "win_rate.preferences.jsonl"),
            sorted(json.dumps(line) for line in _lines(output / "answers.jsonl")),
        ),
    ),
    "demo": Task(_demo, _demo, _demonstrated),
}


def bare(value: Any) -> Any:
    """Return a JSON value without what a run costs."""
    if isinstance(value, dict):
        return {name: bare(item) for name, item in value.items() if name not in COST}
    return [bare(item) for item in value] if isinstance(value, list) else value


def _lines(path: Path) -> list[Any]:
    return [bare(json.loads(line)) for line in path.read_text().splitlines()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_inputs(folder: Path) -> None:
    """Write two tiny models, rows, prompts with answers, and two systems' answers to them."""
    from tests.tiny import tiny_model, tiny_tokenizer
    from tokenq.files import write_json_lines
    from tokenq.records.results import Candidate, Cost, SearchResult

    for name, family in (("policy", "llama"), ("reference", "gpt_neox")):
        tiny_model(family, vocab_size=320).save_pretrained(folder / name)
        tiny_tokenizer("bpe").save_pretrained(folder / name)
    draw = random.Random(0)
    texts = ["".join(draw.choice("abcdefgh ,.") for _ in range(draw.randint(5, 60))) for _ in range(120)]
    rows = [{"prompt": texts[3 * i], "chosen": texts[3 * i + 1], "rejected": texts[3 * i + 2]} for i in range(40)]
    write_json_lines(folder / "rows.jsonl", rows)
    write_json_lines(folder / "prompts.jsonl", [{"prompt": text, "answer": "7"} for text in texts[:23]])
    for name, offset in (("ours", 0), ("theirs", 1)):
        found = [
            SearchResult(
                str(i), texts[i], "greedy", "likelihood",
                (Candidate(texts[-1 - i - offset], (1,), 0.0, (-1.0,), None, True),), Cost(1, 0, 0, 0.0, 1),
            ).to_dict()
            for i in range(40)
        ]  # fmt: skip
        write_json_lines(folder / f"{name}.jsonl", found)


class _Judge(http.server.BaseHTTPRequestHandler):
    """Prefers by a hash of the question, after a moment."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        time.sleep(0.02)
        code = re.findall(r"^Verdict(?: (\w+))?: A$", asked, re.MULTILINE)
        verdict = "AB"[hashlib.sha256(asked.encode()).digest()[0] % 2]
        text = f"Verdict {code[-1]}: {verdict}" if code and code[-1] else f"Verdict: {verdict}"
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 40, "completion_tokens": 5}
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [message],
            "usage": usage,
        }
        content = json.dumps(body).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client was killed

    def log_message(self, *_: object) -> None:
        pass


def started(words: list[str], log: Path) -> int:
    """Return the process id of a fork that does a command and ends with its exit code."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["tokenq", *words]
        from tokenq.cli.main import main

        code = main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, within: float) -> int | None:
    """Return the exit code of a child, None if it was killed after so many seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def campaign(name: str, kills: int, seed: int, folder: Path, inputs: Path) -> Counter[str]:
    """Kill a command so many times, and return how the runs came out.

    Args:
        name: of the task.
        kills: how many.
        seed: of the moments.
        folder: where outputs go; what differs stays there.
        inputs: what `make_inputs` wrote.
    """
    task, draw, counts = TASKS[name], random.Random(f"{seed} {name}"), Counter[str]()
    log, whole = folder / f"{name}.log", folder / f"{name}-whole"
    begin = time.monotonic()
    if ended(started(task.words(inputs, whole), log), 3600) != 0:
        raise SystemExit(f"{name}: the undisturbed run failed, see {log}")
    life, want = time.monotonic() - begin, task.found(whole)
    print(f"{name}: an undisturbed run takes {life:.1f} s", flush=True)
    number = 0
    while counts["kills"] < kills:
        number += 1
        output = folder / f"{name}-{number}"
        words, code, share = task.words(inputs, output), None, 1.0
        while code is None:
            disturbed, share = counts["kills"] < kills and draw.random() < share, 0.9 if name == "demo" else 0.3
            code = ended(started(words, log), draw.uniform(0, life) if disturbed else 3600)
            counts["kills"] += code is None
            words = task.again(inputs, output)
        left = [path for path in output.rglob(".*") if path.name.endswith((".partial", ".lock", ".lock.json"))]
        parts = list(output.rglob(".*.partial-*"))
        if code != 0:
            counts[f"exit code {code}"] += 1
        elif task.found(output) != want:
            counts["different"] += 1
        elif left or parts:
            counts[f"left behind: {(left or parts)[0].name}"] += 1
        else:
            counts["bit-equal"] += 1
            shutil.rmtree(output)
    return counts


def main() -> None:
    """Run the campaign and print how many kills, and how many runs came out in which way."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--commands", nargs="+", choices=TASKS, default=[name for name in TASKS if name != "demo"])
    flags.add_argument("--kills", type=int, default=50)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--folder", type=Path, default=Path("runs/kills"))
    given = flags.parse_args()
    folder = given.folder.resolve()
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    for name in IMPORTED:
        __import__(f"tokenq.{name}")
    import tokenq.models.reward_model  # noqa: F401 (for the children)

    make_inputs(inputs)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (inputs / "url").write_text(f"http://127.0.0.1:{server.server_address[1]}/v1")
    for name in given.commands:
        counts = campaign(name, given.kills, given.seed, folder, inputs)
        runs = sum(count for said, count in counts.items() if said != "kills")
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "kills")
        print(f"{name}: {counts['kills']} kills in {runs} runs: {said}", flush=True)
    server.shutdown()


if __name__ == "__main__":
    main()
