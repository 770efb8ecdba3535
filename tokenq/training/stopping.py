"""What ends a training before its time: signals, and evaluations that no longer improve.

The first signal ends the step and writes a checkpoint, a second one ends the program at once.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from tokenq.errors import Interrupted
from tokenq.training.recorded import best_step, check_metric

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SAME = 1.0
"""Seconds within which a second signal is the first one again: launchers pass on what the terminal has sent already."""


@dataclass
class Request:
    """Whether a signal has asked this process to stop.

    Attributes:
        signum: the signal, 0 for none.
        since: when it came, by the monotonic clock.
    """

    signum: int = 0
    since: float = 0.0


@dataclass(frozen=True)
class Watch:
    """The evaluations after the first update, and which is best.

    Attributes:
        metric: the one that counts, None where none does.
        patience: evaluations without improvement that end the run, None for any number.
        found: metrics by step.
    """

    metric: str | None
    patience: int | None
    found: dict[int, Mapping[str, Any]]

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add an evaluation.

        Raises:
            UserError: it has no such metric.
        """
        if self.metric is not None:
            check_metric(self.metric, metrics)
        if step:
            self.found[step] = metrics

    def best(self, steps: Container[int]) -> int | None:
        """Return the best of some steps, None where none of them was evaluated."""
        known = {step: found for step, found in self.found.items() if step in steps}
        return None if self.metric is None else best_step(known, self.metric)

    def stalled(self) -> bool:
        """Return whether so many evaluations in a row did not improve on the best."""
        best = self.best(self.found)
        since = sum(step > best for step in self.found) if best is not None else len(self.found)
        return self.patience is not None and since >= self.patience

    def account(self, best: int | None) -> dict[str, Any] | None:
        """Return the best evaluation as a record has it."""
        metric = self.metric or ""
        return None if best is None else {"metric": metric, "step": best, "value": self.found[best][metric]}

    def reason(self) -> str:
        """Return why the run has stalled, in words."""
        return f"stopped early: {self.metric} has not improved in {self.patience} evaluations"


class Abandoned(Exception):
    """An evaluation, or a round's writing, that was given up because a signal asks the run to stop."""


@contextlib.contextmanager
def catch_signals(request: Request, say: Callable[[str], None]) -> Iterator[Request]:
    """Take note of signals in the block instead of ending it; a second one ends it at once.

    Args:
        request: where they are noted.
        say: told what the first signal will do.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield request
        return

    def note(signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not request.signum:
            request.signum, request.since = signum, now
            say("stopping after this step, with a checkpoint; a second Ctrl-C stops at once")
        elif now - request.since > SAME:
            raise Interrupted(signum, "Stopped at once, within a step.")

    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def common_signal(request: Request, accelerator: Accelerator) -> int:
    """Return the signal that any process was sent, 0 for none: all stop after the same step."""
    if accelerator.num_processes == 1:
        return request.signum
    asked = torch.zeros(accelerator.num_processes, device=accelerator.device)
    asked[accelerator.process_index] = request.signum
    return int(accelerator.reduce(asked, "sum").max().item())
