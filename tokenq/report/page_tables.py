"""Tables as pages show them: which columns are numbers, and intervals apart from what they belong to."""

from dataclasses import dataclass

from tokenq.report.outcome import said
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Table


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
