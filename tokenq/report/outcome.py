"""An evaluation in the terminal, its figures, and its tables as pages show them: the same for every task."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from rich.table import Column
from rich.table import Table as Drawn
from rich.text import Text

from tokenq.report.drawing import COLOURS, MARKERS, blank, drawable, text_width
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Chart, Curve, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 5.0  # of a figure, in inches: two stand side by side on a page, one fills a telephone
_HEIGHT = 2.9  # of what stands below the legend
_SIZE = 10.5  # of the letters, in points
_LINE = 1.45 * _SIZE / 72  # height of a line of them, in inches
_BESIDE = (1.4 + 0.6 + 1.4) * _SIZE / 72  # of a name in a legend: its line, and room before and behind it, in inches
_BANDED = 12
"""Points from which on intervals are a band and no bars."""


def tables(shown: Sequence[Table]) -> list[Drawn]:
    """Return tables as the terminal shows them, each as wide as that is and no wider."""
    drawn = []
    for table in shown:
        one = _frame(table)
        one.caption = Text(table.note, "table.caption") if table.note else None
        for number, column in enumerate(one.columns):
            if number and not any(isinstance(row[number], str) for row in table.rows if len(row) > number):
                column.justify = "right"
        for row in table.rows:
            cells = [Text(said(cell)) for cell in row]
            one.add_row(*cells, *[Text()] * (len(table.head) - len(cells)))
        drawn.append(one)
    return drawn


def brief(table: Table) -> Drawn:
    """Return a table as a few lines of a terminal: estimates without their intervals, no frame."""
    one = _frame(table, box=None, title_justify="left", pad_edge=False)
    for column in one.columns[1:]:
        column.justify = "right"
    for row in table.rows:
        one.add_row(*(Text(said(cell.value if isinstance(cell, Estimate) else cell)) for cell in row))
    return one


def _frame(table: Table, **how: Any) -> Drawn:
    """Return a table without its rows; what it says is text, never markup."""
    return Drawn(*(Column(Text(name)) for name in table.head), title=Text(table.title, "table.title"), **how)


def said(cell: Cell) -> str:
    """Return a cell as text: an estimate with its interval, numbers in three decimals, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, Estimate):
        if math.isnan(cell.value):
            return "–"
        return f"{_number(cell.value)} [{_number(cell.low)}, {_number(cell.high)}]"
    if isinstance(cell, float):
        return _number(cell)
    return cell if isinstance(cell, str) else str(cell).replace("-", "−")


def _number(number: float) -> str:
    """Return a number in three decimals, a true minus before it where something is left to be below 0."""
    text = f"{number:.3f}" if abs(number) < 1000 else f"{number:.0f}"
    return text.replace("-", "−") if text.strip("-0.") else text.lstrip("-")


