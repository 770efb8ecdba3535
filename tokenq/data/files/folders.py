"""The files that a source names: one, those of a folder, all that a pattern matches."""

import glob
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenq.data.files.local import READERS, Piece, readable
from tokenq.data.files.slices import first_line, resolved
from tokenq.data.files.source_language import SourceName, declares_configs, is_pattern, looks_like_path, neighbour
from tokenq.data.files.unpacking import plain_suffix
from tokenq.errors import UserError

MOST_FILES = 10_000
"""Maximum number of files that a pattern may match."""


def local_pieces(source: SourceName) -> dict[str, list[Piece]] | None:
    """Return the files and tables of a source by split, None for a data set on the hub.

    Raises:
        UserError: when the source does not exist, or has no such split.
    """
    path = Path(source.location).expanduser()
    if path.is_dir():
        return folder_pieces(path, source)
    if is_pattern(source.location):
        return {"train": pattern_pieces(source)}
    if path.exists():
        return {"train": [Piece(source.location, path)]}
    if looks_like_path(source.location):
        raise UserError(f"There is no file or folder {source.location!r}.", neighbour(path))
    return None


def folder_pieces(path: Path, source: SourceName) -> dict[str, list[Piece]]:
    """Return what a source names of a folder of data files, or of one that `save_to_disk` wrote, by split.

    Raises:
        UserError: it holds no data, or files of several types of which one would be left out.
    """
    from datasets import Dataset, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        tables = {"train": saved} if isinstance(saved, Dataset) else {str(name): saved[name] for name in saved}
        names = resolved(source, list(tables))
        return {name: [Piece(f"{source.location}, {name}", tables[name])] for name, _ in names}
    files = _files_by_split(path, source)
    return {
        split: [
            Piece(os.path.join(source.location, os.path.relpath(file, path.resolve())), Path(file))
            for file in sorted(files[split])
        ]
        for split, _ in resolved(source, list(files))
    }


def _files_by_split(path: Path, source: SourceName) -> Mapping[str, Sequence[str]]:
    """Return the files of each split, as `datasets` tells them apart; files that it does not know are all "train"."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DataFilesNotFoundError

    there = sorted(str(file) for file in path.resolve().iterdir() if file.is_file() and plain_suffix(file) in READERS)
    try:
        builder = load_dataset_builder(str(path.resolve()), source.config)
    except (OSError, ValueError) as error:
        if isinstance(error, DataFilesNotFoundError) and there:
            return {"train": there}
        raise UserError(
            f"Folder {source.location!r} cannot be read as data: {first_line(error)}",
            f"Give a folder with data files ({readable()}) or one written by save_to_disk.",
        ) from error
    files = {str(split): list(found) for split, found in builder.config.data_files.items()}
    taken = {os.path.realpath(file) for found in files.values() for file in found}
    left = [file for file in there if file not in taken]
    if left and not declares_configs(path):
        name = os.path.join(source.location, os.path.basename(left[0]))
        raise UserError(
            f"Folder {source.location!r} holds files of several types, and {name} would be left out.",
            f"Give the files: --data {os.path.join(source.location, '*' + Path(left[0]).suffix)!r}, one for each type.",
        )
    return files


def pattern_pieces(source: SourceName) -> list[Piece]:
    """Return all files that a pattern matches, in the order of their names.

    Raises:
        UserError: none matches, too many do, or one is no data file.
    """
    pattern = os.path.expanduser(source.location)
    found = list(itertools.islice(glob.iglob(pattern, recursive=True), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise UserError(
            f"{source.location!r} matches more than {MOST_FILES:,} files.", "Narrow the pattern, or join the files."
        )
    files = sorted(file for file in found if not os.path.isdir(file))
    if not files:
        matched = f" ({len(found)} folders do: 'FOLDER/*.jsonl' matches the files of one)" if found else ""
        raise UserError(f"No file matches {source.location!r}{matched}.", "Check the spelling of the pattern.")
    odd = [file for file in files if plain_suffix(Path(file)) not in READERS]
    if odd:
        raise UserError(
            f"{source.location!r} matches {odd[0]}, which is no data file.",
            f"Narrow the pattern, as in 'data/*.jsonl'; what can be read: {readable()}.",
        )
    return [Piece(file, Path(file)) for file in files]
