"""Saved sessions, in one SQLite file: every change is on disk before it is answered.

The file has a write-ahead log and is synced with every change, so that a server that is killed, or a machine that loses
its power, loses nothing that was saved. Branches are rows of their own: two windows that write into one session add to
it, and neither writes over the other. A branch that is deleted stays in the file until its session goes, so that it can
be put back.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.server.web.records import Branch, Session

VERSION = 1
"""Version of the tables; a later one is refused."""

_TABLES = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, prompt TEXT NOT NULL, models TEXT NOT NULL,
    created REAL NOT NULL, changed REAL NOT NULL
);
CREATE TABLE branches (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    id TEXT NOT NULL, parent TEXT, at INTEGER NOT NULL, name TEXT NOT NULL, origin TEXT NOT NULL,
    prompt_ids TEXT NOT NULL, ids TEXT NOT NULL, text TEXT NOT NULL, terminal INTEGER NOT NULL, total REAL,
    warnings TEXT NOT NULL, trace TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (session, id)
);
CREATE TABLE pairs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    better TEXT NOT NULL, worse TEXT NOT NULL,
    UNIQUE (session, better, worse)
);
"""

_COLUMNS = "id, parent, at, name, origin, prompt_ids, ids, text, terminal, total, warnings"


class Unknown(LookupError):
    """There is no session, or no branch, of that name."""


