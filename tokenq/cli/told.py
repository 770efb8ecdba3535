"""Commands that show nothing but how far they are, and the lines that they say: each is its job, with a bar."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _once(_: Any) -> int:
    return 1


def runs(module: str, job: str, every: Callable[[Any], int] = _once) -> Callable[[Any], int]:
    """Return the function that runs a job and returns 0; what is heavy is imported on the first call.

    Args:
        module: where the job stands.
        job: its name there.
        every: (configuration) → updates between two lines of numbers, for trainings.
    """

    def run(config: Any) -> int:
        from tokenq.jobs.outputs import is_first
        from tokenq.terminal.progress import Progress

        with Progress(every(config), enabled=is_first()) as progress:
            getattr(import_module(module), job)(**vars(config), listener=progress)
        return 0

    return run
