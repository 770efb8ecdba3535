"""What a command writes: nothing on disk is replaced unless the same command wrote it, and nobody else writes it now.

Every output says who made it: JSON in its field `made_by`, a page and a figure inside, lines and tables in the
provenance beside them.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenq.errors import UserError

Config = TypeVar("Config")

_FILES = ("output", "html", "figure")
"""Fields of a configuration that name a file to write."""

_LOOKED_AT = 1 << 16
"""Bytes at the beginning and at the end of a page or a figure in which its maker is looked for."""


def claims(made_by: str) -> Callable[[Callable[[Config], int]], Callable[[Config], int]]:
    """Let a command hold its outputs from its beginning to its end; what is not its own is refused before it begins.

    Args:
        made_by: the command, as its outputs name it.
    """

    def claiming(run: Callable[[Config], int]) -> Callable[[Config], int]:
        @functools.wraps(run)
        def running(config: Config) -> int:
            named = vars(config)
            files = [Path(named[name]) for name in _FILES if named.get(name)]
            with claimed(made_by, files, overwrite=bool(named.get("overwrite"))):
                return run(config)

        return running

    return claiming


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
        if files and _is_first():
            from tokenq.locks import hold_file

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
    if not _is_first():
        yield
        return
    from tokenq.locks import hold_folder

    with hold_folder(record.parent):
        refuse_foreign(record, made_by, overwrite=overwrite)
        for name in () if overwrite or record.exists() else beside:
            if (record.parent / name).exists():
                raise _foreign(record.parent / name, made_by)
        yield


def _is_first() -> bool:
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
    """Return where the provenance of a file of lines stands."""
    return path.with_name(f"{path.name}.provenance.json")


def recorder(path: Path, record: Callable[[], Mapping[str, Any]]) -> Callable[[Path], None]:
    """Return what writes the provenance of a file of records, told the finished file before it takes its place.

    So the provenance is never older than the file, and says what the file's bytes are: one that was cut, or has not
    come to its place, does not count as made.

    Args:
        path: where the file will be.
        record: gives its provenance, when all records are written.
    """
    from tokenq.files import digest_of, write_json

    return lambda aside: write_json(beside(path), {**record(), "sha256": digest_of(aside)})


def is_made(path: Path, key: str) -> bool:
    """Return whether a file of records is there whole, as the same job wrote it."""
    from tokenq.files import digest_of

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
    from tokenq.files import read_json

    with contextlib.suppress(UserError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}
