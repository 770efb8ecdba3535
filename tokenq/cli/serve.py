"""`tokenq serve`: a pair behind HTTP until somebody ends the process; what is under way then ends first."""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from tokenq.server.config import ServeConfig

if TYPE_CHECKING:
    from tokenq.server.running import ServerHandle


def run(config: ServeConfig) -> int:
    """Serve what `config` says until SIGTERM or Ctrl-C; return 0 once all that was under way has ended.

    Where something was broken off, because a second signal came or it took too long, it is 128 and the signal.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.server.site import settle
    from tokenq.terminal.progress import Progress

    config.check()
    with Progress(1) as progress, settle(config, progress) as site:
        from tokenq.server.opening import open_proxies, open_session

        session = open_session(config, progress)
        proxies = open_proxies(config, session, lambda text: progress.say(f"warning: {text}"))
        _log(config.access_log)
        with _told() as told:
            return _until_told(site.open(session, proxies), told)


def _log(access: bool) -> None:
    """Have what the server logs written to standard error, a line each."""
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    for name, level in (("tokenq.access", logging.INFO if access else logging.ERROR), ("tokenq.server", logging.ERROR)):
        log = logging.getLogger(name)
        log.addHandler(shown)
        log.setLevel(level)
        log.propagate = False


@dataclass
class Told:
    """The signals that have come.

    Attributes:
        signals: their numbers.
        first: set with the first.
        second: set with the second.
    """

    signals: list[int] = field(default_factory=list)
    first: threading.Event = field(default_factory=threading.Event)
    second: threading.Event = field(default_factory=threading.Event)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.signals.append(number)
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def _told() -> Iterator[Told]:
    """Take SIGTERM and Ctrl-C as words instead of having them break something off."""
    told = Told()
    if threading.current_thread() is not threading.main_thread():
        yield told  # signals come to the main thread alone
        return
    before = {number: signal.signal(number, told.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _until_told(handle: "ServerHandle", told: Told) -> int:
    """Wait for a signal and end the server; a second signal has it wait for nothing."""
    while handle.alive and not told.first.wait(0.5):
        pass
    if not told.signals:
        return 1  # nobody has ended it
    if handle.running:
        said = "they end first, and a second signal ends at once."
        print(f"Requests under way: {handle.running}; {said}", file=sys.stderr)
    broken_off = handle.stop(told.second)
    if broken_off:
        print(f"Requests broken off: {broken_off}.", file=sys.stderr)
    return 128 + told.signals[-1] if broken_off else 0
