"""The program that a job runs in, which it leaves as it found it: random numbers, accelerate's state, loggers, bars.

Jobs that only read stored numbers do without torch, so nothing is imported here that the program has not imported.
"""

import contextlib
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Run the block as if nothing had run in this process before, and leave no trace of it afterwards.

    A job that is the first to import torch and accelerate leaves them as they are after their import.
    """
    with _random_numbers(), _accelerate(), _quiet():
        yield


@contextlib.contextmanager
def _random_numbers() -> Iterator[None]:
    """Put the generators back, of Python, numpy and torch on all devices."""
    own, numpys = random.getstate(), np.random.get_state()
    try:
        with _torch_numbers():
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)


@contextlib.contextmanager
def _torch_numbers() -> Iterator[None]:
    if "torch" not in sys.modules:
        try:
            yield
        finally:
            if "torch" in sys.modules:
                sys.modules["torch"].seed()  # by chance, as in a new process
        return
    import torch

    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_available() else ()):
        yield


@contextlib.contextmanager
def _accelerate() -> Iterator[None]:
    """Let accelerate choose device and precision anew; among several processes it keeps the group that they form."""
    before = [dict(state) for state in _states()]
    if before and before[0].get("num_processes", 1) > 1:
        yield
        return
    try:
        for state in _states():
            state.clear()
        yield
    finally:
        states = _states()
        if states and states[0].get("num_processes", 1) == 1:
            for state, was in zip(states, before or [{}] * len(states), strict=True):
                state.clear()
                state.update(was)


def _states() -> list[dict[str, Any]]:
    """Return accelerate's shared states of a process: its first device and precision."""
    if "accelerate.state" not in sys.modules:
        return []
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say about matters that a job handles itself."""
    logger = logging.getLogger("accelerate")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _without_bars(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Removed shared tensor.*")
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Let transformers, where it is there, draw no progress bars."""
    if "transformers" not in sys.modules:
        yield
        return
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
