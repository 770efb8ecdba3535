"""How many threads torch computes with, where the model is too small for more than one."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread for a while.

    For models so small that a step is over before other threads are awake, and whose numbers shall be the same on every
    machine: with another number of threads sums round otherwise.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
