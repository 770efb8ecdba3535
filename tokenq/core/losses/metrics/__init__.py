"""Metrics of losses: what a training shows beside them, each as (sum over examples, number of examples)."""

from collections.abc import Mapping

from torch import Tensor

Sums = dict[str, tuple[Tensor, int]]
"""Metric name → (sum over examples, number of examples), detached."""


def sums_of(values: Mapping[str, Tensor]) -> Sums:
    """Return the sums of numbers of examples."""
    return {name: (value.sum(), len(value)) for name, value in values.items()}
