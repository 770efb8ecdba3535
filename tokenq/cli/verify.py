"""`tokenq verify`: every claim of the theory, checked in worlds small enough to be solved exactly.

Prints claim, source, largest error, tolerance and verdict, and fails when one of them does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenq.ranges import Range, check_ranges

if TYPE_CHECKING:
    from rich.table import Table

    from tokenq.verify.claim import ClaimResult


@dataclass(frozen=True)
class VerifyConfig:
    """Check every claim about language models as Q-functions in small worlds with known answers."""

    worlds: int = 5
    """Random worlds that each claim is checked in."""
    seed: int = 0
    """Seed of the first world."""
    topic: Sequence[str] = ()
    """Check the claims of this topic alone (Bellman, DPO, turns, ...); several are checked together."""
    output: str | None = None
    """JSON file to write the table to as well."""
    overwrite: bool = False
    """Replace a file that this command did not write."""


RANGES = (Range(("worlds",), least=1, most=10_000),)
"""Ranges of the numbers, beside those that all configurations share."""

_WIDTH = 190
"""Columns of the table where no terminal says how wide it is."""


def run(config: VerifyConfig) -> int:
    """Check the claims, print the table, and return the exit code: 1 where one did not come out as it must.

    Raises:
        UserError: no world to check in, or an unknown topic.
    """
    from tokenq.jobs.outputs import claimed
    from tokenq.terminal.console import screen

    check_ranges(config, RANGES)
    files = [] if config.output is None else [Path(config.output)]
    with claimed("tokenq verify", files, overwrite=config.overwrite):
        findings = _findings(config)
        console = screen(_WIDTH)
        console.print(_table(findings))
        wrong = [finding for finding in findings if not finding.as_expected]
        plural = "s" * (config.worlds > 1)
        console.print(
            f"{len(findings) - len(wrong)} of {len(findings)} claims came out as they must, "
            f"in {config.worlds} world{plural} each (seeds {config.seed} to {config.seed + config.worlds - 1})."
        )
        for path in files:
            _write(path, config, findings)
    return 1 if wrong else 0


def _findings(config: VerifyConfig) -> "list[ClaimResult]":
    from rich.progress import track

    from tokenq.terminal.console import messages
    from tokenq.verify.check import check, claims_of

    claims, errors = claims_of(config.topic), messages()
    found = check(claims, range(config.seed, config.seed + config.worlds))
    quiet = not errors.is_terminal
    return list(track(found, "checking", len(claims), console=errors, transient=True, disable=quiet))


def _table(findings: "list[ClaimResult]") -> "Table":
    from rich.table import Table

    table = Table("topic", "claim", "source", "worlds", "error", "tolerance", "verdict")
    for column in (4, 5):
        table.columns[column].justify = "right"
        table.columns[column].no_wrap = True
    before = None
    for finding in findings:
        claim = finding.claim
        if before not in (None, claim.topic):
            table.add_section()
        style = None if finding.as_expected else "bold red"
        cells = (claim.statement, claim.source, claim.kind, f"{finding.error:.1e}", f"{claim.tolerance:.0e}")
        table.add_row("" if before == claim.topic else claim.topic, *cells, finding.verdict, style=style)
        before = claim.topic
    return table


def _write(path: Path, config: VerifyConfig, findings: "list[ClaimResult]") -> None:
    from tokenq.files import write_json
    from tokenq.rundir import provenance

    claims = [
        {
            **finding.claim._asdict(),
            "check": finding.claim.check.__name__,
            "error": finding.error,
            "verdict": finding.verdict,
            "as_expected": finding.as_expected,
        }
        for finding in findings
    ]
    write_json(path, provenance(asdict(config), config.seed, {}) | {"made_by": "tokenq verify", "claims": claims})
