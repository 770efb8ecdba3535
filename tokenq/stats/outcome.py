"""The outcome of an evaluation, at rest: numbers for machines, tables and curves for people, examples to look at.

Every task makes one of these, and what shows an evaluation (terminal, JSON, page) reads it and knows no task.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenq.stats.bootstrap import Estimate

Cell = str | int | float | Estimate | None
"""A cell of a table; an estimate is shown with its interval."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        head: names of its columns.
        rows: its rows.
        note: what a reader must know of it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        name: its name in the legend.
        x: where its points stand.
        y: their values, with intervals where they have any.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | Estimate]


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        title: what it shows.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        curves: its lines.
        log_x: whether the horizontal axis is logarithmic.
        labels: names of the places 0, 1, … of the horizontal axis, where these are no numbers; points are then not
            joined.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    log_x: bool = False
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class ListedExample:
    """One example to look at.

    Attributes:
        id: its name; where it was scored, that of its trace.
        title: what to call it in a list.
        numbers: what it contributed.
        wrong: (start, end) stretches of its response that are labelled as wrong, in characters.
    """

    id: str
    title: str
    numbers: Mapping[str, float | str | None]
    wrong: Sequence[tuple[int, int]] = ()


def titled(row: str, prompt: str) -> str:
    """Return the title of an example in a list: its row, and the end of its prompt, where the question stands."""
    said = " ".join(prompt.split())
    return f"{row}: {said if len(said) <= _TITLE else '… ' + said[-_TITLE:]}" if said else row


_TITLE = 80
"""Characters of a prompt in a list of examples."""


def worst_first(examples: Sequence[ListedExample], number: str) -> list[ListedExample]:
    """Return examples by one of their numbers, the least first; those where it is no number come last."""
    return sorted(examples, key=lambda one: numbers_first(one.numbers.get(number)))


@dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation.

    Attributes:
        task: its name.
        numbers: all of it, nested, in plain data and estimates.
        tables: what to show of it.
        charts: what to draw of it.
        examples: what it was made of, worst first.
        cost: what it cost: tokens through each model, seconds, requests.
    """

    task: str
    numbers: Mapping[str, Any]
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    examples: Sequence[ListedExample] = ()
    cost: Mapping[str, float] = field(default_factory=dict)

    def costing(self, cost: Mapping[str, float]) -> "Outcome":
        """Return the outcome with further costs."""
        return replace(self, cost={**self.cost, **cost})


def numbers_first(value: float | str | None) -> tuple[bool, float]:
    """Return the key under which numbers ascend and what is none (NaN, None, a text) comes last.

    NaN is neither below nor above anything: sorted by itself, it leaves everything around it in disorder.
    """
    if value is None or isinstance(value, str) or math.isnan(value):
        return True, 0.0
    return False, float(value)
