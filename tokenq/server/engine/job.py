"""Work that is done on another thread, and where the outcome goes."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """Something to be done, and where the outcome goes.

    Attributes:
        future: is given it.
        work: does it.
    """

    future: "Future[Any]"
    work: Callable[[], Any]

    def do(self) -> None:
        """Do it, unless it was called off."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            found = self.work()
        except BaseException as problem:  # whoever waits for it is told
            self.future.set_exception(problem)
        else:
            self.future.set_result(found)
