"""Rows that say the same: to the last character, nearly, and prompts that stand on both sides of a split."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tokenq.curation.audit.columns import Columns
from tokenq.curation.audit.finding import Fault
from tokenq.listener import Progress, silent

_HELD_OUT = "held-out data"


def duplicates(columns: Columns) -> Iterator[Fault]:
    """Yield rows that are the same to the last character."""
    rows = np.array(columns.rows, np.int64)
    for members in _equal(np.array(columns.keys, np.uint64)):
        found = _rows(rows[members])
        if len(found) > 1:
            yield _same("duplicate", found, columns, "rows are the same", {})


def near_duplicates(columns: Columns, least: float, progress: Progress = silent) -> Iterator[Fault]:
    """Yield rows that are nearly the same, with all exact copies of them.

    Args:
        columns: what was kept of the rows.
        least: the smallest likeness.
        progress: told how many of the rows that may be alike are compared.
    """
    alike = columns.likenesses.pairs(least, progress)
    _, firsts = columns.firsts
    copies: dict[int, list[int]] = {}
    for row, key in zip(columns.rows, columns.keys, strict=True):
        copies.setdefault(key, []).append(row)
    ends = [(one.first, one.second) for one in alike]
    likeness = {(one.first, one.second): one.likeness for one in alike}
    for members in clusters(ends, len(firsts)):
        held = set(members)
        found = _rows([row for place in members for row in copies[firsts[place]]])
        if len(found) > 1:
            smallest = min(value for (one, _), value in likeness.items() if one in held)
            yield _same("near_duplicate", found, columns, "rows are nearly the same", {"likeness": smallest})


def shared_prompts(columns: Columns) -> Iterator[Fault]:
    """Yield prompts that are in the data and in the held-out data."""
    if not columns.held_out:
        return
    rows = np.array(columns.rows, np.int64)
    for members in _equal(np.array(columns.prompts, np.uint64)):
        found = _rows(rows[members])
        trained = tuple(row for row in found if row < columns.held_out)
        if trained and len(trained) < len(found):
            said = f"the prompt is in {len(trained)} rows of the data and in {len(found) - len(trained)} held-out ones"
            yield Fault("shared_prompt", found, said, trained)


def repeated_ids(columns: Columns) -> Iterator[Fault]:
    """Yield ids of rows that differ."""
    names, rows, keys = (np.array(column) for column in columns.ids)
    for members in _equal(names):
        found = _rows(rows[members])
        different = len(np.unique(keys[members]))
        if len(found) > 1 and different > 1:
            yield Fault("repeated_id", found, f"{len(found)} rows, {different} of them different, have one id")


def _same(kind: str, rows: Sequence[int], columns: Columns, said: str, numbers: dict[str, float]) -> Fault:
    """Return a finding on rows of which one is enough; none of those to train on where one is held out."""
    edge = columns.held_out or len(columns.where)
    trained = tuple(row for row in rows if row < edge)
    held_out = len(rows) - len(trained)
    where = f", {held_out} of them in the {_HELD_OUT}" if held_out else ""
    drop = trained if held_out and trained else tuple(rows[1:])
    return Fault(kind, tuple(rows), f"{len(rows)} {said}{where}", drop, numbers)


def clusters(ends: Sequence[tuple[int, int]], count: int) -> Iterator[list[int]]:
    """Yield what hangs together, each in order: the components of two or more of an undirected graph.

    Args:
        ends: its edges.
        count: its nodes.
    """
    if not ends:
        return
    one, other = np.array(ends, np.int64).T
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    yield from (members.tolist() for members in _equal(labels))


def _equal(values: NDArray[np.uint64] | NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of each value that stands at two or more, in the order of the first of them."""
    order = np.argsort(values, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(values) else []
    yield from sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def _rows(rows: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({int(row) for row in rows}))
