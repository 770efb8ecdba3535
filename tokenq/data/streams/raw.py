"""Rows as they stand in their sources, an example each: nothing is joined, chosen, or refused for what it says.

What an audit looks at. Training reads the same rows by the same layouts, and then asks more of them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tokenq.data.bad_rows import UnusableRow
from tokenq.data.examples import format_of, parsed_examples
from tokenq.data.files.local import STANDARD_INPUT, Row
from tokenq.data.files.source_language import parse_source
from tokenq.data.layouts.columns import each_renamed
from tokenq.data.layouts.formats import Format
from tokenq.data.layouts.message_trees import is_flat, question_rows
from tokenq.data.sources import read_rows
from tokenq.data.streams.rows import named_stream
from tokenq.records.examples import Example

_LOOKED_AT = 100
"""Rows by which the layout of a source is told."""


class RawRow(NamedTuple):
    """A row of a source.

    Attributes:
        number: rows before it in its source.
        row: its columns and its place.
        example: what its layout reads there; None for a row that cannot be read or decides nothing.
        bad: why it cannot be read, None where it can.
    """

    number: int
    row: Row
    example: Example | None
    bad: UnusableRow | None = None


class RawSource(NamedTuple):
    """The rows of a source, and their layout.

    Attributes:
        form: the layout; where it is `grouped`, rows that follow each other and share a prompt belong together.
        rows: the rows, read as they are asked for; a row of several questions comes several times.
    """

    form: Format
    rows: Iterator[RawRow]


def raw_source(text: str, columns: Mapping[str, str], style: str) -> RawSource:
    """Return the rows of a source, whose weight counts for nothing.

    Args:
        text: as `--data` has it.
        columns: the data set's names for columns of ours.
        style: "as_given" or "chat".

    Raises:
        UserError: there is no such source, it is empty, or has columns of no known layout.
    """
    source = parse_source(text)
    whole = source.location in STANDARD_INPUT or "[" in (source.split or "")
    rows: Iterable[Row] = read_rows(source) if whole else (row for _, row in named_stream(source).read())
    return raw_rows(rows, columns, style)


def raw_rows(rows: Iterable[Row], columns: Mapping[str, str], style: str) -> RawSource:
    """Return rows with what their layout reads in them; see `raw_source`.

    Raises:
        UserError: there are none, or they have columns of no known layout.
    """
    found = iter(rows)
    first = list(itertools.islice(found, _LOOKED_AT))
    form, _ = format_of(first, "all", columns)
    numbered: Iterable[tuple[int, Row]] = enumerate(itertools.chain(first, found))
    if is_flat(next((row.values for row in first if not row.fault), {})):
        held = [row for _, row in numbered]
        places = {row.where: number for number, row in enumerate(held)}
        numbered = ((places[row.where], row) for row in question_rows(each_renamed(held, columns)))
        columns = {}
    return RawSource(form, _examples(numbered, form, columns, style))


def _examples(
    rows: Iterable[tuple[int, Row]], form: Format, columns: Mapping[str, str], style: str
) -> Iterator[RawRow]:
    """Yield every row with its example; one that holds several questions comes once for each."""
    for number, row in rows:
        for one in question_rows(each_renamed([row], columns)):
            bad: list[UnusableRow] = []
            example = next(parsed_examples((one,), form, style, bad, Counter()), None)
            yield RawRow(number, one, example, bad[0]._replace(place=number) if bad else None)
