"""The findings of an examination: a name, how bad it is, the numbers that say so, and what to change.

Plain data that goes to the terminal, to JSON and to a page as it is. Nothing is decided here.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From what makes a run worthless, over what should be looked at, to what only explains."""


class Evidence(NamedTuple):
    """One number that a finding rests on.

    Attributes:
        what: what the number is, with its unit.
        value: the number, or a text where there is none to give.
        step: optimiser steps taken when it was measured; None for what belongs to no step.
    """

    what: str
    value: float | str
    step: int | None = None

    def said(self) -> str:
        """Return the value, with its step where it has one."""
        value = self.value if isinstance(self.value, str) else shown(self.value)
        return value if self.step is None else f"{value} (step {self.step})"

    def line(self) -> str:
        """Return the evidence as one line of text."""
        return f"{self.what}: {self.said()}"


@dataclass(frozen=True)
class Finding:
    """The finding of a check.

    Attributes:
        name: of the finding, the same in every run; docs/doctor.md has a section for each.
        severity: "error", "warning" or "note".
        found: what was found and what it means.
        evidence: the numbers behind it.
        change: what to change, or that nothing need be.
    """

    name: str
    severity: Severity
    found: str
    evidence: tuple[Evidence, ...]
    change: str

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values for JSON."""
        return {**asdict(self), "evidence": [one._asdict() for one in self.evidence]}


def shown(number: float) -> str:
    """Return a number as a reader wants it: whole numbers whole, others with three or four digits, a true minus."""
    text = f"{number:,.0f}" if float(number).is_integer() and abs(number) < 1e9 else f"{number:.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def percent(part: float, whole: float) -> str:
    """Return part / whole as a percentage."""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"
