"""Seeded nonsense for every command: command lines, rows, files and run folders, and what each may come to.

A case is a pure function of its number. It makes its files in a folder of its own and returns the words of a command;
`refused` says that nothing but exit code 2 is right.
"""

import dataclasses
import gzip
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokenq.cli.main import COMMANDS

PAIRS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " a cafe"},
    {"prompt": "Two and two", "chosen": " make four, say I.", "rejected": " make five!"},
    {"prompt": "Once", "chosen": " more", "rejected": " again and again"},
    {"prompt": "Name a prime:", "chosen": " 7", "rejected": " 8"},
]
TURNS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in PAIRS
]
LABELLED = [{"prompt": row["prompt"], "completion": row["chosen"], "label": n % 2 == 0} for n, row in enumerate(PAIRS)]
STEPS = [{"prompt": f"Add {n}.", "completions": ["First.", f"So {n}."], "labels": [True, n > 1]} for n in range(4)]
RATED = [{"prompt": row["prompt"], "completion": row["chosen"], "reward": 0.5 * n} for n, row in enumerate(PAIRS)]
KINDS = {"dpo": PAIRS, "simpo": TURNS, "kto": LABELLED, "process": STEPS, "dro": RATED, "sft": PAIRS}
"""Rows that a loss learns from."""

WORDS = ["\x1b[31mred", "[/b]", "a" * 5000, "../..", "none", "\ud800", "💥 é", "-", "=", "{}", "%s%d", "a\nb"]
NUMBERS_REFUSED = ["nan", "inf", "-inf", "1e999", "many", "", "1,5", "0x10"]
NUMBERS_ODD = ["-1", "0", "1e18", "9" * 30, "1000000000", "-0.5", "1e-300"]
DEVICES = ["tpu", "nonsense", "cuda:77", "", "cuda:", "meta"]
CELLS: list[Any] = [
    *(None, "", " ", "\n", "\ud800", "\x00", "N/A", "nan", 0, -1, 0.7, 1e308, True, float("nan"), float("inf")),
    *([], {}, [[]], [None], ["a", 1], {"a": {"b": []}}, "[1, 2", '[{"role": "user"}]', "[{'role': 'user'}]"),
    *([{"role": "user", "content": "hi"}], [{"role": "nobody", "content": "x"}], [{"role": "assistant"}]),
    *([{"role": "assistant", "content": [{"type": "image", "url": "x"}]}], [{"role": "assistant", "content": None}]),
    *("x" * 100_000, "9" * 5000, "<s></s><|im_end|>", "\u2028\u202e", 10**30),
]  # fmt: skip
KEYS = [
    "image",
    "images",
    "history",
    "weight",
    "tools",
    "chat_template_kwargs",
    "margin",
    "score",
    "id",
    "label",
    "\ud800",
    "",
]
FILES = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "jsonl.zst", "arrow", "txt", ""]


@dataclass(frozen=True)
class Case:
    """One trial.

    Attributes:
        name: kind and number.
        make: (shared inputs, own folder) → words of the command.
        refused: whether exit code 2 is the only right end.
    """

    name: str
    make: Callable[[Path, Path], list[str]]
    refused: bool = False


def case(kind: str, number: int, seed: int) -> Case:
    """Return case `number` of a kind in `MAKERS`."""
    return MAKERS[kind](random.Random(f"{seed} {kind} {number}"), f"{kind}-{number}")


