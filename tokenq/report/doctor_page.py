"""An examination as one HTML page: findings with their evidence, and the curves that they speak of.

The page has no script: it opens from disk, loads nothing, sends nothing and can be printed. Texts are escaped by the
template; curves are lines of numbers that are computed here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tokenq
from tokenq.doctor.finding import SEVERITIES, Finding, shown
from tokenq.files import write_text
from tokenq.report.offline import origin, templates, writable
from tokenq.runs.record import RunRecord, Series
from tokenq.stats.bootstrap import Floats

WIDTH, HEIGHT, MARGIN = 460, 150, 8
"""Size of a curve in units of its view box, and what stays free around it."""

_MOST_POINTS = 240
"""Points of a line; a longer run is averaged to so many."""


class DrawnCurve(NamedTuple):
    """A line of one figure.

    Attributes:
        label: its name.
        kind: "first", "second", …, and "held" beside it for what evaluations measured.
        points: "x,y x,y …" in the view box.
        last: its last value.
        band: the outline of its intervals, in the same form; empty without any.
        dots: its points one by one, where they are few.
    """

    label: str
    kind: str
    points: str
    last: str
    band: str = ""
    dots: tuple[tuple[float, float], ...] = ()


class Line(NamedTuple):
    """The numbers of a line.

    Attributes:
        label: its name.
        kind: as in `DrawnCurve`.
        series: its values.
        intervals: lower and upper ends, each with the steps of `series`; None without any.
    """

    label: str
    kind: str
    series: Series
    intervals: tuple[Floats, Floats] | None = None


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        title: what it shows, with its unit.
        curves: its lines.
        low: smallest value, as text.
        high: largest value.
        ticks: (y, number) of the round numbers that the range holds.
        steps: last step.
        step_ticks: (x, step) of round steps.
        zero: y of the value 0, None where it lies outside.
        marks: x of the steps that warnings and errors speak of.
    """

    title: str
    curves: tuple[DrawnCurve, ...]
    low: str
    high: str
    ticks: tuple[tuple[float, str], ...]
    steps: int
    step_ticks: tuple[tuple[float, str], ...]
    zero: float | None
    marks: tuple[float, ...]


