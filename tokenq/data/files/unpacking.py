"""Open files as bounded streams, unpacked and converted to UTF-8 as they are read.

What is read is held in memory row by row, so that two bounds hold for every stream: a packed file that grows to
hundreds of times its size is refused, and so is one that would take the last memory of the machine.
"""

import bz2
import codecs
import gzip
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from tokenq.errors import UserError

MOST_GROWTH = 200
"""How many times its size a packed file may unpack to; text rarely packs better than to a fiftieth."""

FREE_GROWTH = 2**28
"""Bytes that any packed file may unpack to."""

_LEAST_MEMORY = 0.04
"""The share of the machine's memory that reading leaves free."""

_LOOK = 2**26
_CHUNK = 2**20


class _Watched(io.RawIOBase):
    """A stream that checks its bound as it is read."""

    def __init__(self, inner: IO[bytes], may_go_on: Callable[[int], None]) -> None:
        self._inner, self._may_go_on = inner, may_go_on
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        self._may_go_on(self._read)
        return len(data)


@contextmanager
def opened(path: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open a file, unpacked if its suffix says it is packed.

    Args:
        path: the file.
        name: what to call it in error messages.

    Raises:
        UserError: it is no ordinary file, may not be read, is damaged or too large.
    """
    try:
        refuse_special(path, name)
        with ExitStack() as stack:
            unpack = PACKED.get(path.suffix.lower())
            inner = unpack(path, name, stack) if unpack else stack.enter_context(path.open("rb"))
            size = path.stat().st_size
            yield watched(inner, name, size if unpack else None)
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{name} is damaged: {error}.", "Copy or download the file again.") from error
    except PermissionError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.", "Change the permissions of the file.") from error
    except OSError as error:  # what bz2 and Arrow's codecs raise, and broken disks
        raise UserError(f"{name} is damaged: {error.strerror or error}.", "Copy or download the file again.") from error


def watched(inner: IO[bytes], name: str, packed: int | None = None) -> io.BufferedReader:
    """Return a stream that raises an error when it exceeds its bound.

    Args:
        inner: the stream.
        name: what to call it in error messages.
        packed: bytes of the file that it is unpacked from; None for one that is not packed.
    """
    looked = 0

    def may_go_on(count: int) -> None:
        nonlocal looked
        if packed is not None and count > max(FREE_GROWTH, MOST_GROWTH * packed):
            raise UserError(
                f"{name} unpacks to more than {MOST_GROWTH} times its {packed:,} bytes; it was left at {count:,}.",
                "If the file is what you want to read, unpack it first.",
            )
        if count >= looked + _LOOK:
            looked = count
            refuse_full_memory(name, f"{count:,} bytes")

    return io.BufferedReader(_Watched(inner, may_go_on), _CHUNK)


def refuse_full_memory(name: str, read: str) -> None:
    """Raise the error for data that would take the last memory of the machine."""
    import psutil

    memory = psutil.virtual_memory()
    if memory.available < _LEAST_MEMORY * memory.total:
        raise UserError(
            f"{name} is too large for the memory of this machine: it was left after {read}, with "
            f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free.",
            "Rows are held in memory: split the file and give the parts that are needed.",
        )


def refuse_special(path: Path, name: str) -> None:
    """Raise the error for a pipe, a device or a socket, which may never end or never begin."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise UserError(f"{name} is {kind}, not a file.", f"Give standard input instead: --data - < {name}")


def plain_suffix(path: Path) -> str:
    """Return the suffix that names a file's format: lower case, without a trailing ".gz" or the like."""
    if path.suffix.lower() not in PACKED:
        return path.suffix.lower()
    inside = Path(path.stem).suffix.lower()
    if not inside and path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).suffix.lower() for name in _members(archive)}
        return names.pop() if len(names) == 1 else ""
    return inside


def _from_gzip(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    return cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))


def _from_bz2(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    return stack.enter_context(bz2.open(path, "rb"))


def _from_xz(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    return stack.enter_context(lzma.open(path, "rb"))


def _from_arrow_codec(codec: str) -> Callable[[Path, str, ExitStack], IO[bytes]]:
    def unpacked(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
        import pyarrow

        return cast(IO[bytes], stack.enter_context(pyarrow.input_stream(str(path), compression=codec)))

    return unpacked


def _from_zip(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = _members(archive)
    if len(names) != 1:
        held = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise UserError(
            f"{name} holds {len(names)} files{': ' if held else ''}{held}.", "Unpack it, and name those that you mean."
        )
    if archive.getinfo(names[0]).flag_bits & 1:
        raise UserError(f"{name} is encrypted.", "Unpack it with its password first.")
    return stack.enter_context(archive.open(names[0]))


def _members(archive: zipfile.ZipFile) -> list[str]:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]


PACKED: dict[str, Callable[[Path, str, ExitStack], IO[bytes]]] = {
    ".bz2": _from_bz2,
    ".gz": _from_gzip,
    ".lz4": _from_arrow_codec("lz4"),
    ".xz": _from_xz,
    ".zip": _from_zip,
    ".zst": _from_arrow_codec("zstd"),
}
"""Every suffix of a packed file, to what opens it."""


_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def in_utf8(handle: io.BufferedReader, name: str) -> IO[bytes]:
    """Return the stream as UTF-8 text, converted from the encoding that a byte order mark names.

    Raises:
        UserError: the text is in UTF-16 and no mark says so, or not what its mark says.
    """
    begin = handle.peek(4)[:4]
    encoding = next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), None)
    if encoding:
        try:
            return io.BytesIO(handle.read().decode(encoding).encode("utf-8"))
        except UnicodeError as error:
            raise UserError(f"{name} is not whole {encoding.upper()} text: {error}.", "Copy the file again.") from error
    if len(begin) > 1 and begin.count(0) * 2 == len(begin):
        raise UserError(
            f"{name} looks like UTF-16 text without a byte order mark.",
            f"Save it as UTF-8: iconv -f UTF-16{'BE' if begin[0] == 0 else 'LE'} -t UTF-8 {name} > NEW",
        )
    return handle
