"""Splits and slices of a source, in the language of `datasets`: `train[:10%]+test`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenq.data.files.local import Row
from tokenq.data.files.source_language import SourceName
from tokenq.errors import UserError, unknown_name


def resolved(source: SourceName, available: Sequence[str]) -> list[tuple[str, str]]:
    """Return the (split, slice) parts of a source; the default is "train", or the only split."""
    parts = []
    for part in re.split(r"\+(?![^\[]*\])", source.split or ""):
        match = re.match(r"[\w.]*", part)
        name = match[0] if match else ""
        if not name and "train" not in available and len(available) > 1:
            raise UserError(
                f"{source.location!r} has no split 'train'.",
                f"Name one of {', '.join(available)}, as in {source.location}:{available[0]}.",
            )
        chosen = name or ("train" if "train" in available else available[0])
        if chosen not in available:
            raise unknown_name(f"split of {source.location!r}", chosen, available)
        parts.append((chosen, part[len(name) :]))
    return parts


def sliced(rows: Mapping[str, list[Row]], source: SourceName) -> list[Row]:
    """Return the rows of a source's split, with slices as `datasets` has them."""
    parts = resolved(source, list(rows))
    if len(parts) == 1 and not parts[0][1] and rows[parts[0][0]]:
        return rows[parts[0][0]]  # a whole split takes no library
    from datasets import ReadInstruction

    spec = "+".join(name + piece for name, piece in parts)
    try:
        pieces: Any = ReadInstruction.from_spec(spec).to_absolute({name: len(found) for name, found in rows.items()})
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"The slice of data source {source.text!r} cannot be taken: {first_line(error)}",
            "Write a slice as [100:200], [:10%] or train[:1000].",
        ) from error
    taken = [row for piece in pieces for row in rows[piece.splitname][piece.from_ : piece.to]]
    if not taken:
        raise UserError(f"The slice of data source {source.text!r} holds no rows.", "Widen the slice.")
    return taken


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
