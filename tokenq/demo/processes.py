"""Tasks of one command side by side: a process each, as many at a time as there are cores.

Steps of small models are too short to be shared by cores: two tasks beside each other, on one thread each, are done
long before the same two in turn on all of them. Sums depend on the number of threads, so a task whose numbers are to be
those that all threads give keeps as many, on its share of the cores.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol, TypeVar

from rich.text import Text

from tokenq.terminal.console import messages

Found = TypeVar("Found")


class Together(Protocol):
    """How tasks are done, by name; returns what each found, in their order."""

    def __call__(self, tasks: Mapping[str, Callable[[], Found]], threads: int = 1) -> list[Found]:
        """Do the tasks, each on so many threads."""
        ...


def in_turn(tasks: Mapping[str, Callable[[], Found]], threads: int = 1) -> list[Found]:
    """Do one task after the other in this process, on the threads that it has."""
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
    pool = futures.ProcessPoolExecutor(min(cores, MOST), context, _begin, (columns,))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="tokenq-") as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which do nothing here
        pool.submit(int)  # starts them all

        def together(tasks: Mapping[str, Callable[[], Found]], threads: int = 1) -> list[Found]:
            said = [Path(folder) / f"{number}" for number, _ in enumerate(tasks)]
            placed = zip(tasks.values(), said, _shares(len(tasks), threads), strict=True)
            running = [pool.submit(_captured, task, path, threads, share) for task, path, share in placed]
            found = []
            for name, future, path in zip(tasks, running, said, strict=True):
                with messages().status(f"side by side: {', '.join(tasks)}; waiting for {name}") as status:
                    while not futures.wait([future], timeout=1).done:
                        status.update(Text(f"{name}: {_last_line(path)}", no_wrap=True, overflow="ellipsis"))
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


def _shares(tasks: int, threads: int) -> list[set[int]]:
    """Return the cores of each task: one of a single thread goes where the system wants it, others have their own.

    Threads of several tasks that take turns on the same cores wait for each other most of the time.
    """
    if sys.platform != "linux":
        return [set()] * tasks
    cores = sorted(os.sched_getaffinity(0))
    apart = threads > 1 and tasks <= len(cores)
    return [set(cores[number::tasks] if apart else cores) for number in range(tasks)]


def _begin(columns: str | None) -> None:
    """Write as wide as the terminal is, and end when the process that is worked for does."""
    if columns is not None:
        os.environ["COLUMNS"] = columns
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _captured(task: Callable[[], Found], said: Path, threads: int, cores: set[int]) -> Found:
    """Do a task on some threads and cores, with what it prints in files."""
    import torch

    torch.set_num_threads(threads)
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
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


def _last_line(said: Path) -> str:
    """Return what a task said last."""
    path = said.with_suffix(".err")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "begins")


def _show(said: Path) -> None:
    """Show what a task printed."""
    for suffix, stream in ((".err", sys.stderr), (".out", sys.stdout)):
        path = said.with_suffix(suffix)
        if path.exists():
            stream.write(path.read_text(encoding=stream.encoding, errors="replace"))
            stream.flush()
            path.unlink()
