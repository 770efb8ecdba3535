"""Tasks of one command side by side: a process each, as many at a time as there are cores.

Steps of small models are too short to be shared by cores: two tasks beside each other are done long before the same two
in turn. Each computes with as many threads as it would alone, so that its numbers are the same to the last bit; threads
that wait sleep, since spinning ones would take the core that the other task needs.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol, TypeVar

from tokenq.cli.console import messages

Found = TypeVar("Found")

SLEEPING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""What has waiting threads of OpenMP sleep: GNU's, and LLVM's and Intel's."""


class Together(Protocol):
    """How tasks are done, by name; returns what each found, in their order."""

    def __call__(self, tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
        """Do the tasks."""
        ...


def in_turn(tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
    """Do one task after the other in this process."""
    return [task() for task in tasks.values()]


@contextlib.contextmanager
def side_by_side(*modules: str) -> Iterator[Together]:
    """Give what does tasks in processes of their own; where there is one core, in turn.

    What a task prints is shown when it is done, in the order of the tasks.

    Args:
        modules: imported once for all of them, from now on, while this process does something else.

    Yields:
        Takes tasks that can be pickled. An error of one of them ends them all and is raised here.
    """
    if (os.cpu_count() or 1) < 2:
        yield in_turn
        return
    forked = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    inherited = {**SLEEPING, **({"COLUMNS": str(messages().width)} if sys.stdout.isatty() else {})}
    with _environment(inherited):  # read when a process loads OpenMP, which this one has done
        if forked:
            context.set_forkserver_preload(list(modules))
            forkserver.ensure_running()
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_end_with_parent)
    with tempfile.TemporaryDirectory(prefix="tokenq-") as folder:

        def together(tasks: Mapping[str, Callable[[], Found]]) -> list[Found]:
            said = [Path(folder) / f"{number}" for number, _ in enumerate(tasks)]
            with _environment(inherited):
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


def _end_with_parent() -> None:
    """Have this process end when the one that it works for does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
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


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have variables of the environment inside the block, where the user has not set them."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
