"""An evaluation in the terminal, and its figures: what every task's outcome looks like, whichever task it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as Drawn

from tokenq.evaluate.bootstrap import Estimate
from tokenq.evaluate.outcome import Cell, Chart, Curve, Outcome
from tokenq.report.sweep import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tables(outcome: Outcome) -> list[Drawn]:
    """Return the tables of an outcome as the terminal shows them."""
    drawn = []
    for table in outcome.tables:
        one = Drawn(*map(escape, table.head), title=escape(table.title), caption=escape(table.note) or None)
        for number, column in enumerate(one.columns):
            if number and not any(isinstance(row[number], str) for row in table.rows if len(row) > number):
                column.justify = "right"
        for row in table.rows:
            cells = [escape(said(cell)) for cell in row]
            one.add_row(*cells, *[""] * (len(table.head) - len(cells)))
        drawn.append(one)
    return drawn


def said(cell: Cell) -> str:
    """Return a cell as text: an estimate with its interval, numbers in three decimals, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, Estimate):
        return f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]" if cell.value == cell.value else "–"
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell)


def figure(chart: Chart) -> "Figure":
    """Return a figure of a chart; matplotlib is imported now.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = drawn.subplots()
    for number, curve in enumerate(chart.curves):
        low, middle, high = _points(curve)
        errors = [[m - a for a, m in zip(low, middle, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        axes.errorbar(
            list(curve.x),
            middle,
            yerr=errors,
            label=curve.name,
            color=COLOURS[number % len(COLOURS)],
            marker="osD^v<>Px*"[number % 10],
            capsize=2,
            linewidth=1.2,
            markersize=4,
        )
    if chart.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return drawn


def _points(curve: Curve) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    rows = [(y.low, y.value, y.high) if isinstance(y, Estimate) else (y, y, y) for y in curve.y]
    low, middle, high = zip(*rows, strict=True) if rows else ((), (), ())
    return low, middle, high
