"""What a running job shows on the console: one bar a stage with its ETA, and a line of metrics now and then."""

import os

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from tokenq.listener import Event
from tokenq.terminal.console import messages

STAGES = {"reference": "reference log-probs", "train": "training", "eval": "evaluation"}

SHOWN = (
    *(
        "loss",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "logps/responses",
        "values/explained_variance",
        "grad_norm",
    ),
    *("learning_rate", "tokens_per_second", "peak_memory_gb"),
)
"""Metrics in a console line; metrics.jsonl has all of them."""


class Progress:
    """Draws events of a job; a context manager.

    Args:
        every: steps between lines of metrics.
        console: where to draw; standard error when None, so that standard output stays clean.
        enabled: False draws nothing (all but the first of several processes).
    """

    def __init__(self, every: int, console: Console | None = None, *, enabled: bool = True) -> None:
        self._console = console or messages()
        self._every = every
        self._enabled = enabled
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not enabled or not self._console.is_terminal or "TQDM_DISABLE" in os.environ,
        )

    def __enter__(self) -> "Progress":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars; what was said stays."""
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if self._enabled:
            self._console.print(text)

    def __call__(self, event: Event) -> None:
        """Move the bar of the event's stage, and print its metrics when they are due."""
        name = STAGES.get(event.stage, event.stage)
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(name, total=event.total)
        finished = event.done == event.total
        self._bars.update(self._tasks[event.stage], completed=event.done, total=event.total)
        if finished and event.stage != "train":
            self._bars.remove_task(self._tasks.pop(event.stage))
        if event.metrics and (event.stage != "train" or finished or event.done % self._every == 0 or event.done == 1):
            head = f"step {event.done}/{event.total}" if event.stage == "train" else "held out"
            shown = {name: event.metrics.get(name, event.metrics.get(f"eval_{name}")) for name in SHOWN}
            said = "  ".join(
                f"{key} {value:.4g}" for key, value in shown.items() if value is not None and value == value
            )
            self.say(f"{head}  {said}")
