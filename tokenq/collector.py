"""Python's garbage collector, paused while many objects are made that all stay.

It looks through all objects again and again while a library is imported or a vocabulary of 262,144 entries is read, and
finds nothing: a third of the time that opening takes.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Make no round of collection within the block."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
