"""One writer an output: a second one is refused by name, and what a killed one left does not stand in the way.

The operating system holds the lock and lets go of it when its process ends, however it ends (flock, on Windows a locked
byte; where a file system has neither, a file with the number of the process, which counts for nothing once that process
is gone). On NFS this is as good as the server's lock daemon: processes of one host are always kept apart.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.files import disk_errors
from tokenq.redaction import redact

PATIENCE = 0.5
"""Seconds that a lock is tried for: a writer that just ends has then let go of it."""


@contextlib.contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Keep other writers away from a file, and from its parts, inside the block.

    Raises:
        UserError: another process writes it, or its folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f".{path.name}.lock"), path):
        yield


@contextlib.contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Keep other writers away from a folder inside the block; it is made, and goes again if nothing came of it.

    Raises:
        UserError: another process writes it, it is a file, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"The output {path} is a file.", "Choose a folder for --output.")
    made = not path.exists()
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    try:
        with _held(path / ".lock", path):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # something is in it
                path.rmdir()


@contextlib.contextmanager
def _held(lock: Path, output: Path) -> Iterator[None]:
    """Hold a lock file; who holds it stands beside it, as a locked file cannot be read everywhere."""
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    note = lock.with_name(f"{lock.name}.json")
    held: BaseFileLock = FileLock(lock, thread_local=False)
    with disk_errors(output):
        try:
            try:
                held.acquire(timeout=PATIENCE)
            except (NotImplementedError, OSError) as problem:
                if isinstance(problem, Timeout | PermissionError) or not lock.parent.is_dir():
                    raise
                held = SoftFileLock(lock.with_name(f"{lock.name}.pid"), thread_local=False)  # no locks on this disk
                held.acquire(timeout=PATIENCE)
        except Timeout:
            raise _refusal(output, note) from None
    try:
        with contextlib.suppress(OSError):  # the lock holds without its note
            note.write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        for left in (note, lock):  # while the lock is held, so that nobody's new one is deleted
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        held.release()


def _myself() -> dict[str, Any]:
    command = [Path(sys.argv[0]).name.replace("__main__.py", "tokenq"), *redact(sys.argv[1:])]
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}


def _refusal(output: Path, note: Path) -> UserError:
    who = _read(note)
    if not who:
        return UserError(f"{output} is being written by another process.", "Wait for it, or choose another --output.")
    said = f"process {who.get('pid')} on {who.get('host')} since {who.get('since')}"
    command = who.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else ""
    return UserError(
        f"{output} is being written by another process: {said}{f' ({words})' if words else ''}.",
        "Wait for it, stop it, or choose another --output.",
    )


def _read(note: Path) -> dict[str, Any]:
    """Return the holder's note about itself, empty if it is not written yet."""
    for _ in range(5):
        with contextlib.suppress(OSError, ValueError):
            who = json.loads(note.read_text(encoding="utf-8"))
            if isinstance(who, dict):
                return who
        time.sleep(0.05)
    return {}
