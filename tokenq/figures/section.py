"""One figure of a report with the claim that it stands for: what was claimed, what came out, and the numbers.

A section says what a paper claims, whether this run shows it, by how much and why, and puts beside it what the same
quantity is in worlds that can be solved exactly. Nothing is computed here and nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenq.records.traces import TokenTrace
from tokenq.stats.outcome import Chart, Table

Verdict = Literal["reproduced", "in part", "not reproduced", "not tested"]


@dataclass(frozen=True)
class HeatMap:
    """A response to be shown with a colour for each token.

    Attributes:
        caption: what it is.
        trace: the response with its numbers.
        wrong: (start, end) stretches that are labelled as wrong, in characters of the response.
    """

    caption: str
    trace: TokenTrace
    wrong: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Panel:
    """Small pictures in a row.

    Attributes:
        caption: what they are.
        pictures: (what it is, the picture as a PNG) each.
    """

    caption: str
    pictures: Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Link:
    """Another page of the same report.

    Attributes:
        name: what to call it.
        path: its place, relative to the report's folder.
    """

    name: str
    path: str


@dataclass(frozen=True)
class Section:
    """A figure with its claim.

    Attributes:
        name: short, of letters and hyphens: names files and anchors.
        title: what it is about, as a question.
        claim: what is claimed, and where.
        verdict: whether it came out.
        reading: a few lines: by how much, and why.
        tables: its numbers; the first ones matter most.
        charts: its figures.
        heat_maps: responses to be shown token by token.
        exact: what the same quantities are in worlds that can be solved exactly.
        links: pages with more of it.
        panels: pictures to be looked at.
        legend: what is to be seen in them.
    """

    name: str
    title: str
    claim: str
    verdict: Verdict
    reading: str
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    heat_maps: Sequence[HeatMap] = ()
    exact: Table | None = None
    links: Sequence[Link] = ()
    panels: Sequence[Panel] = ()
    legend: str = ""
