"""The outputs of a job: nothing on disk is replaced unless the same command wrote it, and nobody else writes it now.

Every output says who made it: JSON in its field `made_by`, a page and a figure inside, lines and tables in the
provenance beside them. What a job has done is kept as it comes, so that a kill loses nothing: one file per process, put
together in the end. Under `accelerate launch` every process works on its share of the items (item i belongs to process
i mod n), and the first process puts them together in the order of the items.
"""

import contextlib
import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.files import digest_of, disk_errors, read_json, write_json
from tokenq.frames import Frames
from tokenq.leftovers import remove
from tokenq.locks import hold_file, hold_folder

_LOOKED_AT = 1 << 16
"""Bytes at the beginning and at the end of a page or a figure in which its maker is looked for."""


@contextlib.contextmanager
def claimed(made_by: str, files: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """Hold files inside the block; under `accelerate launch` the first process does so for all.

    Args:
        made_by: the command, as its outputs name it.
        files: what it will write.
        overwrite: whether what others made may be replaced.

    Raises:
        UserError: another process writes one of them, or one was there before and is of other making.
    """
    with contextlib.ExitStack() as held:
        if files and is_first():
            for path in files:
                refuse_foreign(path, made_by, overwrite=overwrite)
            for path in dict.fromkeys(files):
                held.enter_context(hold_file(path))
        yield


@contextlib.contextmanager
def claimed_folder(made_by: str, record: Path, beside: Sequence[str], *, overwrite: bool) -> Iterator[None]:
    """Hold the folder of a record inside the block.

    Args:
        made_by: the command, as the record names it.
        record: the file by which the command knows its own folder.
        beside: other files that it writes there, which are its own where the record is.
        overwrite: whether what others made may be replaced.

    Raises:
        UserError: another process writes the folder, or one of the files is of other making.
    """
    if not is_first():
        yield
        return
    with hold_folder(record.parent):
        refuse_foreign(record, made_by, overwrite=overwrite)
        for name in () if overwrite or record.exists() else beside:
            if (record.parent / name).exists():
                raise _foreign(record.parent / name, made_by)
        yield


def is_first() -> bool:
    """Return whether this is the first of the processes that `accelerate launch` starts, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def refuse_foreign(path: Path, made_by: str, *, overwrite: bool) -> None:
    """Refuse to replace a file that this command did not write.

    Raises:
        UserError: a folder is there, or a file of other making and nobody asked to overwrite it.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder.", "Name a file.")
    if overwrite or not path.exists() or path.stat().st_size == 0 or _wrote(made_by, path):
        return
    raise _foreign(path, made_by)


def _foreign(path: Path, made_by: str) -> UserError:
    return UserError(
        f"{path} is there already, and {made_by} did not write it.", "Name another file, or add --overwrite."
    )


def beside(path: Path) -> Path:
    """Return the path of the provenance of a file of lines."""
    return path.with_name(f"{path.name}.provenance.json")


def recorder(path: Path, record: Callable[[], Mapping[str, Any]]) -> Callable[[Path], None]:
    """Return the function that writes the provenance of a file of records before the file takes its place.

    So the provenance is never older than the file, and says what the file's bytes are: one that was cut, or has not
    come to its place, does not count as made.

    Args:
        path: where the file will be.
        record: gives its provenance, when all records are written.
    """
    return lambda aside: write_json(beside(path), {**record(), "sha256": digest_of(aside)})


def is_made(path: Path, key: str) -> bool:
    """Return whether a file of records is there whole, as the same job wrote it."""
    if not path.is_file():
        return False
    record = _record(beside(path))
    return record.get("key") == key and record.get("sha256") == digest_of(path)


def _wrote(made_by: str, path: Path) -> bool:
    """Return whether a file says that this command made it."""
    from tokenq.report.offline import GENERATOR

    if path.suffix in (".jsonl", ".parquet"):
        return _record(beside(path)).get("made_by") == made_by
    if path.suffix == ".json":
        return _record(path).get("made_by") == made_by
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT)
        file.seek(max(0, path.stat().st_size - _LOOKED_AT))
        said = head + file.read()
    return (GENERATOR.format(made_by) if b"<html" in head else made_by).encode() in said


def _record(path: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one where there is none."""
    with contextlib.suppress(UserError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


class Parts:
    """The files of a job that is under way.

    Args:
        path: the output that will be made of them.
        key: of all that the items depend on; those of another job are not taken over.
    """

    def __init__(self, path: Path, key: str) -> None:
        from accelerate import PartialState

        self._state = PartialState()
        self._key, self._path = key.encode(), path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        count = self._state.num_processes
        self._parts = [Frames(path.with_name(f".{path.name}.partial-{rank}-of-{count}")) for rank in range(count)]

    @property
    def mine(self) -> slice:
        """The items of this process."""
        return slice(self._state.process_index, None, self._state.num_processes)

    def begin(self, wanted: Callable[[bytes], bool] = lambda _: True) -> int:
        """Return the number of items that this process wrote before, in a killed run of the same job.

        Args:
            wanted: False for an item from which on the job is done again.
        """
        part = self._parts[self._state.process_index]
        if next(iter(part), None) == self._key:
            kept: int = part.keep(lambda item: item == self._key or wanted(item))
            return kept - 1
        remove(part.path)
        part.append(self._key)
        return 0

    def append(self, item: bytes) -> None:
        """Add an item of this process."""
        self._parts[self._state.process_index].append(item)

    def own(self) -> list[bytes]:
        """Return what this process has written so far."""
        return list(self._parts[self._state.process_index])[1:]

    def in_order(self) -> Iterator[bytes]:
        """Yield what all processes wrote in the order of the items, up to the first that is missing."""
        files = [iter(part) for part in self._parts]
        for file in files:
            next(file)  # the key
        for file in cycle(files):
            item = next(file, None)
            if item is None:
                return
            yield item

    def remove(self) -> None:
        """Delete the files, those of an earlier run in other numbers too."""
        for part in self._path.parent.glob(f".{glob.escape(self._path.name)}.partial-*-of-*"):
            remove(part)
