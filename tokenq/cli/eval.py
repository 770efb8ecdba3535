"""`tokenq eval TASK`: what traces, answers or preferences are worth, one task at a time."""

from functools import partial
from typing import TYPE_CHECKING, Any

from tokenq.cli.command import Command
from tokenq.evaluation.config import TASKS, Evaluation, ReadEvaluation

if TYPE_CHECKING:
    from tokenq.jobs.evaluated import Evaluated

SUMMARIES = {
    "preference": "how often rewards prefer the chosen response of a pair",
    "localisation": "how well read-outs find labelled errors",
    "first-error": "how often the first wrong step is named",
    "turns": "how well wrong turns of episodes are told",
    "best-of-n": "accuracy against n, from stored samples",
    "generation": "how good stored answers are, beside their cost",
    "kl-frontier": "quality against KL from the reference",
    "win-rate": "who wins, from stored preferences or by a judge",
    "density": "whether rewards go by what is said or by length, and how dense answers are",
}

_SPELT_ELSEWHERE = {"input": "data", "file": "data", "model": "policy", "ref": "reference", "samples": "results"}
_OUT = {"output": "what comes out", "dtype": "how", "tokens_per_batch": "how"}
_READ = dict.fromkeys(("policy", "traces", "columns", "reward_model"), "what to read") | _OUT
_JUDGED = dict.fromkeys(("preferences", "results", "reward_model"), "what to judge") | _OUT


def run(task: str, config: Evaluation) -> int:
    """Evaluate, show the tables, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.evaluate import evaluate
    from tokenq.terminal.progress import Progress

    with Progress(1) as progress:
        found = evaluate(task, **vars(config), listener=progress)
    return show(found)


def show(found: "Evaluated") -> int:
    """Show the tables of an outcome, and return 0."""
    from tokenq.report.outcome import tables
    from tokenq.terminal.console import screen

    screen().print(*tables(found.outcome.tables))
    return 0


def _again(_: Any) -> str:
    return "What was scored or answered is kept; the same command goes on from there."


EVALUATIONS: dict[str, Command] = {
    f"eval {task}": Command(
        config,
        partial(run, task),
        _again,
        SUMMARIES[task],
        _READ if issubclass(config, ReadEvaluation) else _JUDGED,
        _SPELT_ELSEWHERE,
    )
    for task, config in TASKS.items()
}
"""Every evaluation by the two words that it is asked for with."""