class Store:
    """The sessions of a file.

    Args:
        path: the file; made where there is none. None keeps them in memory.

    Raises:
        UserError: the file cannot be opened, holds something else, or was written by a later version.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            place = ":memory:" if path is None else path
            self._file = sqlite3.connect(place, timeout=10, check_same_thread=False, isolation_level=None)
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"{path}: saved sessions cannot be kept there ({error}).", "Name another file: --sessions FILE."
            ) from error

    def _open(self) -> None:
        """Set how the file is written, and make its tables where it is new."""
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._file.execute(f"PRAGMA {setting}")
        with self._changing():
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            (tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version > VERSION or (version == 0 and tables):
                said = "was written by a later version of tokenq" if version else "is a database of something else"
                raise UserError(f"{self.path} {said}.", "Name another file: --sessions FILE.")
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    self._file.execute(statement)
                self._file.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """All of what is done inside happens, or nothing of it."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")

    def sessions(self) -> list[dict[str, Any]]:
        """Return what the list shows of every session, the one changed last first."""
        asked = (
            "SELECT id, name, prompt, created, changed, (SELECT count(*) FROM branches"
            " WHERE session = sessions.id AND NOT deleted) FROM sessions ORDER BY changed DESC, rowid DESC"
        )
        with self._lock:
            rows = self._file.execute(asked).fetchall()
        names = ("id", "name", "prompt", "created", "changed", "branches")
        return [dict(zip(names, row, strict=True)) | {"prompt": row[2][:200]} for row in rows]

    def add(self, name: str, new: str, prompt: str, models: Mapping[str, Any]) -> Session:
        """Return a new session; the one that is there where it was added already (a request sent twice).

        Args:
            name: its id.
            new: its name for people.
            prompt: the text.
            models: with which its branches are read.
        """
        now = time.time()
        with self._changing():
            self._file.execute(
                "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                (name, new, prompt, json.dumps(dict(models), sort_keys=True), now, now),
            )
        return self.session(name)

    def session(self, name: str) -> Session:
        """Return a session with its branches, without their traces.

        Raises:
            Unknown: there is none of that id.
        """
        with self._lock:
            row = self._file.execute("SELECT * FROM sessions WHERE id = ?", (name,)).fetchone()
            if row is None:
                raise Unknown(f"there is no session {name!r}")
            branches = self._file.execute(
                f"SELECT {_COLUMNS} FROM branches WHERE session = ? AND NOT deleted ORDER BY place", (name,)
            ).fetchall()
            pairs = self._file.execute(
                "SELECT better, worse FROM pairs WHERE session = ? ORDER BY place", (name,)
            ).fetchall()
        known = {branch[0] for branch in branches}
        shown = tuple((better, worse) for better, worse in pairs if {better, worse} <= known)
        return Session(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5], tuple(map(_branch, branches)), shown)

    def branch(self, session: str, name: str) -> Branch:
        """Return a branch with its trace.

        Raises:
            Unknown: there is no such session or branch.
        """
        found = self._traced(session, "AND id = ?", (name,))
        if not found:
            raise Unknown(f"there is no branch {name!r} in session {session!r}")
        return found[0]

    def traces(self, session: str) -> list[Branch]:
        """Return all branches of a session with their traces, oldest first.

        Raises:
            Unknown: there is no such session.
        """
        self.session(session)
        return self._traced(session, "", ())

    def _traced(self, session: str, which: str, given: Sequence[str]) -> list[Branch]:
        asked = f"SELECT {_COLUMNS}, trace FROM branches WHERE session = ? AND NOT deleted {which} ORDER BY place"
        with self._lock:
            return [_branch(row) for row in self._file.execute(asked, (session, *given))]

    def add_branch(self, session: str, branch: Branch) -> None:
        """Add a branch; one that is there already is left as it is.

        Raises:
            Unknown: there is no such session.
        """
        values = (
            *(branch.id, branch.parent, branch.at, branch.name, branch.origin),
            *(json.dumps(branch.prompt_ids), json.dumps(branch.ids), branch.text, branch.terminal, branch.total),
            *(json.dumps(branch.warnings), branch.trace),
        )
        with self._changing():
            self._touch(session)
            self._file.execute(
                f"INSERT OR IGNORE INTO branches (session, {_COLUMNS}, trace) VALUES (?{', ?' * len(values)})",
                (session, *values),
            )

    def rename(self, session: str, new: str) -> None:
        """Give a session another name.

        Raises:
            Unknown: there is no such session.
        """
        with self._changing():
            self._touch(session)
            self._file.execute("UPDATE sessions SET name = ? WHERE id = ?", (new, session))

    def rename_branch(self, session: str, name: str, new: str) -> None:
        """Give a branch another name.

        Raises:
            Unknown: there is no such session or branch.
        """
        self._change_branch(session, name, "name = ?", new)

    def delete_branch(self, session: str, name: str, *, deleted: bool = True) -> None:
        """Take a branch out of its tree, or put it back.

        Raises:
            Unknown: there is no such session or branch.
        """
        self._change_branch(session, name, "deleted = ?", deleted)

    def _change_branch(self, session: str, name: str, what: str, value: str | bool) -> None:
        with self._changing():
            self._touch(session)
            done = self._file.execute(
                f"UPDATE branches SET {what} WHERE session = ? AND id = ?", (value, session, name)
            )
            if not done.rowcount:
                raise Unknown(f"there is no branch {name!r} in session {session!r}")

    def delete(self, session: str) -> None:
        """Delete a session for good.

        Raises:
            Unknown: there is no such session.
        """
        with self._changing():
            self._touch(session)
            self._file.execute("DELETE FROM sessions WHERE id = ?", (session,))

    def prefer(self, session: str, better: str, worse: str) -> None:
        """Remember that one branch is better than another; whoever said the opposite before has changed their mind.

        Raises:
            Unknown: there is no such session or branch.
        """
        known = {branch.id for branch in self.session(session).branches}
        for name in (better, worse):
            if name not in known:
                raise Unknown(f"there is no branch {name!r} in session {session!r}")
        with self._changing():
            self._touch(session)
            self._forget(session, better, worse)
            self._file.execute("INSERT INTO pairs (session, better, worse) VALUES (?, ?, ?)", (session, better, worse))

    def forget_pair(self, session: str, one: str, other: str) -> None:
        """Take back which of two branches is better.

        Raises:
            Unknown: there is no such session.
        """
        with self._changing():
            self._touch(session)
            self._forget(session, one, other)

    def _forget(self, session: str, one: str, other: str) -> None:
        self._file.execute(
            "DELETE FROM pairs WHERE session = ? AND ((better = ? AND worse = ?) OR (better = ? AND worse = ?))",
            (session, one, other, other, one),
        )

    def _touch(self, session: str) -> None:
        done = self._file.execute("UPDATE sessions SET changed = ? WHERE id = ?", (time.time(), session))
        if not done.rowcount:
            raise Unknown(f"there is no session {session!r}")


def _branch(row: Sequence[Any]) -> Branch:
    name, parent, at, title, origin, prompt_ids, ids, text, terminal, total, warnings, *trace = row
    both = tuple(json.loads(prompt_ids)), tuple(json.loads(ids))
    said = tuple(json.loads(warnings))
    return Branch(name, parent, at, title, origin, *both, text, bool(terminal), total, said, *trace)
