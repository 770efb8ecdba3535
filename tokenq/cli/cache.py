"""`tokenq cache`: what is kept between runs, how much there is of it, and how to be rid of it."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenq.cache import GAMES, IDENTITIES, PROOFS, REFERENCE, TOKENS, cache_folder
from tokenq.errors import UserError, unknown_name
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class CacheConfig:
    """List what tokenq keeps between runs. Nothing is deleted unless --clear says so."""

    clear: Sequence[str] = ()
    """Delete what is kept of these kinds: reference, identities, proofs, tokens, games, or all."""
    older_than: float | None = None
    """Only what was not used for so many days."""


RANGES = (Range(("older_than",), least=0, most=1_000_000),)
"""What numbers may be, beside those that all configurations share."""


class Kind(NamedTuple):
    """One kind of what is kept.

    Attributes:
        what: in a few words.
        files: patterns of its files, below its folder.
        one_each: pattern of the folders that stand or fall as one; "" where every file stands alone.
    """

    what: str
    files: Sequence[str]
    one_each: str = ""


_ENTRY = "[0-9a-f]" * 32

KINDS = {
    REFERENCE: Kind("log-probs of reference models", ("*.safetensors", "model.json", ".*.tmp"), _ENTRY),
    IDENTITIES: Kind("hashes of models, by the stamps of their files", (f"{_ENTRY}.json", ".*.tmp")),
    TOKENS: Kind("data that were tokenised", ("*.arrow", "meta.json", ".lock", ".*.tmp*"), _ENTRY),
    GAMES: Kind("games that were compiled", ("game.*", "options.json"), _ENTRY),
    PROOFS: Kind("the fastest exact way, by architecture", (f"{_ENTRY}.json", ".*.tmp")),
}
"""What is kept, by the sub-folder that it lies in. Other files in there are nobody's here, and are left alone."""


@dataclass(frozen=True)
class CacheEntry:
    """Files that stand or fall as one.

    Attributes:
        kind: a key of `KINDS`.
        name: of what they are, for people.
        files: all of them.
        size: bytes.
        used: when they were last used, seconds since the epoch.
    """

    kind: str
    name: str
    files: tuple[Path, ...]
    size: int
    used: float


def run(config: CacheConfig) -> int:
    """List what is kept, or delete what `config` says, and return 0.

    Raises:
        UserError: an unknown kind, or a file that cannot be deleted.
    """
    for kind in config.clear:
        if kind not in (*KINDS, "all"):
            raise unknown_name("kind", kind, [*KINDS, "all"])
    check_ranges(config, RANGES)
    root = cache_folder()
    if root is None:
        print("Nothing is kept: TOKENQ_CACHE is off.")
        return 0
    limit = time.time() - 86_400 * (config.older_than or 0)
    found = [one for one in everything_kept(root) if config.older_than is None or one.used < limit]
    if not config.clear:
        _show(root, found)
        return 0
    gone = [one for one in found if one.kind in config.clear or "all" in config.clear]
    _delete(gone)
    print(f"deleted: {sum(len(one.files) for one in gone)} files, {_size(sum(one.size for one in gone))}, from {root}")
    return 0


def everything_kept(root: Path) -> list[CacheEntry]:
    """Return all that lies in a cache folder, links and strangers' files left out.

    Args:
        root: tokenq's cache folder.
    """
    found = []
    for kind, (_, patterns, one_each) in KINDS.items():
        folder = root / kind
        if not one_each:
            found += [_kept(kind, "", [file]) for file in _files(root, folder, patterns)]
            continue
        for each in sorted(folder.glob(one_each)):
            files = list(_files(root, each, patterns))
            if files:
                found.append(_kept(kind, NAMES[kind](each), files))
    return found


def _files(root: Path, folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the files of a folder that are ours and really lie within the cache folder."""
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and not file.is_symlink() and file.resolve().is_relative_to(root.resolve()):
                yield file


def _kept(kind: str, name: str, files: Sequence[Path]) -> CacheEntry:
    told = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # another process is at work
            told.append(file.stat())
    used = max((one.st_mtime for one in told), default=0.0)
    return CacheEntry(kind, name, tuple(files), sum(one.st_size for one in told), used)


def _model_of(folder: Path) -> str:
    """Return which model a folder of log-probs is of, as far as it says."""
    try:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return f"{model['path']} ({model['dtype']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "a model that is not named"


def _source_of(folder: Path) -> str:
    """Return which source a folder of tokens is of, as far as it says."""
    try:
        return str(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "data that are not named"


def _options_of(folder: Path) -> str:
    """Return what a game was made of, as far as its folder says."""
    try:
        options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        return " ".join(f"{name}={value}" for name, value in options.items())
    except (OSError, ValueError, AttributeError):
        return "a game that is not named"


NAMES = {REFERENCE: _model_of, TOKENS: _source_of, GAMES: _options_of}
"""What tells the name of a folder that stands or falls as one."""


def _show(root: Path, found: Sequence[CacheEntry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "what", "entries", "size", "last used")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for kind, (what, _, one_each) in KINDS.items():
        own = [one for one in found if one.kind == kind]
        table.add_row(kind, what, str(len(own)), _size(sum(one.size for one in own)), _when(own))
        for one in sorted(own, key=lambda one: -one.size) if one_each else ():
            table.add_row("", Text(f"  {one.name}"), "", _size(one.size), _when([one]))
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"{_size(sum(one.size for one in found))} in {root}"), soft_wrap=True)


def _delete(gone: Sequence[CacheEntry]) -> None:
    """Delete files, and the folders of ours that they leave empty."""
    for one in gone:
        for file in one.files:
            try:
                file.unlink(missing_ok=True)
            except OSError as problem:
                raise UserError(f"{file} cannot be deleted: {problem.strerror}.", "Delete it by hand.") from None
        with contextlib.suppress(OSError):  # something is left in it, or was written just now
            one.files[0].parent.rmdir()


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 10 or units[0] == "B" else f"{size:.1f} {units[0]}"


def _when(found: Sequence[CacheEntry]) -> str:
    used = max((one.used for one in found), default=0.0)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(used)) if used else ""
