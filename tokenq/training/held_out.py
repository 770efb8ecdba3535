"""The held-out responses one by one, as the last evaluation found them: runs are compared by these.

Averages in `metrics.jsonl` cannot be paired. This file keeps what each response got, and what it had before the first
update, so that two runs can be compared pair by pair without their weights. Responses are told by their tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.core.tensors import Actions, Outputs
from tokenq.files import JsonLines, write_json_lines
from tokenq.records.examples import TokenGroup
from tokenq.rundir import RunDir
from tokenq.training.objective import BatchResult

LogpRow = tuple[int, int, float, float | None]
"""(example, place of the response in it, log π, log π_ref or None)."""


class EvaluationRows(NamedTuple):
    """The findings of one process in an evaluation, beside averages.

    Attributes:
        logps: what each response got.
        rated: by attribute (output, rating) of responses, for a reward model.
    """

    logps: list[LogpRow]
    rated: list[Mapping[str, list[list[float]]]]

    def add(self, result: BatchResult, actions: Actions) -> None:
        """Add what a batch gave."""
        self.rated.append(result.rated)
        self.logps.extend(rows_of(result.outputs, actions))


def rows_of(outputs: Outputs, actions: Actions) -> list[LogpRow]:
    """Return Σ_t log π and Σ_t log π_ref over the policy's own tokens of each response of a batch, in nats.

    Outputs of a reward model are no log-probs, and have no rows.
    """
    if outputs.logps is None:
        return []
    logps = actions.pad(outputs.logps).sums().tolist()
    if outputs.ref_logps is None:
        return [(*member, logp, None) for member, logp in zip(actions.members, logps, strict=True)]
    ref_logps = actions.pad(outputs.ref_logps.to(outputs.logps.dtype)).sums().tolist()
    return [(*member, *both) for member, *both in zip(actions.members, logps, ref_logps, strict=True)]


def write_held_out(run: RunDir, groups: Sequence[TokenGroup], rows: Sequence[LogpRow], step: int) -> None:
    """Write what every held-out response got, over what an earlier evaluation wrote.

    Log-probs of the start are those of step 0, and afterwards those that the file already holds; None where it was
    lost.

    Args:
        run: where to.
        groups: the evaluation data.
        rows: of every response.
        step: updates done.
    """
    rows = sorted(rows, key=lambda row: row[:2])
    old = JsonLines(run.held_out).read() if step else []
    known = [line["start_logp"] for line in old] if len(old) == len(rows) else [None] * len(rows)
    starts = known if step else [row[2] for row in rows]
    pairs = zip(rows, starts, strict=True)
    write_json_lines(run.held_out, (_line(groups, row, start, step) for row, start in pairs))


def _line(groups: Sequence[TokenGroup], row: LogpRow, start: float | None, step: int) -> dict[str, Any]:
    example, place, logp, ref_logp = row
    group = groups[example]
    response = group.responses[place]
    return {
        "step": step,
        "example": example,
        "row": group.where,
        "prompt": _key(group.prompt_ids),
        "response": _key(response.ids),
        "side": response.role if response.role in ("chosen", "rejected") else None,
        "tokens": int(response.mask.sum()),
        "logp": logp,
        "start_logp": start,
        "ref_logp": ref_logp,
    }


def _key(ids: NDArray[np.int32]) -> str:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).hexdigest()
