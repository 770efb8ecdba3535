"""What is half-written: how it is called while it is written, and what becomes of it after a kill.

It is called after its process, so that two writers of one path never touch each other's half, and what a killed one
left is told from what a living one writes.
"""

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from pathlib import Path

PARTIAL = ".partial"
"""Ending of what is being written; a file that a kill left with this ending is worthless."""

_BEFORE = ".old" + PARTIAL
"""Ending of a folder that is being replaced: the only copy until its successor stands in its place."""

_DAY = 86_400


def restore(path: Path) -> None:
    """Put back a folder whose replacement stopped between its two renames; delete it where its successor stands."""
    old = old_of(path)
    if not old.exists():
        return
    if path.exists():
        remove(old)
    else:
        os.replace(old, path)


def discard(path: Path) -> None:
    """Delete a folder so that a kill leaves it whole, or as something half-written that the next start clears away."""
    gone = half_of(path)
    os.replace(path, gone)
    remove(gone)


def clear_leftovers(folder: Path) -> None:
    """Put back and clear away what killed processes left in a folder; halves that a living one writes stay."""
    for old in folder.glob(f".*{_BEFORE}"):
        restore(folder / old.name[1:].removesuffix(_BEFORE))
    for left in folder.glob(f".*{PARTIAL}"):
        if not _is_written(left):
            remove(left)


def old_of(path: Path) -> Path:
    """Return the place of a folder while it is being replaced."""
    return path.with_name(f".{path.name}{_BEFORE}")


def half_of(path: Path) -> Path:
    """Return a name beside `path` that no other writer has, and that says who writes it."""
    return path.with_name(f".{path.name[:180]}.{_host()}-{os.getpid()}-{secrets.token_hex(3)}{PARTIAL}")


def clear_halves_of(path: Path) -> None:
    """Delete what killed writers of `path` have left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name[:180])}.*{PARTIAL}"):
        if not _is_written(left) and not left.name.endswith(_BEFORE):
            remove(left)


def _is_written(half: Path) -> bool:
    """Return whether a living process writes this; one of another host counts as living for a day."""
    named = re.search(rf"\.([0-9a-f]{{6}})-(\d+)-[0-9a-f]{{6}}{re.escape(PARTIAL)}$", half.name)
    if named is None:
        return False
    if named[1] == _host():
        import psutil

        return bool(psutil.pid_exists(int(named[2])))
    with contextlib.suppress(OSError):
        return time.time() - half.lstat().st_mtime < _DAY
    return False


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
