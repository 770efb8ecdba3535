"""Tasks of one command side by side: a process each, as many at a time as there are cores.

Steps of small models are too short to be shared by cores: two tasks beside each other, on one thread each, are done
long before the same two in turn on all of them.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol, TypeVar

from tokenq.terminal.console import messages

Found = TypeVar("Found")


class Together(Protocol):
    """How tasks are done, by name; returns what each found, in their order."""

    def __call__(self, tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
        """Do the tasks."""
        ...


def in_turn(tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
    """Do one task after the other in this process."""
    return [task() for task in tasks.values()]


@contextlib.contextmanager
def side_by_side() -> Iterator[Together]:
    """Give what does tasks in processes of their own; where there is one core, in turn.

    The processes are there from the beginning of the block: forked where that is sound, they have what this one has
    imported, and none of its threads if it has not computed yet. What a task prints is shown when it is done, in the
    order of the tasks.

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

        def together(tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
            said = [Path(folder) / f"{number}" for number, _ in enumerate(tasks)]
            running = [pool.submit(_captured, task, path) for task, path in zip(tasks.values(), said, strict=True)]
            found = []
            for name, future, path in zip(tasks, running, said, strict=True):
                with messages().status(f"side by side: {', '.join(tasks)}; waiting for {name}"):
                    try:
                        found.append(future.result())
                    finally:
                        _show(path)
            return found

        try:
            yield together
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


MOST = 4
"""Processes at once: the demonstration has no more tasks."""


def _begin(columns: str | None) -> None:
    """Compute on one thread, write as wide as the terminal is, and end when the process that is worked for does."""
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


def _captured(task: Callable[[], Found], said: Path) -> Found:
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
