"""The program that a job runs in, which it leaves as it found it: random numbers, accelerate's state, loggers, bars."""

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers.utils import logging as transformers_logging

_STATES = (PartialState, AcceleratorState, GradientState)
"""What accelerate remembers of a process: the first device and precision that it was asked for."""


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Run the block as if nothing had run in this process before, and leave no trace of it afterwards."""
    with _random_numbers(), _accelerate(), _quiet():
        yield


@contextlib.contextmanager
def _random_numbers() -> Iterator[None]:
    """Put the generators back, of Python, numpy and torch on all devices."""
    own, numpys = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)


@contextlib.contextmanager
def _accelerate() -> Iterator[None]:
    """Let accelerate choose device and precision anew; among several processes it keeps the group that they form."""
    if PartialState._shared_state.get("num_processes", 1) > 1:
        yield
        return
    before = [dict(state._shared_state) for state in _STATES]
    try:
        for state in _STATES:
            state._shared_state.clear()
        yield
    finally:
        if PartialState._shared_state.get("num_processes", 1) == 1:
            for state, was in zip(_STATES, before, strict=True):
                state._shared_state.clear()
                state._shared_state.update(was)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say about matters that a job handles itself."""
    logger, bars = logging.getLogger("accelerate"), transformers_logging.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Removed shared tensor.*")
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
