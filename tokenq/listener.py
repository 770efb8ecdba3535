"""What a job tells whoever runs it: how far it is, and what is worth a line. Who listens decides what is shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Event:
    """How far a stage of a job is.

    Attributes:
        stage: "reference", "train" or "eval".
        done: units done in this stage.
        total: units of this stage.
        metrics: what was measured, empty for mere progress.
    """

    stage: str
    done: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Listener(Protocol):
    """Whoever is told: a display of the command line, a notebook, a test."""

    def __call__(self, event: Event) -> None:
        """Hear how far a stage is."""
        ...

    def say(self, text: str) -> None:
        """Hear a line: what was found, or what could not be done as asked."""
        ...


Progress = Callable[[int, int], None]
"""Told (how much is done, how much there is to do at most)."""


def silent(done: int, total: int) -> None:
    """Show no progress."""


class Silence:
    """Shows nothing."""

    def __call__(self, event: Event) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


SILENCE = Silence()
