"""Pictures of data as they are read: drawings, pairs and single pictures, with trajectories where these are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenq.data.bad_rows import BadRowsError, UnusableRow
from tokenq.data.files.local import Row
from tokenq.data.files.source_language import parse_source
from tokenq.data.layouts.columns import each_renamed
from tokenq.data.sources import Data, pieces_of, read_rows, tables_of
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.jobs.training.images.cells import FolderPiece, FolderRow, picture_of, trajectory_of
from tokenq.records.drawings import Drawing, Refinement, Trajectory

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SeenPicture:
    """A picture that is to be read.

    Attributes:
        id: of its row; with "/chosen" or "/rejected" where the row has both.
        prompt: what was asked.
        drawn_prompt: what the image model was given.
        picture: the picture.
        trajectory: its way from the noise; None where nobody kept it.
        refinement: the refiner's words as they were sampled; None where they are not known.
        where: origin for messages.
    """

    id: str
    prompt: str
    drawn_prompt: str
    picture: "Image"
    trajectory: Trajectory | None
    refinement: Refinement | None
    where: str


_COLUMNS = ("picture", "chosen", "rejected", "completion")
"""Columns that hold pictures: a drawing's, a pair's, a single one."""


def seen_pictures(data: Data, columns: Mapping[str, str], bad_rows: str) -> tuple[list[SeenPicture], int]:
    """Return the pictures of data, in order, and how many rows cannot be used.

    Args:
        data: names of files, which may weigh nothing here, or rows.
        columns: the data set's names for columns of ours.
        bad_rows: "error" or "drop".

    Raises:
        BadRowsError: a row cannot be used, and is not to be left out.
        UserError: nothing is left.
    """
    found: list[SeenPicture] = []
    bad: list[UnusableRow] = []
    rows = _rows(data, columns)
    for place, row in enumerate(rows):
        try:
            found += _seen(row, str(row.values.get("id") or place + 1))
        except BadRow as problem:
            bad.append(UnusableRow(place, row.where, problem))
    if bad and bad_rows == "error":
        raise BadRowsError(bad, len(rows))
    if not found:
        raise UserError(f"None of the {len(rows)} rows has a picture.", "Give drawings, or pairs of pictures.")
    return found, len(bad)


def _rows(data: Data, columns: Mapping[str, str]) -> list[FolderRow]:
    """Return the rows of all sources; those of files know the folder that names in them are relative to."""
    rows: list[Row] = []
    for text in (one for one in data if isinstance(one, str)):
        source = parse_source(text)
        pieces = {split: [FolderPiece(*one) for one in some] for split, some in pieces_of(source).items()}
        rows += each_renamed(read_rows(source, pieces), columns)
    if not any(isinstance(one, str) for one in data):
        rows += [row for table in tables_of(data) for row in each_renamed(table, columns)]
    return [row if isinstance(row, FolderRow) else FolderRow(row.values, row.where, row.fault) for row in rows]


def _seen(row: FolderRow, name: str) -> list[SeenPicture]:
    if row.fault is not None:
        raise row.fault
    prompt = row.values.get("prompt")
    if not isinstance(prompt, str):
        raise BadRow("no prompt", f"its prompt is {'missing' if prompt is None else f'a {type(prompt).__name__}'}")
    held = [column for column in _COLUMNS if row.values.get(column) is not None]
    if not held:
        raise BadRow("no picture", f"it has none of the columns {', '.join(map(repr, _COLUMNS))}")
    if held[0] == "picture":
        return [_drawing(row, name, prompt)]
    return [_side(row, column, f"{name}/{column}" if len(held) > 1 else name, prompt) for column in held]


def _side(row: FolderRow, column: str, name: str, prompt: str) -> SeenPicture:
    drawn = row.values.get(f"{column}_prompt")
    text = drawn if isinstance(drawn, str) else prompt
    way = trajectory_of(row, f"{column}_trajectory")
    return SeenPicture(name, prompt, text, picture_of(row, column), way, None, row.where)


def _drawing(row: FolderRow, name: str, prompt: str) -> SeenPicture:
    values: Mapping[str, Any] = row.values
    how = Drawing.from_dict(dict(values), row.where).refinement if values.get("refinement") else None
    text = values.get("drawn_prompt")
    number = values.get("number")
    return SeenPicture(
        name if number is None else f"{name}, picture {number}",
        prompt,
        text if isinstance(text, str) else prompt,
        picture_of(row, "picture"),
        trajectory_of(row, "trajectory"),
        how,
        row.where,
    )