def base(command: str, place: Path, own: Path) -> list[str]:
    """Return a command line that works and is quick."""
    models = ["--policy", str(place / "policy"), "--reference", str(place / "reference"), "--device", "cpu"]
    pairs = str(place / "pairs.jsonl")
    out = str(own / "out")
    lines = {
        "train": ["--model", str(place / "policy"), "--data", pairs, "--output", out, "--batch-size", "4"],
        "score": [*models, "--data", pairs, "--output", f"{out}.jsonl"],
        "search": [*models, "--prompts", pairs, "--output", f"{out}.jsonl", "--max-new-tokens", "3", "--width", "2"],
        "sweep": [*models, "--prompts", str(place / "questions.jsonl"), "--answer", "last_number", "--gold", "answer",
                  "--output", out, "--max-new-tokens", "3", "--settings", "greedy", "--samples", "2"],
        "eval preference": [*models, "--data", pairs, "--output", f"{out}.json", "--resamples", "100"],
        "eval first-error": [*models, "--data", str(place / "steps.jsonl"), "--output", f"{out}.json",
                             "--resamples", "100"],
        "eval generation": ["--results", str(place / "answers.jsonl"), "--prompts", str(place / "questions.jsonl"),
                            "--answer", "last_number", "--output", f"{out}.json", "--resamples", "100"],
        "doctor": [str(place / "run"), "--output", f"{out}.json"],
        "compare": [str(place / "run"), str(place / "run2"), "--output", f"{out}.json"],
    }  # fmt: skip
    return [*command.split(), *lines[command]]


LINES = [
    "train",
    "train",
    "score",
    "search",
    "sweep",
    "eval preference",
    "eval first-error",
    "eval generation",
    "doctor",
    "compare",
]


def command_line(rng: random.Random, name: str) -> Case:
    """A command that works, with one flag more."""
    command = rng.choice(LINES)
    config = COMMANDS[command].config
    kinds = get_type_hints(config)
    flag = rng.choice([field.name for field in dataclasses.fields(config)])
    value, refused = _value(rng, flag, kinds[flag])
    words = [f"--{flag.replace('_', '-')}={value}"]
    if rng.random() < 0.05:
        words, refused = [rng.choice(["--nonsense", "--no-such-flag=3", "stray"])], True
    paths = {"output", "html", "figure", "config", "reference_store"}
    if flag in paths and not refused:  # what is written stays in the folder of the case
        return Case(
            name, lambda place, own: [*base(command, place, own), f"--{flag.replace('_', '-')}", str(own / "y")]
        )
    return Case(name, lambda place, own: [*base(command, place, own), *words], refused)


def _value(rng: random.Random, flag: str, kind: Any) -> tuple[str, bool]:
    """Return a value for a flag, and whether it must be refused."""
    options = [option for option in get_args(kind) if option is not type(None)]
    if type(None) in get_args(kind):
        kind = options[0]
    if get_origin(kind) is Literal:
        return rng.choice(["nonsense", "", "0", "AUTO "]), True
    if kind in (int, float):
        refused = rng.random() < 0.5
        return rng.choice(NUMBERS_REFUSED if refused else NUMBERS_ODD), refused
    if kind is bool:
        return rng.choice(["maybe", "2", ""]), True
    if flag == "device":
        return rng.choice(DEVICES), True
    return rng.choice(WORDS), False


def row(rng: random.Random, name: str) -> Case:
    """Rows that work, one of them with a cell or a key that does not."""
    loss = rng.choice(list(KINDS))
    rows: list[dict[str, Any]] = [dict(one) for one in KINDS[loss]]
    victim = rng.randrange(len(rows))
    for _ in range(rng.choice([1, 1, 2])):
        key = rng.choice([*rows[victim], *rows[victim], rng.choice(KEYS)])
        rows[victim][key] = rng.choice(CELLS)
    if rng.random() < 0.1:
        rows[victim] = rng.choice([[], 5, "text", None, {}])  # type: ignore[call-overload]  # nonsense on purpose
    command = rng.choice(["train", "train", "score", "search", "eval preference"])
    more = rng.choice([[], ["--bad-rows", "drop"]])

    def make(place: Path, own: Path) -> list[str]:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (own / "rows.jsonl").write_text(text, encoding="utf-8")
        words = base(command, place, own)
        flag = "--prompts" if command == "search" else "--data"
        words[words.index(flag) + 1] = str(own / "rows.jsonl")
        if command == "train":
            words += ["--loss", loss]
        return [*words, *more]

    return Case(name, make)


