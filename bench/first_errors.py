"""How long `tokenq eval first-error` takes on stored traces: ProcessBench's solutions with made-up numbers.

`python -m bench.first_errors --cases processbench_gsm8k.jsonl.gz processbench_math.jsonl.gz --folder OUT` writes traces
(the cases are repeated until there are so many; pieces of about four characters stand for tokens) and evaluates them,
with the usual read-outs and, where alternatives are kept (`--top-k 5`), with all. `--suffix parquet` stores them by
columns.
"""

import argparse
import gzip
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tokenq.evaluation.readouts import READOUTS
from tokenq.records.trace_columns import batch_of
from tokenq.records.trace_files import write_traces
from tokenq.records.traces import TokenTrace

BETA = 0.1
PIECE = re.compile(r"\s?[^\W\d_]{1,8}|\s?\d{1,2}|\s?[^\w\s]{1,2}|\s+|_")
NUMBERS = ("logp", "ref_logp", "entropy", "ref_entropy", "kl", "ref_kl")


def made_up(name: str, row: dict[str, Any], kept: int) -> dict[str, Any]:
    """Return a trace of a solution, as `tokenq score --levels step` stores it, with random numbers.

    Args:
        name: of the trace.
        row: a row of ProcessBench.
        kept: alternatives of each model at every token.
    """
    rng = np.random.default_rng(len(name) + len(row["problem"]))
    steps = [step + "\n\n" for step in row["steps"]]
    pieces = [PIECE.findall(step) or [step] for step in steps]
    texts = [piece for own in pieces for piece in own]
    ends = list(accumulate(map(len, texts)))
    table = np.abs(rng.normal(size=(len(texts), len(NUMBERS)))) * [-1, -1, 1, 1, 1, 1]
    rewards = BETA * (table[:, 0] - table[:, 1])
    values = np.cumsum(rewards)
    tokens = []
    for place, (text, end) in enumerate(zip(texts, ends, strict=True)):
        own = dict(zip(NUMBERS, table[place].tolist(), strict=True))
        others = [
            {"id": i, "text": text, "logp": -float(i), "ref_logp": -1.5 * i, "implicit_reward": 0.05 * i}
            for i in range(kept)
        ]
        own |= {
            "id": place,
            "text": text,
            "start": end - len(text),
            "end": end,
            "written": True,
            "rank": 0,
            "ref_rank": 0,
        }
        own |= {"implicit_reward": float(rewards[place]), "prefix_value": float(values[place])}
        own |= {"advantage": BETA * own["logp"], "centred_advantage": BETA * (own["logp"] + own["entropy"])}
        tokens.append(
            own | {"likely": others, "ref_likely": others, "favoured": others[::-1], "reward": None, "outputs": []}
        )
    borders = [0, *accumulate(map(len, pieces))]
    letters = [0, *accumulate(map(len, steps))]
    spans = [
        {
            **{"level": "step", "start": letters[i], "end": letters[i + 1], "first": first, "last": last},
            **{"tokens": last - first, "sum": float(rewards[first:last].sum()), "mean": 0.0, "min": 0.0, "final": 0.0},
            **{"end_value": float(values[last - 1]), "label": row["label"] < 0 or i < row["label"], "reward": None},
        }
        for i, (first, last) in enumerate(pairwise(borders))
    ]
    totals = {
        "implicit_reward": float(values[-1]),
        "logp": float(table[:, 0].sum()),
        "ref_logp": float(table[:, 1].sum()),
    }
    totals |= {"tokens": len(texts), "reward": None, "outputs": []}
    return {
        **{"schema": 1, "id": name, "prompt": row["problem"], "response": "".join(texts), "side": None, "beta": BETA},
        **{"gauge": "normalised", "terminal": True, "policy": {"path": "made up"}, "reference": {"path": "made up"}},
        **{"tokens": tokens, "spans": spans, "totals": totals, "warnings": [], "label": None, "score": None},
        "reward_model": None,
    }


def traces(cases: list[Path], count: int, kept: int) -> Iterator[dict[str, Any]]:
    """Yield so many traces of the cases, which are repeated with prompts of their own."""
    rows = [json.loads(line) for path in cases for line in gzip.decompress(path.read_bytes()).splitlines()]
    for number, row in enumerate(islice(cycle(rows), count)):
        again = f" ({number // len(rows)})" if number >= len(rows) else ""
        yield made_up(f"{row['id']}{again}", row | {"problem": row["problem"] + again}, kept)


def evaluated(path: Path, *words: str) -> dict[str, float]:
    """Return wall time, CPU time and peak memory of an evaluation in a process of its own."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "tokenq", "eval", "first-error", "--traces", str(path), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - begin, "cpu": cpu, "peak_gb": after.ru_maxrss / 2**20}


def main() -> None:
    """Write the traces, evaluate them, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3400)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--suffix", default="jsonl", choices=["jsonl", "parquet"])
    parser.add_argument("--top-k", type=int, default=0, help="alternatives at every token; all read-outs need one")
    given = parser.parse_args()
    path = given.folder / f"traces.{given.suffix}"
    if not path.exists():
        rows = map(TokenTrace.from_dict, traces(given.cases, given.count, given.top_k))
        write_traces(path, (batch_of([row]) for row in rows))
    print(f"{given.count} traces, {path.stat().st_size / 1e6:.0f} MB")
    ways = {"the usual read-outs": [], "all read-outs": ["--readouts", *READOUTS]}
    for name, words in ways.items() if given.top_k else [*ways.items()][:1]:
        print(name, {key: round(value, 1) for key, value in evaluated(path, *words).items()}, flush=True)


if __name__ == "__main__":
    main()
