"""Tasks of one command side by side: a process each, as many at a time as there are cores.

Steps of small models are too short to be shared by cores: two tasks beside each other, on one thread each, are done
long before the same two in turn on all of them.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from tokenq.terminal.console import messages


@dataclass(frozen=True)
class After:
    """A task that needs what others found.

    Attributes:
        needs: names of tasks that stand before it.
        task: takes what they found, in this order.
    """

    needs: tuple[str, ...]
    task: Callable[..., Any]


Tasks = Mapping[str, Callable[[], Any] | After]


class Together(Protocol):
    """How tasks are done, by name; returns what each found, in their order."""

    def __call__(self, tasks: Tasks) -> list[Any]:
        """Do the tasks."""
        ...


def in_turn(tasks: Tasks) -> list[Any]:
    """Do one task after the other in this process."""
    found: dict[str, Any] = {}
    for name, task in tasks.items():
        found[name] = _bound(task, found)()
    return list(found.values())


def _bound(task: Callable[[], Any] | After, found: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a task with what it needs."""
    return partial(task.task, *(found[name] for name in task.needs)) if isinstance(task, After) else task


@contextlib.contextmanager
def side_by_side() -> Iterator[Together]:
    """Give what does tasks in processes of their own; where there is one core, in turn.

    The processes are there from the beginning of the block: forked where that is sound, they have what this one has
    imported, and none of its threads if it has not computed yet. Tasks begin in their order, as soon as what they need
    is there and a process is free; what one prints is shown when it is done.

    Yields:
        Takes tasks that can be pickled. An error of one of them ends them all and is raised here.
    """
    cores = os.cpu_count() or 1
    if cores < 2:
        yield in_turn
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    columns = str(messages().width) if sys.stdout.isatty() else None
    pool = ProcessPoolExecutor(min(cores, MOST), context, _begin, (columns,))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="tokenq-") as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which do nothing here
        pool.submit(int)  # starts them all

        def together(tasks: Tasks) -> list[Any]:
            said = {name: Path(folder) / f"{number}" for number, name in enumerate(tasks)}
            running: dict[str, Future[Any]] = {}
            found: dict[str, Any] = {}
            while len(found) < len(tasks):
                for name, task in tasks.items():
                    if name not in running and (not isinstance(task, After) or found.keys() >= set(task.needs)):
                        running[name] = pool.submit(_captured, _bound(task, found), said[name])
                waiting = [name for name in running if name not in found]
                with messages().status(f"side by side: {', '.join(waiting)}"):
                    wait_for([running[name] for name in waiting], return_when=FIRST_COMPLETED)
                for name in waiting:
                    if running[name].done():
                        _show(said[name])
                        found[name] = running[name].result()
            return [found[name] for name in tasks]

        try:
            yield together
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()  # asked to end, a training ends its step, and the process takes the next task
            raise
        finally:
            pool.shutdown(cancel_futures=True)


MOST = 4
"""Processes at once: of the demonstration's tasks no more can be under way together."""


def _begin(columns: str | None) -> None:
    """Compute on one thread, write as wide as the terminal is, and end when the process that is worked for does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the whole group; the command itself answers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)
    if columns is not None:
        os.environ["COLUMNS"] = columns
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _captured(task: Callable[[], Any], said: Path) -> Any:
    """Do a task, with what it prints in files."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number, suffix in ((1, ".out"), (2, ".err")):
            with said.with_suffix(suffix).open("wb") as file:
                os.dup2(file.fileno(), number)
        return task()
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            (sys.stdout, sys.stderr)[number - 1].flush()
            os.dup2(old, number)
            os.close(old)


def _show(said: Path) -> None:
    """Show what a task printed."""
    for suffix, stream in ((".err", sys.stderr), (".out", sys.stdout)):
        path = said.with_suffix(suffix)
        if path.exists():
            stream.write(path.read_text(encoding=stream.encoding, errors="replace"))
            stream.flush()
            path.unlink()
