"""How tokenq writes files: aside, flushed to the disk and renamed, so that a kill or a full disk spoils nothing.

Nothing here knows what a file means; names and places of a run stand in `tokenq.rundir`. No pickle, no torch.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tokenq.errors import UserError

PARTIAL = ".partial"
"""Ending of what is being written; a file that a kill left with this ending is worthless."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` aside and rename; an error leaves the old file as it was."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes `path` when the block ends without an error."""
    aside = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            _sync_file(aside)
            os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, aside and renamed; numbers that are not finite become null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one line of JSON a value, aside and renamed; numbers that are not finite become null."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as YAML in the order of its keys, aside and renamed."""
    text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: there is no such file, or it is broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.", "Is this the output folder of a tokenq run?") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.", "Restore the file, or start a new run.") from error


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `path` when the block ends without an error.

    An older folder at `path` is there until the new one is complete. An error or a kill leaves it untouched.
    """
    aside = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with disk_errors(path):
            remove(aside)
            aside.mkdir(parents=True)
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            if path.exists():
                old = path.with_name(f".{path.name}.old{PARTIAL}")
                remove(old)
                os.replace(path, old)
                os.replace(aside, path)
                remove(old)
            else:
                os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or forbidden disk inside the block into a `UserError` that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or _reports_full(error, path):
            raise UserError(
                f"The disk is full: {path} could not be written.",
                "Free some space and start again with --resume; what was complete before is intact.",
            ) from error
        if number in _DENIED:
            raise UserError(
                f"{path} could not be written: {error}.", "Choose an --output that you may write."
            ) from error
        raise


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object a line that only grows, and survives a kill.

    Attributes:
        path: the file; made by the first `append`.
    """

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; a line that the disk refuses is taken back, so that the file stays whole."""
        line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"
        with disk_errors(self.path), open(self.path, "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            data = line.encode()
            try:
                written = file.write(data)
                if written != len(data):
                    raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                os.truncate(self.path, size)
                raise

    def read(self) -> list[dict[str, Any]]:
        """Return the complete lines; a torn last line (the writer was killed) is left out.

        Raises:
            UserError: a line before the last is not JSON.
        """
        return [record for _, record in self._complete()]

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Cut the file at the first line that is torn or that `wanted` refuses.

        On resume, `wanted` is "up to the step of the checkpoint": what the killed run did after it is done again.
        """
        end = 0
        for stop, record in self._complete():
            if not wanted(record):
                break
            end = stop
        if self.path.exists():
            os.truncate(self.path, end)

    def _complete(self) -> list[tuple[int, dict[str, Any]]]:
        if not self.path.exists():
            return []
        lines, end = [], 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            end += len(line)
            if not line.endswith(b"\n"):
                break
            try:
                lines.append((end, json.loads(line)))
            except ValueError as error:
                raise UserError(f"{self.path}, line {number}: not valid JSON.", "Delete this line.") from error
        return lines


def plain(value: Any) -> Any:
    """Return `value` as what JSON and YAML know: dict, list, str, bool, int, finite float, None."""
    kind = type(value)  # the commonest kinds first: traces have thousands of numbers a line
    if kind is float:
        return value if math.isfinite(value) else None
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    if kind is dict:
        return {name if type(name) is str else str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return plain(dict(value))
    if isinstance(value, float | list | tuple):
        return plain(float(value) if isinstance(value, float) else list(value))
    return str(value) if isinstance(value, os.PathLike) else value


_PLAIN = frozenset({str, int, bool, type(None)})


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _reports_full(error: Exception, path: Path) -> bool:
    """Return whether a writer outside Python reports a full disk: safetensors in words, torch by a wrong position."""
    if "No space left on device" in str(error):
        return True
    place = next((parent for parent in path.parents if parent.exists()), Path())
    return isinstance(error, RuntimeError) and shutil.disk_usage(place).free < 2**20


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flush a rename; where folders cannot be opened (Windows) the rename itself is all there is."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
