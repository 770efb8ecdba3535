"""What is tried by default, and what where slow tests run too: examples of a property (see `conftest.py`), cases."""

from collections.abc import Container, Iterable
from typing import Any

import pytest
from hypothesis import settings


def share_of(count: int) -> int:
    """Return the share of a number of examples that this run is to try, at least ten."""
    return max(10, count * settings().max_examples // 100)


def cases(values: Iterable[Any], by_default: Container[Any]) -> list[Any]:
    """Return the cases of a parameter, tuples those of several: of the default run as they are, the others slow."""
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=() if one in by_default else pytest.mark.slow)
        for one in values
    ]
