"""Byte strings of a job that is under way, in a file that only grows."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenq.files import append_bytes, disk_errors

_LENGTH = 8
"""Bytes that say how long a frame is."""


@dataclass(frozen=True)
class Frames:
    """A file of byte strings, each behind its length, that only grows and survives a kill.

    Attributes:
        path: the file; made by the first `append`.
    """

    path: Path

    def append(self, data: bytes) -> None:
        """Add one."""
        append_bytes(self.path, len(data).to_bytes(_LENGTH, "big") + data)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the complete ones; a torn last one (the writer was killed) is left out."""
        if not self.path.exists():
            return
        with disk_errors(self.path), self.path.open("rb") as file:
            while len(head := file.read(_LENGTH)) == _LENGTH:
                size = int.from_bytes(head, "big")
                left = os.fstat(file.fileno()).st_size - file.tell()
                if size > left:
                    return
                yield file.read(size)

    def keep(self, wanted: Callable[[bytes], bool]) -> int:
        """Cut the file at the first that is torn or that `wanted` refuses, and return how many are left."""
        end = count = 0
        for data in self:
            if not wanted(data):
                break
            end, count = end + _LENGTH + len(data), count + 1
        if self.path.exists():
            os.truncate(self.path, end)
        return count
