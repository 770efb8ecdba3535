"""Find the format of a row by its columns, misspelt columns, and rename columns of the user's own."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenq.data.files.local import Row
from tokenq.data.layouts.comparisons import sides
from tokenq.data.layouts.formats import FORMATS, Format
from tokenq.data.turns import BadRow
from tokenq.errors import UserError, unknown_name


def find_format(row: Row) -> str:
    """Return the name of a row's format.

    Raises:
        UserError: when no format fits, or when a column looks like a misspelt column of a richer format, naming the
            nearest column and the sets of columns that are known.
    """
    columns = list(row.values)
    name = next((name for name, form in FORMATS.items() if not form.missing(columns) and form.fits(row.values)), None)
    used = FORMATS[name].used(columns) if name else set()
    two = sides(row.values)
    guesses = [
        (len(form.columns), guess)
        for form in FORMATS.values()
        if name is None or (used <= form.used(columns) and len(form.columns) > len(FORMATS[name].columns))
        if not (two and name is None)
        if (guess := _respelt(form, columns))
    ]
    if name and not guesses:
        return name
    shown = ", ".join(repr(column) for column in columns)
    if guesses:
        guess = max(guesses, key=lambda item: item[0])[1]  # the format that explains most columns
        told = " and ".join(f"{theirs!r} looks like {ours!r}" for ours, theirs in guess.items())
        option = " ".join(f"{ours}={theirs}" for ours, theirs in guess.items())
        leave = f", or leave it out with --columns unused={next(iter(guess.values()))}" if name else ""
        raise UserError(
            f"{row.where}: unknown columns: {told} (columns: {shown}).", f"Rename with --columns {option}{leave}."
        )
    if two:
        raise UserError(
            f"{row.where}: {two[0]!r} and {two[1]!r} are two responses, and no column says which is the better one.",
            "Name it: --columns winner=THEIRS; or, if it is always the first, "
            f"--columns chosen={two[0]} rejected={two[1]}.",
        )
    near = max(FORMATS.values(), key=lambda form: len(form.used(columns)) / len(form.columns))
    lacks = (
        f" The nearest format lacks {', '.join(name.split('|')[0] for name in near.missing(columns))}."
        if near.used(columns) and near.missing(columns)
        else ""
    )
    known = "; ".join(FORMATS[name].shown() for name in _MAIN)
    raise UserError(
        f"{row.where}: the columns {shown} fit no known format.{lacks}",
        "Rename them with --columns prompt=THEIRS chosen=THEIRS rejected=THEIRS. Known sets of columns, among others: "
        f"{known}.",
    )


_MAIN = ("preference", "implicit preference", "labelled", "completion", "messages", "instruction", "question", "text")


def _respelt(form: Format, columns: Sequence[str]) -> dict[str, str]:
    """Return {our column: theirs} if every missing column of a format has a similar one, else nothing."""
    others = [column for column in columns if column not in form.used(columns)]
    guess = {}
    for name in form.missing(columns):
        pairs = [(ours, theirs) for ours in name.split("|") for theirs in others if _alike(ours, theirs)]
        if not pairs:
            return {}
        guess[pairs[0][0]] = pairs[0][1]
    return guess


def _alike(ours: str, theirs: str) -> bool:
    """Return whether a column may be a misspelling of ours; "prompt_id" is not one of "prompt"."""
    spelt = theirs.strip().lower()
    return abs(len(spelt) - len(ours)) <= 2 and difflib.SequenceMatcher(None, ours, spelt).ratio() >= 0.8


def renamed_columns(rows: Sequence[Row], columns: Mapping[str, str]) -> list[Row]:
    """Return rows with their columns renamed to ours; a row that lacks a named column is a bad row.

    Raises:
        UserError: the first row lacks it, so that the name is wrong.
    """
    first = next((row for row in rows if not row.fault), None)
    if first is not None:
        renamed(first.values, columns, first.where)
    return each_renamed(rows, columns)


def each_renamed(rows: Iterable[Row], columns: Mapping[str, str]) -> list[Row]:
    """Return rows with their columns renamed to ours; any row that lacks a named column is a bad row."""
    found = []
    for row in rows:
        try:
            found.append(row if row.fault else replace(row, values=renamed(row.values, columns, row.where)))
        except UserError as problem:
            said = problem.message.removeprefix(f"{row.where}: ").rstrip(".")
            found.append(replace(row, fault=BadRow("a missing column", said)))
    return found


def renamed(values: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return a row with its columns renamed to ours.

    Raises:
        UserError: when the row has no such column, naming the nearest.
    """
    for theirs in columns.values():
        if theirs not in values:
            error = unknown_name("column", theirs, values)
            raise UserError(f"{where}: {error.message}", error.hint)
    kept = {name: value for name, value in values.items() if name not in {*columns, *columns.values()}}
    return {ours: values[theirs] for ours, theirs in columns.items()} | kept
