"""Commands that show nothing but how far they are, and the lines that they say: each is its job, with a bar."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


def _once(_: Any) -> int:
    return 1


@dataclass(frozen=True)
class Told:
    """What runs a command that is its job alone; what is heavy is imported on the first call.

    Attributes:
        module: where the job stands.
        name: of the job there; it takes the fields of the configuration as keywords, and a listener.
        every: (configuration) → updates between two lines of numbers, for trainings.
    """

    module: str
    name: str
    every: Callable[[Any], int] = _once

    @property
    def job(self) -> Callable[..., Any]:
        """The job."""
        found: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return found

    def __call__(self, config: Any) -> int:
        """Run the job, and return 0.

        Raises:
            UserError: for anything that the user can mend.
        """
        from tokenq.jobs.outputs import is_first
        from tokenq.terminal.progress import Progress

        with Progress(self.every(config), enabled=is_first()) as progress:
            self.job(**vars(config), listener=progress)
        return 0
