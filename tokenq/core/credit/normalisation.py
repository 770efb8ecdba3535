"""Returns of mean 0 and variance 1 for a value network to learn, by the moments of all returns so far.

A head that begins at 0 and moves by a small learning rate is soon right about numbers near 0 of size 1, and late about
others. What it says is put back to the size of returns where advantages are made of it.
"""

import math
from typing import NamedTuple

from torch import Tensor

_LEAST = 1e-4
"""Smallest standard deviation that is divided by."""


class Moments(NamedTuple):
    """The moments of some numbers; those of none leave everything as it is.

    Attributes:
        size: how many.
        mean: their mean.
        std: their standard deviation.
    """

    size: float = 0.0
    mean: float = 0.0
    std: float = 1.0


def with_more(moments: Moments, numbers: Tensor) -> Moments:
    """Return the moments of some numbers and of further ones together.

    Args:
        moments: of those before.
        numbers: [n] further ones.
    """
    size, more = moments.size, float(len(numbers))
    if not more:
        return moments
    total, apart = size + more, float(numbers.mean()) - moments.mean
    squares = size * moments.std**2 + more * float(numbers.var(correction=0)) + size * more / total * apart**2
    return Moments(total, moments.mean + apart * more / total, math.sqrt(squares / total))


def normalised(numbers: Tensor, moments: Moments) -> Tensor:
    """Return numbers less the mean, by the standard deviation."""
    return (numbers - moments.mean) / max(moments.std, _LEAST)


def denormalised(numbers: Tensor, moments: Moments) -> Tensor:
    """Return numbers whose `normalised` are these."""
    return numbers * max(moments.std, _LEAST) + moments.mean
