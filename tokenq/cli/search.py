"""`tokenq search`: write answers to prompts with a trained policy, by the search that was asked for."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tokenq.listener import Listener
from tokenq.search.config import SearchConfig

INTERRUPTED = 130


def run(config: SearchConfig) -> int:
    """Answer the prompts of `config`, and return 0; 130 when that was interrupted.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.outputs import is_first
    from tokenq.jobs.search import search
    from tokenq.report.terminal import candidates
    from tokenq.terminal.console import screen
    from tokenq.terminal.progress import Progress

    config.check_command()
    with Progress(1, enabled=is_first()) as progress, interruptible(progress) as interrupted:
        answers = search(**vars(config), listener=progress, interrupted=interrupted)
    if config.prompt is not None and is_first():
        screen(None).print(*map(candidates, answers))
    return INTERRUPTED if answers.interrupted else 0


@contextlib.contextmanager
def interruptible(listener: Listener) -> Iterator[Callable[[], bool]]:
    """Give a function that is True once the user has pressed Ctrl-C, after it has been asked for the first time.

    Before that, and the second time, Ctrl-C ends the command at once.
    """
    begun: list[int] = []
    pressed: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if pressed or not begun:
            raise KeyboardInterrupt
        pressed.append(number)
        listener.say("stopping with what there is; press Ctrl-C again to stop at once")

    def interrupted() -> bool:
        begun.append(1)
        return bool(pressed)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
