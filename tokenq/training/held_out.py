"""The held-out responses one by one, as the last evaluation found them: what runs are compared by.

Averages in `metrics.jsonl` cannot be paired. This file keeps what each response got, and what it had before the first
update, so that two runs can be compared pair by pair without their weights. Responses are told by their tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.core.losses.table import Unit
from tokenq.core.tensors import PackedBatch
from tokenq.files import JsonLines, write_json_lines
from tokenq.records import TokenGroup
from tokenq.rundir import RunDir
from tokenq.training.objective import Outcome

Row = tuple[int, int, float, float | None]
"""(example, place of the response in it, log π, log π_ref or None)."""


class Kept(NamedTuple):
    """What one process keeps of an evaluation beside averages.

    Attributes:
        rows: what each response got.
        rated: by attribute (output, rating) of responses, for a reward model.
    """

    rows: list[Row]
    rated: list[Mapping[str, list[list[float]]]]

    def add(self, outcome: Outcome, batch: PackedBatch) -> None:
        """Keep what a batch gave; outputs of a reward model are no log-probs, and have no rows."""
        self.rated.append(outcome.rated)
        self.rows.extend(rows_of(outcome, batch) if outcome.logps.ndim == 1 else [])


def rows_of(outcome: Outcome, batch: PackedBatch) -> list[Row]:
    """Return what each response of a batch got: Σ_t log π and Σ_t log π_ref over the policy's own tokens, in nats."""
    logps = batch.pad(outcome.logps).sums().tolist()
    if outcome.ref_logps is None:
        return [(*member, logp, None) for member, logp in zip(batch.members, logps, strict=True)]
    ref_logps = batch.pad(outcome.ref_logps.to(outcome.logps.dtype)).sums().tolist()
    return [(*member, *both) for member, *both in zip(batch.members, logps, ref_logps, strict=True)]


def write_held_out(run: RunDir, groups: Sequence[TokenGroup], unit: Unit, rows: Sequence[Row], step: int) -> None:
    """Write what every held-out response got, over what an earlier evaluation wrote.

    Log-probs of the start are those of step 0, and afterwards those that the file already holds; None where it was
    lost.

    Args:
        run: where to.
        groups: the evaluation data.
        unit: what the loss trains on, which says what chosen and rejected are.
        rows: of every response.
        step: updates done.
    """
    rows = sorted(rows, key=lambda row: row[:2])
    old = JsonLines(run.held_out).read() if step else []
    known = [line["start_logp"] for line in old] if len(old) == len(rows) else [None] * len(rows)
    starts = known if step else [row[2] for row in rows]
    pairs = zip(rows, starts, strict=True)
    write_json_lines(run.held_out, (_line(groups, unit, row, start, step) for row, start in pairs))


def _line(groups: Sequence[TokenGroup], unit: Unit, row: Row, start: float | None, step: int) -> dict[str, Any]:
    example, place, logp, ref_logp = row
    group = groups[example]
    response = group.responses[place]
    return {
        "step": step,
        "example": example,
        "row": group.where,
        "prompt": _key(group.prompt_ids),
        "response": _key(response.ids),
        "side": _side(group, unit, place),
        "tokens": int(response.mask.sum()),
        "logp": logp,
        "start_logp": start,
        "ref_logp": ref_logp,
    }


def _side(group: TokenGroup, unit: Unit, place: int) -> str | None:
    """Return whether a response is chosen or rejected: desirable or not, the best or the worst; None where neither."""
    if unit == "labelled":
        return {True: "chosen", False: "rejected", None: None}[group.responses[place].label]
    ends = {"pairs": (0, 1), "ranked": (0, len(group.responses) - 1)}.get(unit, ())
    return next((side for side, end in zip(("chosen", "rejected"), ends, strict=False) if place == end), None)


def _key(ids: NDArray[np.int32]) -> str:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).hexdigest()
