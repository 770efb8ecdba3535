"""A command in a process of its own, forked from one that has imported everything: what may kill it kills nobody else.

A fresh interpreter spends seconds on imports; this one begins at once, in the same state.
"""

import contextlib
import functools
import importlib
import os
import pkgutil
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from accelerate.state import AcceleratorState, GradientState

import tokenq

DEFECT = 70
"""The exit code of a process that raised what nobody caught; the traceback is in what it said."""


class Done(NamedTuple):
    """How a process ended: its exit code, minus the signal that killed it, or None; and all that it printed."""

    code: int | None
    text: str


@functools.cache
def _import_everything() -> None:
    """Import what commands import late: every child would do so for itself."""
    for module in pkgutil.walk_packages(tokenq.__path__, "tokenq."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def started(work: Callable[[], int], printed: Path) -> int:
    """Run a function in a child, whose exit code it returns, and return the child's number at once.

    Args:
        work: run with nothing to read, and with output and errors going to one file.
        printed: the file.
    """
    _import_everything()
    with warnings.catch_warnings():
        # From Python 3.12 on: no thread of ours holds a lock at this moment.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = DEFECT
    try:
        with contextlib.suppress(FileNotFoundError):
            printed.unlink()
        descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (till exit)
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 (till exit)
        sys.stderr = sys.stdout
        code = work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int, printed: Path) -> Done:
    """Wait for a child and return how it ended."""
    _, status = os.waitpid(child, 0)
    text = printed.read_text(encoding="utf-8", errors="replace") if printed.exists() else ""
    return Done(os.waitstatus_to_exitcode(status), text)


def done(work: Callable[[], int], printed: Path) -> Done:
    """Run a function in a child and return how it ended."""
    return ended(started(work, printed), printed)


def two_ranks(work: Callable[[], int], folder: Path) -> list[Done]:
    """Run a function in two children that are one job, as `accelerate launch` starts them without accelerators."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank: str) -> int:
        job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        os.environ.update(job | {"RANK": rank, "LOCAL_RANK": rank})
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        signal.alarm(120)
        return work()

    files = [folder / f"printed-{rank}" for rank in "01"]
    children = [started(lambda rank=rank: ranked(rank), file) for rank, file in zip("01", files, strict=True)]
    return [ended(*one) for one in zip(children, files, strict=True)]
