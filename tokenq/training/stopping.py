"""Signals during training: the first ends the step and writes a checkpoint, a second one ends the program at once."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import torch
from accelerate import Accelerator

from tokenq.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SAME = 1.0
"""Seconds within which a second signal is the first one again: launchers pass on what the terminal has sent already."""


@dataclass
class Request:
    """Whether a signal has asked this process to stop.

    Attributes:
        signum: the signal, 0 for none.
        since: when it came, by the monotonic clock.
    """

    signum: int = 0
    since: float = 0.0


class Abandoned(Exception):
    """An evaluation that was given up because a signal asks the run to stop."""


@contextlib.contextmanager
def catch_signals(say: Callable[[str], None]) -> Iterator[Request]:
    """Take note of signals in the block instead of ending it; a second one ends it at once.

    Args:
        say: told what the first signal will do.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield request
        return

    def note(signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not request.signum:
            request.signum, request.since = signum, now
            say("stopping after this step, with a checkpoint; a second Ctrl-C stops at once")
        elif now - request.since > SAME:
            raise Interrupted(signum, "Stopped at once, within a step.")

    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def common_signal(request: Request, accelerator: Accelerator) -> int:
    """Return the signal that any process was sent, 0 for none: all stop after the same step."""
    if accelerator.num_processes == 1:
        return request.signum
    asked = torch.zeros(accelerator.num_processes, device=accelerator.device)
    asked[accelerator.process_index] = request.signum
    return int(accelerator.reduce(asked, "sum").max().item())
