"""A data set on the hub, as its own library loads it."""

from collections.abc import Mapping
from pathlib import Path

from tokenq.data.files.local import Piece
from tokenq.data.files.slices import first_line, resolved
from tokenq.data.files.source_language import SourceName, neighbour
from tokenq.errors import UserError


def hub_piece(source: SourceName, *, streaming: bool = False) -> Piece:
    """Return a data set on the hub.

    Args:
        source: names it.
        streaming: whether its rows are read as they come, and not downloaded whole.

    Raises:
        UserError: there is none of that name, it has no such split, or the hub cannot be reached.
    """
    from datasets import get_dataset_split_names, load_dataset
    from datasets.exceptions import DatasetsError

    how = {"streaming": True} if streaming else {}

    def load(**which: str) -> Piece:
        try:
            spec = source.split if source.split and source.split[0] != "[" else f"train{source.split or ''}"
            table = load_dataset(source.location, split=spec, **which, **how)
        except ValueError:
            # No split "train", or one that does not exist: ask for the names, take the only one or name them all.
            splits = [str(name) for name in get_dataset_split_names(source.location, **_renamed(which))]
            spec = "+".join(name + piece for name, piece in resolved(source, splits))
            table = load_dataset(source.location, split=spec, **which, **how)
        return Piece(":".join(("/".join((source.location, *which.values())), spec)), table)

    try:
        if source.config is None:
            return load()
        try:
            return load(name=source.config)
        except ValueError as error:
            # Some data sets keep their parts in folders and declare no configurations: take the name as a folder.
            try:
                return load(data_dir=source.config)
            except (OSError, ValueError, DatasetsError):
                raise error from None
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"{source.text!r} is no local file or folder, and reading it from the hub failed: {first_line(error)}",
            neighbour(Path(source.location)),
        ) from error


def _renamed(which: Mapping[str, str]) -> dict[str, str]:
    return {"config_name" if key == "name" else key: value for key, value in which.items()}
