"""API keys: where they come from, and whether a request has one. They are in no message, log, record or repr.

Keys are kept and compared as digests of equal length, each with all, so that the time tells nothing of them.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenq.errors import UserError

API_VARIABLE, ADMIN_VARIABLE = "TOKENQ_API_KEY", "TOKENQ_ADMIN_KEY"
"""Variables of the environment that hold keys."""

SHORT = 16
"""Characters below which a key can be guessed."""

MAKE = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one."


@dataclass(frozen=True)
class Keys:
    """Who may ask, and who may change what is served.

    Attributes:
        api: digests of the keys that may ask; none: whoever reaches the server may.
        admin: digests of those that may load adapters and weights as well; none: nobody may.
        warnings: what is doubtful about them.
    """

    api: tuple[bytes, ...] = field(default=(), repr=False)
    admin: tuple[bytes, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.api)

    def asks(self, given: str) -> bool:
        """Return whether a key may ask."""
        return not self.needed or _among(given, (*self.api, *self.admin))

    def administers(self, given: str) -> bool:
        """Return whether a key may change what is served."""
        return _among(given, self.admin)


def bearer(header: str) -> str:
    """Return the key of an Authorization header, "" where it has none."""
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def digest(key: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _among(given: str, known: tuple[bytes, ...]) -> bool:
    own = digest(given)
    found = False
    for one in known:  # no end before the last, so that the time does not tell which it was
        found |= hmac.compare_digest(own, one)
    return found


def read_keys(api_key_file: str | None, admin_key_file: str | None, environ: Mapping[str, str] | None = None) -> Keys:
    """Return the keys of two files, a key a line; where no file is named, of the environment.

    Args:
        api_key_file: keys that may ask; None takes TOKENQ_API_KEY.
        admin_key_file: keys that may load as well; None takes TOKENQ_ADMIN_KEY.
        environ: variables; None takes those of the process.

    Raises:
        UserError: a file cannot be read or has no key, a key has characters that no header may have, or both are one.
    """
    known = os.environ if environ is None else environ
    api, said = _keys(api_key_file, "--api-key-file", API_VARIABLE, known)
    admin, more = _keys(admin_key_file, "--admin-key-file", ADMIN_VARIABLE, known)
    if set(api) & set(admin):
        raise UserError("A key that may ask is also the admin key.", f"Give two. {MAKE}")
    return Keys(tuple(map(digest, api)), tuple(map(digest, admin)), (*said, *more))


def _keys(file: str | None, flag: str, variable: str, environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the keys that may be used one way, and what is doubtful about them."""
    said = []
    if file is None:
        where, lines = variable, [environ[variable].strip()] if variable in environ else []
        if lines == [""]:
            raise UserError(f"{variable} is empty.", f"Set it to a key, or unset it. {MAKE}")
    else:
        where, text = f"{flag} {file}", _read(Path(file), flag)
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise UserError(f"{where}: there is no key in it.", f"Write a key a line. {MAKE}")
        if Path(file).stat().st_mode & 0o077:
            said.append(f"{where} can be read by others on this machine; chmod 600 keeps it to you")
    for key in lines:
        if not (key.isascii() and key.isprintable()) or " " in key:
            hint = f"Letters, digits and signs of ASCII. {MAKE}"
            raise UserError(f"{where}: a key has spaces or characters outside ASCII.", hint)
    if any(len(key) < SHORT for key in lines):
        said.append(f"{where}: a key of fewer than {SHORT} characters can be guessed. {MAKE}")
    return lines, said


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise UserError(f"{flag} {path} cannot be read: {problem.strerror}.", "Check the path.") from problem
    except UnicodeDecodeError as problem:
        raise UserError(f"{flag} {path} is no text.", "Write a key a line.") from problem
