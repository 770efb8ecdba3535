"""What must not be written down: access tokens and passwords, told by their form, wherever they stand in a text.

Secrets are found by structure: what stands before the host of an address, what a query calls a key, what has the form
of a known service's token. A secret of the environment is found where it stands as a whole word, so that a password
that is also the name of a user or a folder does not blank an honest path.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

BLANK = "[secret]"
"""Stands where a secret stood."""

_LOGIN = re.compile(r"(?<=://)(?:[^/?#\s@:\[]*:(?!\d+(?:[/?#\s]|$))\S*|[^/?#\s@]+)(?=@)")
"""Before the host of an address. A password may hold @ and /, and ends at the last @; a port is no password."""

_QUERY = re.compile(
    r"(?<=[?&;])([\w.%-]*(?:key|token|secret|passw(?:or)?d|pwd|auth|signature|credential|session)|sig|sas|jwt)"
    r"=[^&#\s\"']+",
    re.IGNORECASE,
)

_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)

_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"
    r"|sk-(?:proj|ant|svcacct|admin|or|lf|None)-[\w-]{12,}|sk-[A-Za-z0-9]{16,}"
    r"|[srp]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9]{16,}"
    r"|AIza[\w-]{20,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,}"
    r"|gsk_[A-Za-z0-9]{12,}|xai-[A-Za-z0-9]{16,}|pplx-[A-Za-z0-9]{16,}|nvapi-[\w-]{16,}|r8_[A-Za-z0-9]{16,}"
    r"|csk-[A-Za-z0-9]{16,}|fw_[A-Za-z0-9]{16,}|tgp_v1_[\w-]{16,}|co_[A-Za-z0-9]{32,}"
    r"|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}|gl(?:dt|rt|ptt|cbt)-[\w-]{12,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{12,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{24,}|dckr_(?:pat|oat)_[\w-]{12,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|dop_v1_[a-f0-9]{20,}|dapi[a-f0-9]{32}|lin_api_\w{16,}|ntn_\w{20,}"
    r"|eyJ[\w-]{6,}\.eyJ[\w-]{6,}\.[\w-]*"
    r")"
)
"""Tokens of services that users of language models have."""

_SECRET_NAME = re.compile(r"token$|key$|secret|passw|pwd$|credential", re.IGNORECASE)
_LEAST = 8
"""Characters that a secret of the environment has at least; shorter words are found everywhere."""


def redact(value: Any) -> Any:
    """Return `value` (strings, lists and dicts of them) with access tokens and passwords replaced by `[secret]`."""
    if isinstance(value, str):
        return _of_environment(_SHAPES.sub(BLANK, _addresses(value)))
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, list | tuple) else value


def _addresses(text: str) -> str:
    text = _LOGIN.sub(BLANK, text) if "://" in text else text
    text = _QUERY.sub(rf"\1={BLANK}", text) if "=" in text else text
    return _BEARER.sub(rf"\1 {BLANK}", text)


def _of_environment(text: str) -> str:
    """Blank the secrets of the environment where they stand as whole words, outside of paths and names."""
    for name, secret in os.environ.items():
        if len(secret) < _LEAST or secret not in text or not _SECRET_NAME.search(name) or _is_place(secret):
            continue
        text = re.sub(rf"(?<![\w./\\~-]){re.escape(secret)}(?![\w/\\-]|\.\w|://)", BLANK, text)
    return text


def _is_place(secret: str) -> bool:
    """Return whether a value is a path: SSH_KEY=/home/me/.ssh/id, or the name of what lies here."""
    return ("/" in secret and secret.startswith(("/", "./", "~"))) or os.path.exists(secret)
