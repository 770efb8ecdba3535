"""`tokenq doctor`: prints finding, evidence and what to change, and fails when one is worse than a note."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenq.doctor.config import DoctorConfig

if TYPE_CHECKING:
    from rich.table import Table

    from tokenq.doctor.finding import Finding

_WIDTH = 190
"""Columns of the table where no terminal says how wide it is."""

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def run(config: DoctorConfig) -> int:
    """Examine what `config` names, print what was found, and return the exit code: 1 where it is worse than a note.

    Raises:
        UserError: there is no run, or a model or a file cannot be read.
    """
    from tokenq.jobs.examine import examine
    from tokenq.terminal.console import screen
    from tokenq.terminal.progress import Progress

    with Progress(1) as progress:
        found = examine(**vars(config), listener=progress)
    console = screen(_WIDTH)
    if found.findings:
        console.print(_table(found.findings))
    for what in found.unseen:
        console.print(f"not looked at: {what}")
    console.print(f"{found.material.record.path}: {_counts(found.findings)} from {len(found.checks)} checks.")
    return 0 if found.healthy else 1


def _table(findings: "Sequence[Finding]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("", "finding", "evidence", "what to change", show_lines=True)
    table.columns[0].no_wrap = True
    for finding in findings:
        style = _STYLES[finding.severity]
        found = Text.assemble((finding.name, style), "\n", finding.found)
        evidence = Text("\n".join(one.line() for one in finding.evidence))
        table.add_row(Text(finding.severity, style=style), found, evidence, Text(finding.change))
    return table


def _counts(findings: "Sequence[Finding]") -> str:
    from tokenq.doctor.finding import SEVERITIES

    counts = [(sum(one.severity == severity for one in findings), severity) for severity in SEVERITIES]
    said = [f"{count} {severity}{'s' * (count > 1)}" for count, severity in counts if count]
    return ", ".join(said) or "nothing found"
