"""The rows that an audit speaks of, as its JSON has them: which of them are left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenq.errors import UserError, unknown_name
from tokenq.files import read_json

REPEATED = ("duplicate", "near_duplicate")
"""Kinds of findings of whose rows one is kept."""


def dropped_rows(path: Path, kinds: Sequence[str], names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Return the rows that are left out, by the kind of finding.

    Of rows that say the same, the first that nothing else drops is kept, and none where the audit saw a copy among
    held-out rows. Of other findings go those of its rows that the audit names to be dropped.

    Args:
        path: what `tokenq audit --output` wrote.
        kinds: which findings count; all that drop rows where empty.
        names: of the rows of the data, as messages have them.

    Raises:
        UserError: the file is no audit, is one of other data, or has no findings of a kind.
    """
    findings = _findings(path, len(names))
    for finding in findings:
        _refuse_other_data(path, finding, names)
    known = sorted({finding.kind for finding in findings})
    for kind in kinds:
        if kind not in known:
            raise unknown_name(f"kind of finding that drops rows in {path}", kind, known)
    asked = [finding for finding in findings if not kinds or finding.kind in kinds]
    asked.sort(key=lambda finding: finding.kind in REPEATED)
    dropped: set[int] = set()
    found: dict[str, set[int]] = {}
    for finding in asked:
        lost = finding.drop - dropped
        if finding.kind in REPEATED and not finding.held_out:
            lost = set(sorted(finding.rows - dropped)[1:])
        dropped |= lost
        found.setdefault(finding.kind, set()).update(lost)
    return {kind: frozenset(rows) for kind, rows in found.items()}


class _Finding(NamedTuple):
    """A finding on rows of the data.

    Attributes:
        kind: what is wrong.
        rows: its rows among the data.
        drop: those of them without which it is gone.
        where: the name of each row that it speaks of.
        held_out: whether it speaks of held-out rows too, whose numbers are behind those of the data.
    """

    kind: str
    rows: set[int]
    drop: set[int]
    where: Mapping[int, str]
    held_out: bool


def _findings(path: Path, count: int) -> list[_Finding]:
    said = read_json(path)
    found = said.get("findings") if isinstance(said, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, Mapping) and "kind" in one for one in found):
        raise UserError(f"{path} holds no findings.", "Give the JSON of tokenq audit DATA --output audit.json.")
    numbers = said.get("numbers") or {}
    rows = int(numbers.get("rows", count)) - int(numbers.get("held_out_rows", 0))
    if rows != count:
        raise UserError(f"{path} is an audit of {rows} rows, and the data have {count}.", "Audit these data.")
    findings = [_read(path, one, int(numbers.get("rows", count)), count) for one in found if one.get("rows")]
    return [one for one in findings if one.drop]


def _read(path: Path, finding: Mapping[str, Any], known: int, count: int) -> _Finding:
    """Return a finding; `known` rows there are, held-out ones last, and `count` of them are data."""
    rows = finding["rows"]
    strange = [row for row in rows if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < known]
    if strange:
        raise UserError(
            f"{path} speaks of row {strange[0]!r}, and there are {known}.", "Rows are counted from 0: audit these data."
        )
    own = {row for row in rows if row < count}
    where = dict(zip(rows, finding.get("where") or (), strict=False))
    drop = set(finding.get("drop", rows)) & own
    return _Finding(str(finding["kind"]), own, drop, where, len(own) < len(set(rows)))


def _refuse_other_data(path: Path, finding: _Finding, names: Sequence[str]) -> None:
    for number, where in finding.where.items():  # a file may be named from another folder
        if number < len(names) and str(where).rpartition("/")[2] != names[number].rpartition("/")[2]:
            raise UserError(
                f"{path} speaks of {where}, which is row {number} of its data, and here that is {names[number]}.",
                "Audit these data: the same files in the same order.",
            )
