"""Preferences that cannot all be true: a over b and b over a for one prompt, and longer circles."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tokenq.curation.audit.columns import Columns
from tokenq.curation.audit.finding import Fault

Ints = NDArray[np.int64]


def contradictions(columns: Columns) -> Iterator[Fault]:
    """Yield rows of which one prefers what the other rejects, and rows that label a response both ways."""
    better, worse, rows, others = _edges(columns)
    low, high = np.minimum(better, worse), np.maximum(better, worse)
    for members in _groups(low, high):
        forward = better[members] == low[members]
        if forward.any() and not forward.all():
            found = _numbers(rows[members], others[members])
            counts = f"{int(forward.sum())} to {int((~forward).sum())}"
            yield Fault(
                "contradiction", found, f"two responses to one prompt are preferred to each other, {counts}", found
            )
    prompts, responses, labels, places = (np.array(column) for column in columns.labels)
    for members in _groups(prompts, responses):
        right = labels[members] > 0
        if right.any() and not right.all():
            found = _numbers(places[members])
            yield Fault("contradiction", found, "a response is called both desirable and not", found)


def cycles(columns: Columns) -> Iterator[Fault]:
    """Yield the rows of each circle of three or more responses.

    A strongly connected part has such a circle unless it is a tree whose edges all go both ways, which are
    contradictions: it has one where it has as many neighbours as responses, or more.
    """
    better, worse, rows, others = _edges(columns)
    if not len(better):
        return
    count = int(max(better.max(), worse.max())) + 1
    graph = coo_array((np.ones(len(better), np.int8), (better, worse)), shape=(count, count))
    _, labels = connected_components(graph, connection="strong")
    inside = np.flatnonzero(labels[better] == labels[worse])
    order = inside[np.argsort(labels[better[inside]], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(labels[better[order]])) + 1):
        if not len(members):
            continue
        ends = np.sort(np.stack([better[members], worse[members]], 1), axis=1)
        nodes, neighbours = len(np.unique(ends)), len(np.unique(ends, axis=0))
        if nodes > 2 and neighbours >= nodes:
            found = _numbers(rows[members], others[members])
            yield Fault("cycle", found, f"{nodes} responses to one prompt are preferred in a circle", found)


def _edges(columns: Columns) -> tuple[Ints, Ints, Ints, Ints]:
    """Return (number of the better response, of the worse one, rows): a number for each response to each prompt."""
    prompts, better, worse, rows, others = (np.array(column) for column in columns.better)
    mixed = prompts.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    both = np.concatenate([mixed ^ better.astype(np.uint64), mixed ^ worse.astype(np.uint64)])
    _, numbers = np.unique(both, return_inverse=True)
    return numbers[: len(better)], numbers[len(better) :], rows, others


def _groups(first: Ints, second: Ints) -> Iterator[Ints]:
    """Yield the places at which both columns have the same values, two or more."""
    order = np.lexsort((second, first))
    changes = np.flatnonzero((np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)) + 1
    groups = np.split(order, changes) if len(order) else []
    yield from sorted((group for group in groups if len(group) > 1), key=lambda group: int(group.min()))


def _numbers(*rows: Ints) -> tuple[int, ...]:
    return tuple(sorted({int(row) for part in rows for row in part}))
