"""An audit as one HTML page: findings with the rows they speak of, and suspicious pairs with their heat maps.

The page has no script: it opens from disk, loads nothing and sends nothing. Texts are escaped by the template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.curation.audit.finding import KINDS, Fault
from tokenq.files import write_text
from tokenq.records.traces import TokenTrace
from tokenq.report.channels import find_channel, largest
from tokenq.report.figure_page import token_view
from tokenq.report.html import shown_tokens
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import shown_table
from tokenq.stats.outcome import Table

STYLES = ("theme.css", "tokens.css", "depths.css", "sheet.css", "audits.css")
"""The parts of the page's style."""

SHOWN = 20
"""Findings of a kind that are shown with the texts of their rows; the JSON has all."""

_ROWS = 6
"""Rows of a finding that are shown."""

Texts = Mapping[int, Sequence[tuple[str, str]]]
"""(part, how it begins) of the texts of each row."""


@dataclass(frozen=True)
class SuspectPair:
    """A pair of which a policy doubts the label.

    Attributes:
        where: its place in the data.
        margin: implicit reward of chosen above rejected.
        wrong: probability that the label is wrong; None where the policy may have learnt it.
        chosen: trace of the one response.
        rejected: trace of the other.
    """

    where: str
    margin: float
    wrong: float | None
    chosen: TokenTrace
    rejected: TokenTrace


@dataclass(frozen=True)
class AuditPage:
    """What the page of an audit shows.

    Attributes:
        tables: findings by kind, shortcuts, margins.
        faults: the findings.
        where: the place of every row.
        texts: how the texts of each row begin.
        counts: languages and sources: name → value → rows.
        pairs: the most suspicious pairs.
        record: where it comes from, as provenance has it.
    """

    tables: Sequence[Table]
    faults: Sequence[Fault]
    where: Sequence[str]
    texts: Texts
    counts: Mapping[str, Mapping[str, int]]
    pairs: Sequence[SuspectPair]
    record: Mapping[str, Any]


def audit_page(shown: AuditPage) -> str:
    """Return a self-contained HTML page that shows an audit."""
    sections = []
    for kind, meaning in KINDS.items():
        own = [fault for fault in shown.faults if fault.kind == kind]
        if own:
            listed = [_finding(fault, shown) for fault in own[:SHOWN]]
            sections.append({"kind": kind, "meaning": meaning, "found": listed, "left": len(own) - len(listed)})
    text = offline_page(
        "audits.html.jinja",
        (),
        STYLES,
        "Audit of the data",
        {},
        shown.record,
        tables=list(map(shown_table, shown.tables)),
        sections=sections,
        pairs=[_pair(one) for one in shown.pairs],
        counts=[shown_table(_counts(name, counted)) for name, counted in shown.counts.items()],
    )
    return writable(text)


def write_audit_page(path: Path, shown: AuditPage) -> None:
    """Write the page of an audit, aside and renamed.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, audit_page(shown))


def _finding(fault: Fault, shown: AuditPage) -> dict[str, Any]:
    rows = [(shown.where[row], shown.texts.get(row, ())) for row in fault.rows[:_ROWS]]
    return {"found": fault.found, "rows": rows, "left": max(0, len(fault.rows) - _ROWS)}


def _pair(pair: SuspectPair) -> dict[str, Any]:
    both = (pair.chosen, pair.rejected)
    channel = find_channel(None, pair.chosen)
    scale = largest(both, channel)
    sides = [
        {
            "name": name,
            "total": _signed(trace.totals.implicit_reward),
            "tokens": [token_view(token) for token in shown_tokens(trace, channel, scale)],
        }
        for name, trace in zip(("chosen", "rejected"), both, strict=True)
    ]
    facts = [("margin", _signed(pair.margin))]
    facts += [] if pair.wrong is None else [("label wrong with probability", f"{pair.wrong:.2f}")]
    return {"where": pair.where, "facts": facts, "prompt": pair.chosen.prompt, "sides": sides}


def _counts(name: str, counted: Mapping[str, int]) -> Table:
    total = sum(counted.values())
    return Table(
        name[0].upper() + name[1:], ("", "rows", "share"), [(one, n, f"{n / total:.1%}") for one, n in counted.items()]
    )


def _signed(value: float | None) -> str:
    return f"{value or 0.0:+.3f}".replace("-", "−")