_FIGURES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss, nats", (("loss", "loss"),)),
    ("log π − log π_ref of the responses, nats", (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected"))),
    ("reward margin, nats", (("rewards/margins", "margin"),)),
    ("reward accuracy", (("rewards/accuracies", "accuracy"),)),
    ("KL estimate, nats per response", (("kl", "kl"),)),
    ("log π of the responses, nats", (("logps/responses", "log π"),)),
    ("gradient norm before clipping", (("grad_norm", "grad_norm"),)),
    ("learning rate", (("learning_rate", "learning_rate"),)),
)
"""Title and metrics of every figure; one without numbers is left out."""


def doctor_page(
    findings: Sequence[Finding], record: RunRecord, unseen: Sequence[str] = (), made: Mapping[str, Any] = {}
) -> str:
    """Return a self-contained HTML page that shows an examination.

    Args:
        findings: what was found.
        record: what was looked at.
        unseen: what could not be looked at.
        made: where the examination comes from, as provenance has it.
    """
    marks = sorted({one.step for f in findings if f.severity != "note" for one in f.evidence if one.step is not None})
    text = (
        templates()
        .get_template("doctor.html.jinja")
        .render(
            title=f"{Path(record.path).name}: examination",
            version=tokenq.__version__,
            generator=f"tokenq doctor {tokenq.__version__}",
            path=record.path,
            facts=_facts(record),
            origin=origin(made),
            groups=[(level, [f for f in findings if f.severity == level]) for level in SEVERITIES],
            unseen=list(unseen),
            figures=[figure for title, names in _FIGURES if (figure := _figure(title, names, record, marks))],
            width=WIDTH,
            height=HEIGHT,
        )
    )
    return writable(text)


def write_doctor_page(
    path: Path,
    findings: Sequence[Finding],
    record: RunRecord,
    unseen: Sequence[str] = (),
    made: Mapping[str, Any] = {},
) -> None:
    """Write the page to `path`, aside and renamed.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, doctor_page(findings, record, unseen, made))


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return the facts of a run, as (name, text)."""
    told: dict[str, Any] = {name: record.config.get(name) for name in ("model", "reference", "loss", "learning_rate")}
    told |= {"beta": record.beta if record.loss.reference else None, "batch size": record.config.get("batch_size")}
    told |= {"data": ", ".join(record.config.get("data") or ()), "began": record.provenance.get("started")}
    told["steps"] = record.steps[-1]["step"] if record.steps else None
    return [(name, str(value)) for name, value in told.items() if value not in (None, "")]


def _figure(title: str, names: Sequence[tuple[str, str]], record: RunRecord, marks: Sequence[int]) -> Figure | None:
    scale = 1 / record.beta if "log π_ref" in title else 1.0
    lines: list[tuple[str, str, Series]] = []
    for (name, label), kind in zip(names, ("first", "second"), strict=False):
        held_out = record.evaluation(name)
        if name == "rewards/accuracies":  # before the first update all pairs are tied, which counts as wrong
            held_out = Series(held_out.steps[held_out.steps > 0], held_out.values[held_out.steps > 0])
        lines += [(label, kind, record.training(name)), (f"{label}, held out", f"{kind} held", held_out)]
    shown_lines = [Line(label, kind, Series(s.steps, s.values * scale)) for label, kind, s in lines if len(s)]
    return drawn_figure(title, shown_lines, marks)


def drawn_figure(
    title: str, lines: Sequence[Line], marks: Sequence[int] = (), level: float = 0.0, dots: int = 0, end: int = 0
) -> Figure | None:
    """Return a figure of lines, None where none of them has two points.

    Args:
        title: what it shows.
        lines: its lines, none of them empty.
        marks: steps with an upright line.
        level: value of a line across, where it lies within.
        dots: most points of a line that are drawn one by one.
        end: the last step of the figure, where its lines may end earlier.
    """
    if not lines or all(len(line.series) < 2 for line in lines):
        return None
    values = np.concatenate([part for line in lines for part in (line.series.values, *(line.intervals or ()))])
    low, high = float(values.min()), float(values.max())
    last = max(end, *(int(line.series.steps[-1]) for line in lines))

    def curve(line: Line) -> DrawnCurve:
        places = [(_x(s, last), _y(v, low, high)) for s, v in zip(*line.series, strict=True)]
        band = "" if line.intervals is None else _band(line.series.steps, line.intervals, low, high, last)
        ends = "" if line.intervals is None else " [{}, {}]".format(*(shown(float(end[-1])) for end in line.intervals))
        said = f"{shown(float(line.series.values[-1]))}{ends}"
        few = tuple(places) if len(places) <= dots else ()
        return DrawnCurve(line.label, line.kind, _points(line.series, low, high, last), said, band, few)

    return Figure(
        title,
        tuple(map(curve, lines)),
        shown(_rounded(low, high - low)),
        shown(_rounded(high, high - low)),
        tuple((_y(tick, low, high), shown(tick)) for tick in _ticks(low, high)),
        last,
        tuple((_x(tick, last), shown(tick)) for tick in _ticks(0.0, float(last)) if tick == int(tick)),
        _y(level, low, high) if low < level < high else None,
        tuple(_x(step, last) for step in marks if 0 < step <= last),
    )


def _band(steps: Iterable[int], intervals: tuple[Floats, Floats], low: float, high: float, last: int) -> str:
    """Return the outline of intervals: the lower ends, and the upper ones back."""
    lower, upper = ([(_x(s, last), _y(v, low, high)) for s, v in zip(steps, part, strict=True)] for part in intervals)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (*lower, *reversed(upper)))


def _points(series: Series, low: float, high: float, last: int) -> str:
    """Return the points of a line, averaged where there are more than a screen shows."""
    parts = min(_MOST_POINTS, len(series))
    steps = [float(part.mean()) for part in np.array_split(series.steps, parts)]
    values = [float(part.mean()) for part in np.array_split(series.values, parts)]
    return " ".join(f"{_x(s, last):.1f},{_y(v, low, high):.1f}" for s, v in zip(steps, values, strict=True))


def _rounded(value: float, span: float) -> float:
    """Return a number without what is rounding noise beside the range it stands in: −8.9e-09 beside 0.9 is 0."""
    if not (span > 0 and math.isfinite(span)):
        return value
    return round(value, max(0, 3 - math.floor(math.log10(span)))) + 0.0


def _ticks(low: float, high: float) -> list[float]:
    """Return two to six round numbers in a range, none where it is no range."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return []
    size = 10.0 ** math.floor(math.log10(span / 3))
    step = next(size * times for times in (1, 2, 5, 10) if span / (size * times) <= 5)
    return [_rounded(step * number, span) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _x(step: float, last: int) -> float:
    return round(MARGIN + (WIDTH - 2 * MARGIN) * step / max(1, last), 1)


def _y(value: float, low: float, high: float) -> float:
    span = high - low
    share = (value - low) / span if span > 0 and math.isfinite(span) else 0.5
    return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share, 1)
