"""The pictures and trajectories that the cells of a row name: files beside the data, `datasets` images, pictures."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenq.data.files.local import Piece, Row
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.drawings import Trajectory, read_trajectory

if TYPE_CHECKING:
    from PIL.Image import Image

_UNREADABLE = "an image that cannot be read"


@dataclass(frozen=True)
class FolderRow(Row):
    """A row of a file.

    Attributes:
        folder: of the file, which names in the row are relative to.
    """

    folder: Path = Path()


class FolderPiece(Piece):
    """A file, or a table, whose rows know where it lies."""

    def rows(self) -> Iterator[Row]:
        """Yield its rows."""
        folder = self.content.parent if isinstance(self.content, Path) else Path()
        for row in Piece(*self).rows():
            yield FolderRow(row.values, row.where, row.fault, folder)


def picture_of(row: FolderRow, column: str) -> "Image":
    """Return the picture of a cell, in RGB.

    Raises:
        BadRow: there is none, or it cannot be read.
    """
    from PIL import Image

    cell = row.values.get(column)
    content = _content(row, column, cell)
    if isinstance(content, Image.Image):
        return content.convert("RGB")
    try:
        with Image.open(content) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        named = cell if isinstance(cell, str) else "its bytes"
        said = problem.strerror if isinstance(problem, OSError) and problem.strerror else "it is no image that is whole"
        raise BadRow(_UNREADABLE, f"{column}: {named} cannot be read as an image: {said}") from None


def _content(row: FolderRow, column: str, cell: Any) -> Any:
    """Return the path, the bytes or the picture that a cell holds."""
    from PIL import Image

    if cell is None or cell == "":
        raise BadRow("a side without a picture", f"it has no picture in column {column!r}")
    if isinstance(cell, Image.Image):
        return cell
    if isinstance(cell, str):
        return row.folder / os.path.expanduser(cell)
    if isinstance(cell, bytes):
        return io.BytesIO(cell)
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return io.BytesIO(cell["bytes"])
    if isinstance(cell, Mapping) and isinstance(cell.get("path"), str):
        return row.folder / cell["path"]
    said = f"column {column!r} holds a {type(cell).__name__}, and no picture"
    raise BadRow("a cell without a picture", said, "Give the path of an image, or an image of datasets.")


def trajectory_of(row: FolderRow, column: str) -> Trajectory | None:
    """Return the trajectory that a cell names, None where there is none.

    Raises:
        BadRow: it cannot be read, or holds numbers that are not finite.
    """
    cell = row.values.get(column)
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):
        raise BadRow("a trajectory that cannot be read", f"column {column!r} holds a {type(cell).__name__}, no path")
    try:
        return read_trajectory(row.folder / os.path.expanduser(cell))
    except UserError as problem:
        said = f"{problem.message[:1].lower()}{problem.message[1:]}".rstrip(".")
        raise BadRow("a trajectory that cannot be read", said, problem.hint) from None


def at_hand(rows: Any, folder: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield rows that were given in memory as JSON has them: pictures become files, and paths absolute.

    Args:
        rows: dictionaries whose cells may hold pictures, `datasets` images or paths.
        folder: where pictures are written.
        columns: the data set's names for columns of ours.
    """
    from PIL import Image

    named = {columns.get(column, column) for column in FILES}
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        written = dict(row)
        for column, cell in row.items():
            file = folder / f"{number:06d}_{column}.png"
            held = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
            if isinstance(held, Image.Image):
                held.save(file)
                written[column] = str(file)
            elif isinstance(held, bytes):
                file.write_bytes(held)
                written[column] = str(file)
            elif isinstance(held, str) and column in named:
                written[column] = os.path.abspath(os.path.expanduser(held))
        yield written


SIDES = ("chosen", "rejected", "completion")
"""Columns that hold pictures."""

FILES = (*SIDES, *(f"{side}_trajectory" for side in SIDES))
"""Columns that name files."""


def without_fault(row: Row) -> FolderRow:
    """Return a row as one that knows its folder.

    Raises:
        BadRow: it cannot be read.
    """
    if row.fault is not None:
        raise row.fault
    return row if isinstance(row, FolderRow) else FolderRow(row.values, row.where)


def ids_of(row: FolderRow, column: str) -> tuple[int, ...]:
    """Return the token ids of a cell, none where there is no cell.

    Raises:
        BadRow: it holds something else.
    """
    given = row.values.get(column)
    found = () if given is None else tuple(given) if isinstance(given, list | tuple | np.ndarray) else (None,)
    if not all(isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0 for one in found):
        raise BadRow("no token ids", f"its {column} is no list of token ids")
    return tuple(map(int, found))