def figure(chart: Chart) -> "Figure":
    """Return a figure of a chart, its legend above it; the same chart gives the same figure.

    Places with names stand below each other where the names are too long to stand side by side.

    Raises:
        UserError: matplotlib is not installed.
    """
    lying = bool(chart.labels) and not _side_by_side(chart.labels)
    across, upright = (chart.y, chart.x) if lying else (chart.x, chart.y)
    names = [textwrap.fill(drawable(curve.name), 50) for curve in chart.curves]
    columns = _columns(names)
    rows = math.ceil(len(names) / columns) + sum(name.count("\n") for name in names)
    height = _height_lying(chart) if lying else _HEIGHT
    drawn = blank(_WIDTH, height + _LINE * (rows + len(across) // 50), layout="constrained")
    axes = drawn.subplots()
    axes.tick_params(labelsize=_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    draw = _draw_lying if lying else _draw_standing if chart.labels else _draw_lines
    handles = draw(axes, chart)
    low, high = _range(chart)
    if low < 0 <= high:
        (axes.axvline if lying else axes.axhline)(0, color="black", linewidth=0.8, zorder=1)
    axes.set_xlabel(textwrap.fill(drawable(across), 50), fontsize=_SIZE, parse_math=False)
    axes.set_ylabel(textwrap.fill(drawable(upright), 34), fontsize=_SIZE, parse_math=False)
    if handles:
        legend = drawn.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=_SIZE,
            **{"borderpad": 0.1, "handlelength": 1.4, "handletextpad": 0.6, "columnspacing": 1.4},
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return drawn


def _draw_lines(axes: "Axes", chart: Chart) -> list[Any]:
    """Draw each curve as a line over numbers, its intervals as bars or as a band; return what the legend shows."""
    handles: list[Any] = []
    for number, curve in enumerate(chart.curves):
        colour = COLOURS[number % len(COLOURS)]
        style: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 4.5 if len(curve.x) <= _BANDED else 2.5,
        }
        line = ("-", "--", ":")[number // len(COLOURS) % 3]
        handles += axes.plot(list(curve.x), _values(curve), color=colour, linestyle=line, linewidth=1.4, **style)
        x, low, high = _intervals(curve)
        if len(x) > _BANDED:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1.1)
    axes.grid(color="black", alpha=0.13)
    if chart.log_x:
        _number_log_axis(axes, sorted({x for curve in chart.curves for x in curve.x if x > 0}))
    return handles


def _number_log_axis(axes: "Axes", places: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic; few whole places are its numbers, else powers of two."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axes.set_xscale("log", base=2)
    far = [after / before >= 1.2 for before, after in pairwise(places)]
    if len(places) <= 8 and all(far) and all(place == int(place) for place in places):
        axes.set_xticks(list(places))
    elif places and places[-1] < 4 * places[0]:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_standing(axes: "Axes", chart: Chart) -> list[Any]:
    """Draw each curve as points over places with names, with bars; return what the legend shows."""
    handles: list[Any] = []
    for places, values, bars, look in _placed(chart):
        handles += axes.plot(places, values, linestyle="none", **look)
        axes.vlines(*bars, color=look["color"], linewidth=1.6)
    axes.set_xticks(list(range(len(chart.labels))), list(map(drawable, chart.labels)), parse_math=False)
    axes.set_xlim(-0.5, len(chart.labels) - 0.5)
    axes.grid(color="black", alpha=0.13, axis="y")
    axes.tick_params(axis="x", length=0)
    return handles


def _draw_lying(axes: "Axes", chart: Chart) -> list[Any]:
    """Draw each curve as points beside places with names, the first on top; return what the legend shows."""
    handles: list[Any] = []
    for places, values, bars, look in _placed(chart):
        handles += axes.plot(values, places, linestyle="none", **look)
        axes.hlines(*bars, color=look["color"], linewidth=1.6)
    axes.set_yticks(list(range(len(chart.labels))), _stacked(chart.labels), parse_math=False, multialignment="left")
    axes.set_ylim(len(chart.labels) - 0.5, -0.5)
    axes.grid(color="black", alpha=0.13, axis="x")
    axes.tick_params(axis="y", length=0)
    return handles


def _placed(chart: Chart) -> Iterator[tuple[list[float], list[float], tuple[list[float], ...], dict[str, Any]]]:
    """Yield of each curve its places, values, intervals and look; curves stand beside each other at a place."""
    step = min(0.2, 0.7 / max(1, len(chart.curves)))
    for number, curve in enumerate(chart.curves):
        aside = step * (number - (len(chart.curves) - 1) / 2)
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 5.5}
        x, low, high = _intervals(curve)
        yield [x + aside for x in curve.x], _values(curve), ([place + aside for place in x], low, high), look


def _height_lying(chart: Chart) -> float:
    """Return how high a chart is, in inches, whose places stand below each other: all have room for points and name."""
    lines = max(name.count("\n") + 1 for name in _stacked(chart.labels))
    return 0.6 + len(chart.labels) * max(0.5, 0.17 * len(chart.curves) + 0.2, _LINE * lines + 0.15)


def _stacked(labels: Sequence[str]) -> list[str]:
    return [textwrap.fill(drawable(label), 24) for label in labels]


def _side_by_side(labels: Sequence[str]) -> bool:
    """Return whether names stand below an axis without touching each other."""
    return max(text_width(drawable(label), _SIZE) for label in labels) < (_WIDTH - 0.8) / len(labels) - 0.15


def _columns(names: Sequence[str]) -> int:
    """Return how many columns a legend has: as many as the longest name leaves room for."""
    width = max((text_width(name, _SIZE) for name in names), default=0.0) + _BESIDE
    return max(1, min(len(names), int(_WIDTH / width)))


def _range(chart: Chart) -> tuple[float, float]:
    """Return the least and the largest number that a chart draws; NaN twice where there is none."""
    drawn = chain.from_iterable((*_values(curve), *chain(*_intervals(curve)[1:])) for curve in chart.curves)
    numbers = [number for number in drawn if math.isfinite(number)]
    return min(numbers, default=math.nan), max(numbers, default=math.nan)


def _values(curve: Curve) -> list[float]:
    return [y.value if isinstance(y, Estimate) else y for y in curve.y]


def _intervals(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    """Return places, lower and upper ends of the intervals of a curve."""
    rows = [
        (x, y.low, y.high)
        for x, y in zip(curve.x, curve.y, strict=True)
        if isinstance(y, Estimate) and math.isfinite(y.low) and math.isfinite(y.high)
    ]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


@dataclass(frozen=True)
class ShownCell:
    """A cell.

    Attributes:
        text: what it says.
        interval: its interval, empty where it has none.
    """

    text: str
    interval: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table.

    Attributes:
        title: what it shows.
        head: names of its columns.
        numbers: which columns hold numbers alone.
        rows: its rows, each as long as the head.
        note: what a reader must know of it.
    """

    title: str
    head: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[ShownCell, ...], ...]
    note: str


def shown_table(table: Table) -> ShownTable:
    """Return a table as pages show it; columns in which nothing is text are numbers, the first never is."""
    wide = max(map(len, (table.head, *table.rows)))
    rows = [(*row, *[None] * (wide - len(row))) for row in table.rows]
    numbers = [number > 0 and not any(isinstance(row[number], str) for row in rows) for number in range(wide)]
    shown = tuple(tuple(map(shown_cell, row)) for row in rows)
    head = (*table.head, *[""] * (wide - len(table.head)))
    return ShownTable(table.title, head, tuple(numbers), shown, table.note)


def shown_cell(cell: Cell) -> ShownCell:
    """Return a cell with a true minus before negative numbers, its interval apart."""
    text = said(cell)
    if isinstance(cell, str):
        return ShownCell(text)
    number, _, interval = text.partition(" [")
    return ShownCell(number, f"[{interval}" if isinstance(cell, Estimate) and interval else "")
