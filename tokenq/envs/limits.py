"""Calls with a time limit, in a thread of their own.

A call that does not return is told to stop and left behind; code that never comes back from C cannot be stopped, and
keeps its thread until the process ends.
"""

import ctypes
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Late(Exception):
    """A call did not return in time."""


class Worker:
    """A thread that makes one call after another. It is a daemon: what hangs does not keep the process alive."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="environment")
        self._thread.start()

    def run(self, call: Callable[[], Result], timeout: float) -> Result:
        """Return what a call returns.

        Args:
            call: what is done in the thread.
            timeout: seconds.

        Raises:
            Late: it has not returned in time; the thread is of no use then but to be abandoned.
            BaseException: whatever the call raises.
        """
        self._calls.put(call)
        try:
            result, problem = self._results.get(timeout=timeout)
        except Empty:
            raise Late(f"no answer within {timeout:g} s") from None
        if problem is not None:
            raise problem
        found: Result = result
        return found

    def end(self) -> None:
        """Let the thread end when it has nothing left to do."""
        self._calls.put(None)

    def abandon(self) -> None:
        """Raise an exception in the thread, which ends what runs in Python."""
        self.end()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
        )

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put((call(), None))
            except BaseException as problem:
                self._results.put((None, problem))
