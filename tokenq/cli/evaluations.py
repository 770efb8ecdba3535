"""The evaluations of `tokenq eval TASK`: what each is asked for, and the module that does it."""

import importlib
from collections.abc import Callable
from typing import Any

from tokenq.cli.command import Command
from tokenq.evaluation.config import TASKS

SUMMARIES = {
    "preference": "how often rewards prefer the chosen response of a pair",
    "localisation": "how well read-outs find labelled errors",
    "first-error": "how often the first wrong step is named",
    "best-of-n": "accuracy against n, from stored samples",
    "generation": "how good stored answers are, beside their cost",
    "kl-frontier": "quality against KL from the reference",
    "win-rate": "who wins, from stored preferences or by a judge",
}

_SPELT_ELSEWHERE = {"input": "data", "file": "data", "model": "policy", "ref": "reference", "samples": "results"}
_SECTIONS = {"output": "what comes out", "traces": "what to read", "dtype": "how", "results": "what to judge"}


def _runner(task: str) -> Callable[[Any], int]:
    def run(config: Any) -> int:
        module = importlib.import_module(f"tokenq.cli.eval_{task.replace('-', '_')}")
        code: int = module.run(config)
        return code

    return run


def _again(_: Any) -> str:
    return "What was scored or answered is kept; the same command goes on from there."


EVALUATIONS: dict[str, Command] = {
    f"eval {task}": Command(config, _runner(task), _again, SUMMARIES[task], _SECTIONS, _SPELT_ELSEWHERE)
    for task, config in TASKS.items()
}
"""Every evaluation by the two words that it is asked for with."""
