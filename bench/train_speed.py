"""The speed and memory of training, tokenq beside TRL, each case in a fresh process, one after the other.

    python -m bench --model FOLDER --data hh_harmless.jsonl.gz      about 40 minutes on two cores with a 270M model
    python -m bench --model FOLDER --sections search                searches beside transformers' generate
    python -m bench --quick                                         a tiny model: shows in a minute that everything runs

This process imports neither torch nor transformers: on Linux a child's peak memory begins at its parent's.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cases import BETA, LEARNING_RATE, QUICK, SECTIONS, Case, Plan
from bench.tables import LEGEND, claims, table

PACKAGES = ("tokenq", "trl", "torch", "transformers", "accelerate", "datasets", "numpy")


def main(words: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, and write results.json and results.md."""
    asked = _parse(words)
    plan = replace(QUICK if asked.quick else Plan(), **_sizes(asked))
    cases = [case for section in asked.sections for case in SECTIONS[section](plan)]
    asked.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tokenq-bench-") as scratch:
        bench = _Bench(asked, Path(scratch))
        about = {"machine": machine(asked.threads), "pairs": bench.prepare(), "arguments": _plain(asked)}
        results: list[dict[str, Any]] = []
        for number, case in enumerate(cases, 1):
            print(f"[{number}/{len(cases)}] {case.section}: {case.system}, {case.setting}", file=sys.stderr, flush=True)
            results.append(bench.measure(case, number))
            report = {**about, "minutes": (time.perf_counter() - begin) / 60, "results": results}
            (asked.output / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    text = page(report)
    (asked.output / "results.md").write_text(text)
    print(text)
    if any("failed" in result for result in results):
        sys.exit(1)


def page(report: dict[str, Any]) -> str:
    """Return the results as Markdown: the machine, the rules, the table, the claims."""
    asked = report["arguments"]
    where = "\n".join(f"- {key}: {value}" for key, value in {**report["machine"], **report["pairs"]}.items())
    rules = (
        f"- rules: full fine-tuning in {asked['dtype']} on {asked['device']}, AdamW, learning rate {LEARNING_RATE:g}, "
        f"DPO with beta {BETA:g}, {asked['batch_size']} pairs an update, the same token ids in the same order, one "
        "process per row; TRL without gradient checkpointing, which is faster (its default is in section trl)"
    )
    found = "\n".join(f"- {line}" for line in claims(report["results"]))
    return f"{where}\n{rules}\n\n{table(report['results'])}\n\n{LEGEND}\n\n{found}\n"


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} (not installed)")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
    }


class _Bench:
    """The cases' common ground: a scratch folder with workloads and stores, and how a worker is started.

    Args:
        asked: the command line.
        scratch: a folder that is removed afterwards.
    """

    def __init__(self, asked: argparse.Namespace, scratch: Path) -> None:
        self.asked = asked
        self.scratch = scratch
        self.model = str(scratch / "model") if asked.quick else asked.model

    def prepare(self) -> dict[str, Any]:
        """Write the workloads."""
        sizes = _sizes(self.asked)
        about = self._run({"task": "prepare", "data": self.asked.data or "", "sizes": sizes}, "prepare")
        if "failed" in about:
            sys.exit(f"The pairs could not be prepared: {about['failed']}")
        return about

    def measure(self, case: Case, number: int) -> dict[str, Any]:
        """Return what a case gave, or why it gave nothing."""
        name = f"{number:02d}-{case.system}"
        job = {"task": "measure", "case": case.to_dict(), "output": str(self.scratch / f"run-{name}")}
        return {"case": case.to_dict(), **self._run(job, name)}

    def _run(self, job: dict[str, Any], name: str) -> dict[str, Any]:
        paths = {kind: self.scratch / f"{name}.{kind}" for kind in ("job", "result")}
        asked = self.asked
        names = ("quick", "threads", "max_length", "batch_size", "device", "dtype")
        common = {"folder": str(self.scratch), "model": self.model, **{name: vars(asked)[name] for name in names}}
        paths["job"].write_text(json.dumps({**common, **job}))
        log = asked.output / f"{name}.log"
        with log.open("w") as file:
            command = [sys.executable, "-m", "bench.worker", str(paths["job"]), str(paths["result"])]
            code = subprocess.run(command, stdout=file, stderr=file, env=self._environment(), check=False).returncode
        if code == 0:
            log.unlink()
            result: dict[str, Any] = json.loads(paths["result"].read_text())
            return result
        last = log.read_text().strip().splitlines()[-1:] or [""]
        return {"failed": f"exit code {code} {last[0][:200]} ({log})"}

    def _environment(self) -> dict[str, str]:
        threads = str(self.asked.threads)
        own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        # TRL keeps precomputed log-probs in the cache of `datasets`: none of an earlier run may serve this one.
        own |= {"HF_DATASETS_CACHE": str(self.scratch / "datasets"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if self.asked.quick or Path(self.asked.model).is_dir():
            own["HF_HUB_OFFLINE"] = "1"
        return {**os.environ, **own}


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="folder or hub id of the language model")
    parser.add_argument("--data", help="preference data, in any form that tokenq train takes")
    parser.add_argument("--max-length", type=int, default=512, help="leave out longer pairs (%(default)s)")
    parser.add_argument("--pairs", type=int, help=f"pairs in tokenq's own sections ({Plan.pairs})")
    parser.add_argument("--trl-pairs", type=int, help=f"of these, pairs beside TRL ({Plan.trl_pairs})")
    parser.add_argument(
        "--option-pairs", type=int, help=f"of these, pairs for TRL's options and several epochs ({Plan.option_pairs})"
    )
    parser.add_argument("--budgets", type=int, nargs="+", help=f"tokens a forward beside TRL {Plan.budgets}")
    parser.add_argument("--budget", type=int, help=f"tokens a forward elsewhere ({Plan.budget})")
    parser.add_argument("--per-device", type=int, nargs="+", help=f"TRL's batch sizes {Plan.per_device}")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs in an update (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="of weights and arithmetic (%(default)s)")
    parser.add_argument("--search-prompts", type=int, help=f"prompts searched side by side ({Plan.search_prompts})")
    parser.add_argument("--new-tokens", type=int, help=f"tokens written by a search ({Plan.new_tokens})")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--threads", type=int, help="threads of a process (all cores; 1 in a quick run)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of the results (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a handful of random pairs")
    asked = parser.parse_args(words)
    if asked.model is None and asked.data is None:
        asked.quick = True
        print("No --model and no --data: the quick run, whose times say nothing about real models.", file=sys.stderr)
    elif not asked.quick and (asked.model is None or (asked.data is None and set(asked.sections) != {"search"})):
        parser.error("give both --model and --data, or neither for the quick run; --sections search needs no --data")
    asked.threads = asked.threads or (1 if asked.quick else os.cpu_count())
    if any(asked.batch_size % n for n in asked.per_device or ()):
        parser.error(f"--per-device must divide {asked.batch_size}")
    if asked.device != "cpu" and {"score", "search"} & set(asked.sections):
        parser.error("sections score and search are measured on the CPU; name others with --sections")
    return asked


def _sizes(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the sizes of the plan that the command line sets."""
    names = ("pairs", "trl_pairs", "option_pairs", "budgets", "budget", "per_device", "search_prompts", "new_tokens")
    return {name: value for name in names if (value := vars(asked)[name]) is not None}


def _plain(asked: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
