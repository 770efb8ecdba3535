"""`tokenq verify`: every claim of the theory, checked in worlds small enough to be solved exactly.

Prints claim, source, largest error, tolerance and verdict, and fails when one of them does.
"""

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tokenq.cli.outputs import claims
from tokenq.ranges import Range, check_ranges

if TYPE_CHECKING:
    from rich.table import Table

    from tokenq.worlds.claims.claim import Finding


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
"""What numbers may be, beside those that all configurations share."""

_WIDTH = 190
"""Columns of the table where no terminal says how wide it is."""


@claims("tokenq verify")
def run(config: VerifyConfig) -> int:
    """Check the claims, print the table, and return the exit code: 1 where one did not come out as it must.

    Raises:
        UserError: no world to check in, or an unknown topic.
    """
    from rich.progress import track

    from tokenq.cli.console import messages, screen
    from tokenq.cli.search_claims import CLAIMS as SEARCH_CLAIMS
    from tokenq.errors import unknown_name
    from tokenq.worlds.claims.claim import find
    from tokenq.worlds.claims.table import CLAIMS

    check_ranges(config, RANGES)
    topics = {claim.topic: None for claim in CLAIMS}
    every = [claim for topic in topics for claim in (*CLAIMS, *SEARCH_CLAIMS) if claim.topic == topic]
    for topic in config.topic:
        if topic not in topics:
            raise unknown_name("topic", topic, topics)
    claims = [claim for claim in every if claim.topic in (config.topic or topics)]
    seeds = range(config.seed, config.seed + config.worlds)
    errors = messages()
    with _one_thread():  # the worlds are so small that handing work over takes longer than doing it
        done = _findings([partial(find, claim, seeds) for claim in claims])
        findings = list(
            track(done, "checking", len(claims), console=errors, transient=True, disable=not errors.is_terminal)
        )
    console = screen(_WIDTH)
    console.print(_table(findings))
    wrong = [finding for finding in findings if not finding.as_expected]
    console.print(
        f"{len(findings) - len(wrong)} of {len(findings)} claims came out as they must, "
        f"in {config.worlds} worlds each (seeds {seeds.start} to {seeds.stop - 1})."
    )
    if config.output is not None:
        _write(Path(config.output), config, findings)
    return 1 if wrong else 0


def _findings(checks: "Sequence[Callable[[], Finding]]") -> "Iterator[Finding]":
    """Yield what each check finds, in their order, from one process a core where processes can be forked."""
    cores = min(os.cpu_count() or 1, len(checks))
    if cores < 2 or "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        yield from (check() for check in checks)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the children start none
        pool = multiprocessing.get_context("fork").Pool(cores, _take, (checks,))
    with pool:
        yield from pool.imap(_check, range(len(checks)))


_CHECKS: "list[Callable[[], Finding]]" = []
"""The checks of a forked process: taken over as they are, since functions made in place cannot be sent."""


def _take(checks: "Sequence[Callable[[], Finding]]") -> None:
    _CHECKS[:] = checks


def _check(number: int) -> "Finding":
    return _CHECKS[number]()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _table(findings: "list[Finding]") -> "Table":
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


def _write(path: Path, config: VerifyConfig, findings: "list[Finding]") -> None:
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
