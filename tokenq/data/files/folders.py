"""The rows of a folder, and of all files that a pattern matches."""

import glob
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenq.data.files.local import READERS, Row, read_file, readable, table_rows
from tokenq.data.files.slices import first_line, resolved, sliced
from tokenq.data.files.source_language import SourceName, declares_configs
from tokenq.data.files.unpacking import plain_suffix
from tokenq.errors import UserError

MOST_FILES = 10_000
"""Maximum number of files that a pattern may match."""


def folder_rows(path: Path, source: SourceName) -> list[Row]:
    """Return the rows of a folder of data files, or of one that `save_to_disk` wrote.

    Raises:
        UserError: it holds no data, or files of several types of which one would be left out.
    """
    from datasets import Dataset, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        tables = {"train": saved} if isinstance(saved, Dataset) else {str(name): saved[name] for name in saved}
        names = resolved(source, list(tables))
        return sliced({name: table_rows(tables[name], f"{source.location}, {name}") for name, _ in names}, source)
    files = _files_by_split(path, source)
    rows: dict[str, list[Row]] = {}
    for split, _ in resolved(source, list(files)):
        rows[split] = []
        for file in sorted(files[split]):
            shown = os.path.join(source.location, os.path.relpath(file, path.resolve()))
            rows[split] += read_file(Path(file), shown)
    return sliced(rows, source)


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


def pattern_rows(source: SourceName) -> list[Row]:
    """Return the rows of all files that a pattern matches, in the order of their names.

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
    return sliced({"train": [row for file in files for row in read_file(Path(file), file)]}, source)
