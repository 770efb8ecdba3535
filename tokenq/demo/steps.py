"""What both demonstrations do, in their own world or with a model and data of one's own: jobs on files of a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.evaluation.sweep import Point
from tokenq.figures.drift import Training
from tokenq.figures.section import Section
from tokenq.files import JsonLines
from tokenq.jobs.score import score
from tokenq.jobs.search import search
from tokenq.jobs.sweep import sweep
from tokenq.jobs.train import train
from tokenq.records.results import Candidate, SearchResult
from tokenq.records.traces import TokenTrace
from tokenq.report.outcome import tables
from tokenq.report.sweep import sweep_tables
from tokenq.rundir import RunDir
from tokenq.stats.outcome import Table
from tokenq.terminal.console import screen
from tokenq.terminal.progress import Progress

Quality = Callable[[SearchResult, Candidate], float]

EVALUATIONS = 8
"""Evaluations on held-out pairs during a training whose course is shown."""


@dataclass(frozen=True)
class DemoReport:
    """What a demonstration came to.

    Attributes:
        sections: its figures.
        summary: tables that stand before them.
    """

    sections: Sequence[Section]
    summary: Sequence[Table]


def trained(output: Path, **settings: Any) -> Path:
    """Train as `tokenq train` would, keep no checkpoints, and return the folder of the policy.

    A training that has come to its end is not done again; one that was stopped begins again.
    """
    run = RunDir(output)
    if not run.policy.exists():
        with Progress(1000) as progress:
            train(output=output, keep_checkpoints=0, resume=True, listener=progress, **settings)
    return run.policy


def answers(output: Path, **settings: Any) -> list[SearchResult]:
    """Search as `tokenq search` would, and return what was found."""
    with Progress(1) as progress:
        return list(search(output=output, listener=progress, **settings))


def traces(output: Path, **settings: Any) -> list[TokenTrace]:
    """Score as `tokenq score` would, and return the traces."""
    with Progress(1) as progress:
        found = score(output=output, listener=progress, levels=(), top_k=3, **settings)
    return [one for one in found if isinstance(one, TokenTrace)]


def training(name: str, run: Path, held_out: Path, *, drawn: bool, device: str) -> Training:
    """Return a training from preferences as held-out pairs see it.

    Args:
        name: what sets it apart.
        run: its folder.
        held_out: the pairs that it was evaluated on.
        drawn: whether its reference drew the responses of these pairs.
        device: where to compute.
    """
    evals = [line for line in JsonLines(RunDir(run).metrics).read() if "eval_loss" in line]
    scored = traces(run / "held_out.traces.jsonl", run=str(run), data=[str(held_out)], device=device)
    return Training(name, evals, scored, drawn)


def searched(output: Path, settings: Sequence[str], quality: Quality | None, **more: Any) -> list[Point]:
    """Sweep as `tokenq sweep` would, with a judge of one's own."""
    with Progress(1) as progress:
        points = list(sweep(output=output, settings=settings, quality=quality, listener=progress, **more).points)
    screen().print(*tables(sweep_tables(points)))
    return points


def settings(widths: Sequence[int], counts: Sequence[int], simulations: Sequence[int]) -> list[str]:
    """Return the searches of the figure: beams of every kind, best of n by two rankings, trees.

    Args:
        widths: of beams.
        counts: n of best of n; as many samples as the last stand beside them.
        simulations: of trees.
    """
    return [
        "greedy",
        f"sample n={counts[-1]}",
        *(f"beam width={width}" for width in widths),
        *(f"beam width={width} length_penalty=0" for width in widths),
        *(f"beam_sample width={width} top_k=50" for width in widths),
        *(f"best_of_n n={count}" for count in counts),
        *(f"best_of_n n={count} ranking=mean_likelihood" for count in counts),
        *(f"mcts simulations={count}" for count in simulations),
    ]


def first_samples(results: Sequence[SearchResult], count: int) -> list[tuple[SearchResult, Candidate]]:
    """Return (result, sample) of the first samples of every prompt."""
    return [(result, candidate) for result in results for candidate in result.candidates[:count]]
