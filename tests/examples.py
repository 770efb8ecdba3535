"""How many examples a property is tried on: some by default, all where slow tests run too (see `conftest.py`)."""

from hypothesis import settings


def share_of(count: int) -> int:
    """Return the share of a number of examples that this run is to try, at least ten."""
    return max(10, count * settings().max_examples // 100)
