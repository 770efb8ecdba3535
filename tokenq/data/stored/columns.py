"""Groups as columns of Arrow: how they are written, and how one is built again from files that are mapped into memory.

A file holds a row for each group, and for each part of the data that was tokenised together a row that says what became
of the rest of it.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow
from numpy.typing import NDArray

from tokenq.core.losses.units import Unit
from tokenq.data.digest import group_digest, group_key
from tokenq.data.sources import prompt_hash
from tokenq.data.summary import MENDED
from tokenq.data.tokenize import Tokenization
from tokenq.data.truncation import too_long
from tokenq.records.examples import Example, Response, Role, TokenGroup, TokenResponse

FIELDS = pyarrow.schema(
    [
        ("ids", pyarrow.list_(pyarrow.int32())),  # of the prompt, then of each response
        ("sizes", pyarrow.list_(pyarrow.int32())),  # how many of them are whose
        ("mask", pyarrow.list_(pyarrow.uint8())),  # of the responses
        ("terminal", pyarrow.list_(pyarrow.uint8())),
        ("roles", pyarrow.list_(pyarrow.uint8())),
        ("given", pyarrow.string()),  # what is learnt beside the texts, "" for nothing
        ("is_pair", pyarrow.uint8()),
        ("margin", pyarrow.float64()),  # NaN where nothing says
        ("where", pyarrow.string()),
        ("prompt", pyarrow.uint64()),  # a hash of its text
        ("examples", pyarrow.int32()),  # that a loss counts in the group
        ("mended", pyarrow.binary()),  # counts under the names of `MENDED`
        ("key", pyarrow.binary()),
        ("digest", pyarrow.binary()),
        ("account", pyarrow.string()),  # of what gave no group; "" in the row of a group
    ]
)

_ROLES: tuple[Role, ...] = get_args(Role)
_GIVEN = ("label", "score", "step_labels", "steps", "ratings", "scale")
_PLAIN = Response("")
_ACCOUNT: dict[str, Any] = {
    **{name: [] for name in ("ids", "sizes", "mask", "terminal", "roles")},
    **{name: 0 for name in ("is_pair", "margin", "prompt", "examples")},
    **{name: "" for name in ("given", "where")},
    **{"mended": bytes(len(MENDED)), "key": bytes(16), "digest": bytes(16)},
}


def encode(numbered: Sequence[tuple[int, Example]], work: Tokenization, unit: Unit) -> pyarrow.RecordBatch:
    """Return the groups of examples, and the account of the others, as rows; the account of `work` begins anew.

    Args:
        numbered: (number of its row, what it was read as).
        work: tokenises them.
        unit: what a loss counts.
    """
    rows, examples = [], [example for _, example in numbered]
    for one in work.groups(examples):
        counts = bytes(min(one.mended[name], 255) for name in MENDED)
        rows.append(_row(one.group) | {"prompt": prompt_hash(examples[one.place].prompt), "mended": counts})
        rows[-1]["examples"] = unit.size(one.group)
    bad = [[numbered[place][0], where, why.reason, why.detail, why.hint] for place, where, why in work.bad]
    long = too_long(work.long, work.limits) if work.long else None
    refused = None if long is None else [long.message, long.hint]
    rows.append(_ACCOUNT | {"account": json.dumps({"lost": work.lost, "bad": bad, "refused": refused})})
    for emptied in (work.bad, work.lost, work.mended, work.long):
        emptied.clear()
    return pyarrow.RecordBatch.from_pylist(rows, FIELDS)


def _row(group: TokenGroup) -> dict[str, Any]:
    parts = [group.prompt_ids, *(response.ids for response in group.responses)]
    given = [_given(response.given) for response in group.responses]
    return {
        "ids": np.concatenate(parts),
        "sizes": [len(part) for part in parts],
        "mask": np.concatenate([response.mask for response in group.responses]).view(np.uint8),
        "terminal": [int(response.terminal) for response in group.responses],
        "roles": [_ROLES.index(response.role) for response in group.responses],
        "given": json.dumps(given) if any(given) else "",
        "is_pair": int(group.is_pair),
        "margin": float("nan") if group.margin is None else float(group.margin),
        "where": group.where,
        "key": bytes.fromhex(group_key(group)),
        "digest": bytes.fromhex(group_digest(group)),
        "account": "",
    }


def _given(response: Response | None) -> dict[str, Any]:
    """Return what is learnt of a response beside its text."""
    found = {} if response is None else {name: getattr(response, name) for name in _GIVEN}
    return {name: value for name, value in found.items() if value is not None and value != () and value != {}}


def _response(given: dict[str, Any]) -> Response:
    listed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Response("", **listed)


def numbers(column: Any) -> NDArray[Any]:
    """Return a column of numbers as it lies in memory (pyarrow's own way imports pandas, which takes 40 MB)."""
    kind = np.dtype(str(column.type))
    return np.frombuffer(column.buffers()[1], kind, len(column), column.offset * kind.itemsize)


class TokenFile:
    """Files of groups, mapped into memory: pages are read when a group of theirs is asked for.

    Args:
        paths: the files, in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @cached_property
    def _batches(self) -> list["_Batch"]:
        opened = (pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))) for path in self._paths)
        return [_Batch(batch) for stream in opened for batch in stream]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(batch.count for batch in self._batches))

    def group(self, row: int) -> TokenGroup:
        """Return the group of a row."""
        which = bisect_right(self._ends, row)
        batch = self._batches[which]
        return batch.group(row - self._ends[which] + batch.count)

    def columns(self, *names: str) -> Iterator[pyarrow.RecordBatch]:
        """Yield some columns, part by part, without leaving their pages in memory."""
        wanted = pyarrow.ipc.IpcReadOptions(included_fields=[FIELDS.get_field_index(name) for name in names])
        for path in self._paths:
            with pyarrow.OSFile(str(path)) as file:
                for batch in pyarrow.ipc.open_stream(file, options=wanted):
                    yield batch
                    del batch  # before the next one is read
        pyarrow.default_memory_pool().release_unused()


class _Batch:
    """Rows of a file, their numbers as they lie on the disk."""

    def __init__(self, batch: pyarrow.RecordBatch) -> None:
        self._batch, self.count = batch, batch.num_rows

    @cached_property
    def _lists(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        names = ("ids", "sizes", "mask", "terminal", "roles")
        columns = {name: self._batch.column(name) for name in names}
        return {name: (numbers(one.offsets), numbers(one.values)) for name, one in columns.items()}

    def group(self, row: int) -> TokenGroup:
        def cells(name: str) -> NDArray[Any]:
            offsets, values = self._lists[name]
            return values[offsets[row] : offsets[row + 1]]

        def value(name: str) -> Any:
            return self._batch.column(name)[row].as_py()

        sizes, given = cells("sizes"), value("given")
        prompt, *parts = np.split(cells("ids"), np.cumsum(sizes)[:-1])
        masks = np.split(cells("mask").view(np.bool_), np.cumsum(sizes[1:])[:-1])
        told = map(_response, json.loads(given)) if given else (_PLAIN for _ in parts)
        ends, roles = (cells(name).tolist() for name in ("terminal", "roles"))
        responses = tuple(
            TokenResponse(ids, mask, bool(end), _ROLES[role], given=one)
            for ids, mask, end, role, one in zip(parts, masks, ends, roles, told, strict=True)
        )
        margin = value("margin")
        return TokenGroup(
            prompt, responses, bool(value("is_pair")), value("where"), None if np.isnan(margin) else margin
        )
