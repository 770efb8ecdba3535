"""All findings of an audit, made of what was kept of the rows; and the numbers of a data set as a whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenq.curation.audit.columns import Columns
from tokenq.curation.audit.finding import Fault
from tokenq.curation.audit.preferences import contradictions, cycles
from tokenq.curation.audit.sameness import duplicates, near_duplicates, repeated_ids, shared_prompts
from tokenq.curation.audit.shortcuts import KINDS, Shortcut, shortcuts
from tokenq.curation.audit.truncation import find_limit
from tokenq.listener import Progress, silent


class Read(NamedTuple):
    """What an audit has read off the rows.

    Attributes:
        faults: its findings, in the order of `finding.KINDS`.
        shortcuts: what tells chosen from rejected; none without enough pairs.
        numbers: what there is: rows, pairs, lengths, languages, sources.
    """

    faults: list[Fault]
    shortcuts: list[Shortcut]
    numbers: dict[str, Any]


def read_columns(
    columns: Columns, *, likeness: float, bias_above: float, resamples: int = 2000, progress: Progress = silent
) -> Read:
    """Return what an audit reads off the rows.

    Args:
        columns: what was kept of them.
        likeness: from which on rows are near duplicates.
        bias_above: the accuracy of a shortcut from which on it is a finding.
        resamples: of intervals.
        progress: told how many rows that may be alike are compared.
    """
    from tokenq.stats.bootstrap import Resampling

    told = shortcuts(columns.sides.pairs(), Resampling(resamples))
    faults = [
        *_by_itself(columns, "unusable"),
        *_by_itself(columns, "empty"),
        *_by_itself(columns, "identical"),
        *contradictions(columns),
        *cycles(columns),
        *duplicates(columns),
        *near_duplicates(columns, likeness, progress),
        *shared_prompts(columns),
        *repeated_ids(columns),
        *_by_itself(columns, "truncated"),
        *_limits(columns),
        *_biases(told, bias_above),
    ]
    return Read(faults, told, _numbers(columns))


def _by_itself(columns: Columns, kind: str) -> Iterator[Fault]:
    for row, found in sorted(columns.faults.get(kind, {}).items()):
        yield Fault(kind, (row,), found, (row,))


def _limits(columns: Columns) -> Iterator[Fault]:
    """Yield the rows of responses that pile up at a length."""
    rows = np.array(columns.response_rows)
    for unit, counted in (("tokens", columns.tokens), ("characters", columns.lengths)):
        lengths = np.array(counted, np.int64)
        if (limit := find_limit(lengths)) is not None:
            found = tuple(sorted(set(rows[lengths == limit.length].tolist())))
            said = f"{limit.count} responses have {limit.length:,} {unit}, which none exceeds: they were cut there"
            yield Fault("truncated", found, said, found, {unit: limit.length, "responses": limit.count})


def _biases(told: Sequence[Shortcut], bias_above: float) -> Iterator[Fault]:
    for one in told:
        if one.accuracy.low > bias_above:
            value = one.accuracy.value
            said = f"{one.name.replace('_', ' ')} alone names the chosen response of {value:.1%} of the pairs"
            ends = {"accuracy": value, "low": one.accuracy.low, "high": one.accuracy.high}
            yield Fault(KINDS[one.name], (), said, (), ends)


def _numbers(columns: Columns) -> dict[str, Any]:
    """Return what there is."""
    numbers: dict[str, Any] = {
        "rows": len(columns.where),
        "held_out_rows": len(columns.where) - columns.held_out if columns.held_out else 0,
        "read_rows": len(set(columns.rows)),
        "prompts": len(np.unique(np.array(columns.prompts))),
        "pairs": columns.sides.count,
        "pairs_looked_at": len(columns.sides.pairs()),
    }
    numbers["responses"] = len(columns.lengths)
    for name, counted in (("characters", columns.lengths), ("tokens", columns.tokens)):
        if len(counted):
            numbers[f"{name}_of_responses"] = _spread(np.array(counted))
    numbers |= _longer(columns)
    counts = {name: dict(counter.most_common(20)) for name, counter in sorted(columns.account.items())}
    return numbers | {"counts": counts}


def _spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    places = (0, 10, 50, 90, 99, 100)
    names = ("least", "p10", "p50", "p90", "p99", "most")
    found = np.percentile(values, places, method="inverted_cdf").tolist()
    return {"mean": float(values.mean()), **dict(zip(names, found, strict=True))}


def _longer(columns: Columns) -> Mapping[str, float]:
    """Return how often the chosen response is the longer one."""
    lengths = np.array([pair.lengths for pair in columns.sides.pairs()])
    if not len(lengths):
        return {}
    chosen, rejected = lengths.T
    return {
        "chosen_longer": float((chosen > rejected).mean()),
        "rejected_longer": float((chosen < rejected).mean()),
        "characters_chosen": float(chosen.mean()),
        "characters_rejected": float(rejected.mean()),
    }
