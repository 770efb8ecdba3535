"""Answers that are kept between runs, in tokenq's own cache folder: what a model is, which way through it is exact.

An answer lies in a small JSON file named by a hash of all that it depends on. It is a convenience and never a
condition: a folder that cannot be written, a full disk or a damaged file means that the answer is found anew. It is
checked now and then: found anew, compared, and corrected.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

REFERENCE, IDENTITIES, PROOFS, TOKENS, GAMES = "reference", "identities", "proofs", "tokens", "games"
"""Sub-folders of what is kept."""

VERSION = 1
"""Version of these files; a change makes old ones invisible."""

CHECK_USES = 32
"""After so many uses an answer is found anew and compared."""

CHECK_SECONDS = 7 * 86_400
"""An answer that was not checked for so long is found anew and compared."""

Answer = dict[str, Any]


def cache_folder() -> Path | None:
    """Return the folder of all that is kept, shared by all runs of a user; None where keeping is switched off.

    `TOKENQ_CACHE` names it, or switches it off with the word off; else it is `tokenq` in `XDG_CACHE_HOME` (`~/.cache`).
    """
    named = os.environ.get("TOKENQ_CACHE")
    if named == "off":
        return None
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tokenq")
    try:
        return folder.expanduser().absolute()
    except RuntimeError:  # nobody's home
        return None


def cached(
    kind: str,
    depends: Mapping[str, Any],
    find: Callable[[], Answer],
    *,
    decides: Sequence[str],
    uses: int = CHECK_USES,
    say: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Return an answer that is plain data, from an earlier run where one has found it.

    Args:
        kind: its sub-folder.
        depends: all that it depends on, as plain data.
        find: finds it anew; its errors are not kept.
        decides: the fields that may not change between two answers to the same question.
        uses: after how many uses it is checked.
        say: told when a check finds that the answer was wrong.
    """
    folder = cache_folder()
    if folder is None:
        return find()
    text = json.dumps({"version": VERSION, "kind": kind, **depends}, sort_keys=True)
    path = folder / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    entry, now = _read(path, text), time.time()
    if entry is not None and entry["uses"] < uses and 0 <= now - entry["checked"] < CHECK_SECONDS:
        answer: Answer = entry["answer"]
        _write(path, {**entry, "uses": entry["uses"] + 1})
        return answer
    answer = find()
    if entry is not None and any(entry["answer"].get(name) != answer.get(name) for name in decides):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["checked"]))
        say(f"what was kept of this model since {when} ({path}) was wrong, and is corrected: {_change(entry, answer)}")
    _write(path, {"depends": text, "answer": answer, "checked": now, "uses": 0})
    return answer


@cache
def sources(*modules: str) -> str:
    """Return a hash of the source of some modules: what they found is void when they change."""
    digest = hashlib.sha256()
    for name in modules:
        found = importlib.util.find_spec(name)
        digest.update(name.encode())
        if found is not None and found.origin is not None:
            with contextlib.suppress(OSError):
                digest.update(Path(found.origin).read_bytes())
    return digest.hexdigest()


@cache
def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of some packages, read once a process."""
    return {name: importlib.metadata.version(name) for name in packages}


def _read(path: Path, text: str) -> Answer | None:
    """Return the entry of a file; None where there is none, or none of this question that can be read."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        sound = entry["depends"] == text and type(entry["answer"]) is dict and type(entry["uses"]) is int
        return entry if sound and type(entry["checked"]) is float else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(path: Path, entry: Answer) -> None:
    """Write an entry aside and rename it, so that no reader sees half of one; where that fails, nothing is kept."""
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(entry), encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _change(entry: Answer, answer: Answer) -> str:
    before = entry["answer"]
    return ", ".join(f"{name} {before.get(name)} → {now}" for name, now in answer.items() if before.get(name) != now)
