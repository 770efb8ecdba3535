"""Errors that a user can act on: what happened, where, and what to do.

The command line prints a `UserError` without a traceback and exits with code 2. Everything that is not a
`UserError` is a defect of tokenq and keeps its traceback.
"""

import difflib
import errno
import re
from collections.abc import Collection, Iterable

_CLAUSE = re.compile(r"\[([^\[\]]*--[a-z][^\[\]]*)\]")
_FLAG = re.compile(r"--[a-z][a-z-]*")


class UserError(Exception):
    """A mistake in what was asked for, with a hint on how to mend it.

    Args:
        message: what happened and where (name the file and the row).
        hint: what to do about it, one sentence. A clause in brackets that names flags is for commands that have them.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, and the hint on its own line when there is one."""
        hint = fitting(self.hint)
        return f"{self.message}\n  {hint}" if hint else self.message


def fitting(hint: str, flags: Collection[str] | None = None) -> str:
    """Return a hint with those of its clauses in brackets whose flags a command has, and without the brackets.

    Args:
        hint: such as "Mend the row[, or give another template with --chat-template FILE]."
        flags: those of the command; None for all.
    """

    def clause(found: re.Match[str]) -> str:
        return found[1] if flags is None or set(_FLAG.findall(found[1])) <= set(flags) else ""

    return _CLAUSE.sub(clause, hint)


class Interrupted(KeyboardInterrupt):
    """A signal that ended a command where it can go on.

    Args:
        signum: the signal; the command exits with 128 more.
        said: what was done about it, one sentence.
    """

    def __init__(self, signum: int, said: str) -> None:
        super().__init__(said)
        self.signum = signum
        self.said = said

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        """Return how another process makes it again: an exception is remade of what its base was given, else."""
        return Interrupted, (self.signum, self.said)


def reason(problem: BaseException) -> str:
    """Return the line of a foreign error that says what is wrong.

    The first line is often a heading ("Error(s) in loading state_dict for …:") and what follows it the reason.
    """
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")]
    return next(iter(telling or lines), type(problem).__name__)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that is spelt most like `name`, or None when none is close."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UserError:
    """Return the error for a name outside a fixed list: what was asked, the nearest, and the whole list.

    Args:
        kind: what the name stands for, in the singular ("loss", "column", "scheduler").
        name: what was asked for.
        options: the valid names.
    """
    known = sorted(options)
    close = nearest(name, known)
    guess = f"Did you mean {close!r}? " if close else ""
    return UserError(f"Unknown {kind} {name!r}.", f"{guess}Available: {', '.join(known)}.")


def of_the_machine(error: OSError | MemoryError) -> UserError | None:
    """Return a message for an error of the machine, or of a name that it cannot bear; None for other errors.

    Args:
        error: what no room has put into words of its own.
    """
    if isinstance(error, MemoryError):
        return UserError("There is not enough memory.", "Lower --tokens-per-batch, or take fewer rows.")
    if error.errno not in _OF_THE_MACHINE:
        return None
    name = str(error.filename or "A file")
    short = name if len(name) < 200 else f"{name[:200]}…"
    return UserError(f"{short} cannot be used: {error.strerror}.", "Check the path, its rights, and the disk.")


_OF_THE_MACHINE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EIO,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}
