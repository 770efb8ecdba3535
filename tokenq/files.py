"""How tokenq writes files: aside, flushed to the disk and renamed, so that a kill or a full disk spoils nothing.

Nothing here knows what a file means; names and places of a run stand in `tokenq.rundir`, those of what is half-written
in `tokenq.leftovers`. No pickle, no torch.
"""

import contextlib
import dataclasses
import errno
import hashlib
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
from tokenq.leftovers import clear_halves_of, half_of, old_of, remove, restore

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` aside and rename; an error leaves the old file as it was."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8", errors=_ESCAPED) as file:
        file.write(text)


@contextlib.contextmanager
def written_aside(path: Path, ready: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes `path` when the block ends without an error.

    Args:
        path: the file.
        ready: told the finished file before it takes its place.
    """
    aside = half_of(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_halves_of(path)
            yield aside
            _sync_file(aside)
            ready(aside)
            os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise
    _sync_folder(path.parent)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, aside and renamed; numbers that are not finite become null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any], ready: Callable[[Path], None] = lambda _: None) -> None:
    """Write one line of JSON a value, aside and renamed (see `written_aside`); numbers that are not finite are null."""
    write_lines(path, map(json_line, values), ready)


def write_lines(path: Path, lines: Iterable[bytes], ready: Callable[[Path], None] = lambda _: None) -> None:
    """Write lines, aside and renamed (see `written_aside`)."""
    with written_aside(path, ready) as aside, open(aside, "wb") as file:
        file.writelines(lines)


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as YAML in the order of its keys, aside and renamed."""
    text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def read_json(path: Path, hint: str = "Restore the file, or start a new run.") -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        hint: what to do about a broken one.

    Raises:
        UserError: there is no such file, or it is broken.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.", hint) from error


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UserError: there is no such file, it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.", "Is this the output folder of a tokenq run?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: {error}.", "Restore the file, or start a new run.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check what lies there.") from error


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `path` when the block ends without an error.

    An older folder at `path` is there until the new one is complete. An error leaves it untouched; after a kill between
    the two renames it lies beside, from where `restore` (and so the next start) puts it back.
    """
    aside = half_of(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            restore(path)
            clear_halves_of(path)
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            _swap(aside, path)
    except BaseException:
        remove(aside)
        raise
    _sync_folder(path.parent)


def _swap(aside: Path, path: Path) -> None:
    """Put a complete folder in the place of an older one."""
    try:
        if path.exists():
            os.replace(path, old_of(path))
        os.replace(aside, path)
    finally:
        restore(path)


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
                "Free some space and start again (a training with --resume); what was complete before is intact.",
            ) from error
        if number in _DENIED:
            raise UserError(
                f"{path} could not be written: {error}.", "Choose an --output that you may write."
            ) from error
        raise


def json_line(value: Any) -> bytes:
    """Return a value as a line of JSON; numbers that are not finite become null."""
    return (json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", _ESCAPED)


def append_bytes(path: Path, data: bytes) -> None:
    """Add bytes to a file; what the disk refuses in part is taken back, so that the file stays whole."""
    with disk_errors(path), open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            os.truncate(path, size)
            raise


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object per line that only grows, and survives a kill.

    Attributes:
        path: the file; made by the first `append`.
    """

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; a line that the disk refuses is taken back, so that the file stays whole."""
        append_bytes(self.path, json_line(record))

    def read(self) -> list[dict[str, Any]]:
        """Return the complete lines; a torn last line (the writer was killed) is left out.

        Raises:
            UserError: a line before the last is no JSON object, or the file cannot be read.
        """
        return [record for _, record in self._complete()]

    def sync(self) -> None:
        """Flush the lines to the disk: what is written next may count on them."""
        if self.path.exists():
            with disk_errors(self.path):
                _sync_file(self.path)

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
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.", "Check what lies there.") from error
        lines, end = [], 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            end += len(line)
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self.path}, line {number}: not valid JSON.", "Delete this line.") from error
            if not isinstance(record, dict):
                raise UserError(f"{self.path}, line {number}: no JSON object.", "Delete this line.")
            lines.append((end, record))
        return lines


def plain(value: Any) -> Any:
    """Return `value` as what JSON and YAML know: dict, list, str, bool, int, finite float, None."""
    kind = type(value)  # the commonest kinds first: traces have thousands of numbers per line
    if kind is float:
        return value if math.isfinite(value) else None
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        kinds = set(map(type, value))
        as_it_is = kinds <= _PLAIN or (kinds <= _NUMBERS and all(map(math.isfinite, value)))
        return list(value) if as_it_is else [plain(item) for item in value]
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
_NUMBERS = frozenset({int, float})

_ESCAPED = "backslashreplace"
"""Half a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON escapes it."""


def _reports_full(error: Exception, path: Path) -> bool:
    """Return whether a writer outside Python reports a full disk: safetensors in words, torch by a wrong position."""
    if any(words in str(error) for words in ("No space left on device", "File too large", "Disk quota exceeded")):
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
