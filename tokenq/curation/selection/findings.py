"""The rows that an audit speaks of, as its JSON has them: which of them are left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.errors import UserError, unknown_name
from tokenq.files import read_json

REPEATED = ("duplicate", "near_duplicate")
"""Kinds of findings of whose rows one is kept."""


def dropped_rows(path: Path, kinds: Sequence[str], names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Return the rows that are left out, by the kind of finding.

    Of rows that say the same, the first that nothing else drops is kept.

    Args:
        path: what `tokenq audit --output` wrote.
        kinds: which findings count; all that name rows where empty.
        names: of the rows of the data, as messages have them.

    Raises:
        UserError: the file is no audit, is one of other data, or has no findings of a kind.
    """
    findings = [_checked(path, finding, names) for finding in _findings(path)]
    known = sorted({finding["kind"] for finding in findings})
    for kind in kinds:
        if kind not in known:
            raise unknown_name(f"kind of finding with rows in {path}", kind, known)
    asked = [finding for finding in findings if not kinds or finding["kind"] in kinds]
    asked.sort(key=lambda finding: finding["kind"] in REPEATED)
    dropped: set[int] = set()
    found: dict[str, set[int]] = {}
    for finding in asked:
        rows = sorted(set(finding["rows"]) - dropped)
        lost = rows[1:] if finding["kind"] in REPEATED else rows
        dropped |= set(lost)
        found.setdefault(finding["kind"], set()).update(lost)
    return {kind: frozenset(rows) for kind, rows in found.items()}


def _findings(path: Path) -> list[Mapping[str, Any]]:
    said = read_json(path)
    found = said.get("findings") if isinstance(said, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, Mapping) and "kind" in one for one in found):
        raise UserError(f"{path} holds no findings.", "Give the JSON of tokenq audit DATA --output audit.json.")
    return [finding for finding in found if finding.get("rows")]


def _checked(path: Path, finding: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return a finding; refuse one whose rows are not those of the data."""
    for number, where in zip(finding["rows"], finding.get("where") or [None] * len(finding["rows"]), strict=False):
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise UserError(f"{path} speaks of row {number}, and the data have {len(names)}.", "Audit these data.")
        if where is not None and where != names[number]:
            raise UserError(
                f"{path} speaks of {where}, which is row {number} of its data, and here that is {names[number]}.",
                "Audit these data: the same files in the same order.",
            )
    return finding
