"""Chance that is an environment's own, for code that draws from the generators that a whole process shares."""

import random
import threading
from types import TracebackType
from typing import Any

import numpy as np

_TURN = threading.RLock()


class Chance:
    """Puts its own states into `random` and `numpy.random` for a block, and what was there back.

    What is drawn in its blocks is then a function of the seed, whatever others draw between them. One block runs at a
    time.
    """

    def __init__(self) -> None:
        self._own: tuple[Any, Any] | None = None
        self._others: tuple[Any, Any] | None = None

    def seed(self, seed: int) -> None:
        """Begin anew with a seed; to be called inside a block."""
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def __enter__(self) -> None:
        """Take the generators."""
        _TURN.acquire()
        self._others = random.getstate(), np.random.get_state()
        if self._own is not None:
            _put(self._own)

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """Give them back."""
        try:
            assert self._others is not None
            self._own = random.getstate(), np.random.get_state()
            _put(self._others)
        finally:
            _TURN.release()


def _put(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