def file(rng: random.Random, name: str) -> Case:
    """A data file that is not what its name says, or only half of it."""
    ending, how = rng.choice(FILES), rng.choice(sorted(DAMAGE))
    command = rng.choice(["train", "score", "search"])
    draw = rng.randbytes(64), rng.random()

    def make(place: Path, own: Path) -> list[str]:
        path = own / (f"rows.{ending}" if ending else "rows")
        whole = "".join(json.dumps(one) + "\n" for one in PAIRS).encode()
        if ending.endswith("gz"):
            whole = gzip.compress(whole, mtime=0)
        DAMAGE[how](path, whole, *draw)
        words = base(command, place, own)
        words[words.index("--prompts" if command == "search" else "--data") + 1] = str(path)
        return words

    return Case(name, make)


DAMAGE: dict[str, Callable[[Path, bytes, bytes, float], object]] = {
    "whole": lambda path, whole, junk, at: path.write_bytes(whole),
    "cut": lambda path, whole, junk, at: path.write_bytes(whole[: int(at * len(whole))]),
    "junk": lambda path, whole, junk, at: path.write_bytes(junk),
    "junk inside": lambda path, whole, junk, at: path.write_bytes(whole[:40] + junk + whole[40:]),
    "empty": lambda path, whole, junk, at: path.write_bytes(b""),
    "blank": lambda path, whole, junk, at: path.write_bytes(b"\n\n  \n"),
    "utf-16": lambda path, whole, junk, at: path.write_bytes(whole.decode("latin-1").encode("utf-16")),
    "byte order marks": lambda path, whole, junk, at: path.write_bytes(b"\xef\xbb\xbf\xef\xbb\xbf" + whole),
    "nul": lambda path, whole, junk, at: path.write_bytes(b"\x00" * 100),
    "folder": lambda path, whole, junk, at: path.mkdir(),
    "link to itself": lambda path, whole, junk, at: path.symlink_to(path),
    "deep": lambda path, whole, junk, at: path.write_bytes(b"[" * 100_000),
    "array": lambda path, whole, junk, at: path.write_bytes(b'[1, "a", null]'),
    "columns": lambda path, whole, junk, at: path.write_bytes(b'{"prompt": {"0": "a"}, "chosen": {"0": "b"}}'),
    "table": lambda path, whole, junk, at: path.write_bytes(b"prompt,chosen,chosen\na,b,c\n"),
    "quotes": lambda path, whole, junk, at: path.write_bytes(b'prompt,chosen,rejected\n"a,b,c\n'),
}


def run_folder(rng: random.Random, name: str) -> Case:
    """A finished run of which one file is damaged."""
    how = rng.choice(["cut", "junk", "empty", "nul", "array", "deep", "value", "value", "value", "gone"])
    pick, text, draw = rng.random(), rng.choice(JUNK), (rng.randbytes(64), rng.random())
    command = rng.choice(["doctor", "compare", "score", "search", "resume", "eval"])

    def make(place: Path, own: Path) -> list[str]:
        run = own / "run"
        shutil.copytree(place / "run", run)
        files = sorted(one for one in run.rglob("*") if one.is_file() and one.suffix != ".safetensors")
        path = files[int(pick * len(files))]
        if how == "gone":
            path.unlink()
        elif how == "value":
            path.write_text(text)
        else:
            DAMAGE[how](path, path.read_bytes(), *draw)
        pairs = str(place / "pairs.jsonl")
        return {
            "doctor": ["doctor", str(run)],
            "compare": ["compare", str(run), str(place / "run2")],
            "score": ["score", "--run", str(run), "--data", pairs, "--output", str(own / "s.jsonl"), "--device", "cpu"],
            "search": ["search", "--run", str(run), "--prompt", "Go", "--max-new-tokens", "2", "--device", "cpu"],
            "resume": ["train", "--config", str(run / "config.yaml"), "--output", str(run), "--resume"],
            "eval": ["eval", "preference", "--run", str(run), "--data", pairs, "--device", "cpu"],
        }[command]

    return Case(name, make)


JUNK = [
    "[]",
    "{}",
    "5",
    "null",
    '"x"',
    '{"step": "x"}',
    '{"step": 1000000000}',
    '{"schema": 99}',
    "a: [1",
    '{"config": 3}',
    "[{}]\n5\n",
]

MAKERS: dict[str, Callable[[random.Random, str], Case]] = {
    "line": command_line,
    "row": row,
    "file": file,
    "run": run_folder,
}
"""Kinds of nonsense."""
