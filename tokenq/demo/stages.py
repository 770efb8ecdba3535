"""Stages of a long command: each is announced, and how long it took is said and kept."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console

from tokenq.terminal.console import messages


class Stages:
    """Keeps the seconds of every stage.

    Args:
        console: where stages are announced; standard error when None.

    Attributes:
        seconds: of every stage that is over, by its name.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or messages()
        self._begin = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Announce a stage, and say afterwards how long it took."""
        self._console.rule(f"{len(self.seconds) + 1}. {name}", align="left")
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin
        self._console.print(f"{name}: {self.seconds[name]:.1f} s, {self.total:.0f} s so far", style="bold")

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin
