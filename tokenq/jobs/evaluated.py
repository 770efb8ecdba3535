"""What an evaluation or a comparison came to, as Python sees it: numbers, tables, a page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError, unknown_name
from tokenq.files import write_json
from tokenq.jobs.run import Rows
from tokenq.listener import Listener
from tokenq.records.traces import TokenTrace
from tokenq.report.offline import origin
from tokenq.rundir import provenance
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Outcome, Table

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to.

    Attributes:
        outcome: numbers, tables, charts and examples.
        made_by: the command that gives the same.
        settings: what was asked for.
        identities: what identifies models and data.
        traces: what was read.
        title: of the page; the command when empty.
    """

    outcome: Outcome = field(repr=False)
    made_by: str
    settings: Mapping[str, Any] = field(repr=False)
    identities: Mapping[str, Any] = field(repr=False)
    traces: Iterable[TokenTrace] = field(default=(), repr=False)
    title: str = ""

    @property
    def numbers(self) -> Mapping[str, Any]:
        """All numbers, nested, in plain data and estimates."""
        return self.outcome.numbers

    @property
    def tables(self) -> Mapping[str, Rows]:
        """The rows of every table by its title; an estimate has its interval in two columns beside it."""
        return {table.title: Rows(map(dict, _rows(table))) for table in self.outcome.tables}

    @cached_property
    def record(self) -> dict[str, Any]:
        """Versions, seed, settings, and the identities of models and data."""
        return provenance(dict(self.settings), self.settings["seed"], self.identities)

    def to_frame(self, table: str | None = None) -> "DataFrame":
        """Return a table as a pandas frame.

        Args:
            table: its title. Default: the first.

        Raises:
            UserError: there is no such table, or pandas is not installed.
        """
        if not self.outcome.tables:
            raise UserError("There is no table to show.", "The numbers are in `numbers`.")
        title = self.outcome.tables[0].title if table is None else table
        if title not in self.tables:
            raise unknown_name("table", title, self.tables)
        return self.tables[title].to_frame()

    def html(self, path: str | Path) -> Path:
        """Write the page, which opens from disk, and return its file."""
        from tokenq.report.outcome_page import write_outcome_page  # traces need torch

        record = {**self.record, "made_by": self.made_by}
        write_outcome_page(Path(path), self.outcome, self.traces, self.title or self.made_by, record)
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write all numbers as JSON, with where they come from, and return the file."""
        numbers: dict[str, Any] = {"made_by": self.made_by, "task": self.outcome.task}
        numbers |= {"numbers": self.outcome.numbers, "cost": self.outcome.cost}
        write_json(Path(path), {**self.record, **numbers, "about": dict(origin(self.record))})
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the tables; notebooks ask for this by this name."""
        from html import escape

        parts = [
            f"<h4>{escape(title)}</h4>{rows.to_frame().to_html(index=False)}" for title, rows in self.tables.items()
        ]
        return "".join(parts)


def write_evaluated(found: Evaluated, listener: Listener) -> None:
    """Write numbers and page wherever the settings ask for them."""
    if found.settings["output"] is not None:
        listener.say(f"done: the numbers are in {found.save(found.settings['output'])}")
    if found.settings["html"] is not None:
        listener.say(f"page: {found.html(found.settings['html'])}")


def _rows(table: Table) -> Iterable[Iterable[tuple[str, Any]]]:
    return (
        [pair for name, cell in zip(table.head, row, strict=True) for pair in _cells(name, cell)] for row in table.rows
    )


def _cells(name: str, cell: Cell) -> list[tuple[str, Any]]:
    if not isinstance(cell, Estimate):
        return [(name, cell)]
    return [(name, cell.value), (f"{name} low", cell.low), (f"{name} high", cell.high)]
