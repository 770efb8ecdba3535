"""Stamps of a model's files, to notice when they change."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers.utils.hub import try_to_load_from_cache

from tokenq.errors import UserError
from tokenq.models.adapters import adapter_config, adapter_folder, base_of, is_adapter_folder
from tokenq.models.load import ModelSpec

T = TypeVar("T")

_ENDINGS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".py")
_NAMES = ("config.json", "adapter_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")

_SETTLED = 2.0
"""Seconds after its last change from which on the stamp of a local file tells every later change: clocks of file
systems tick coarsely, so that a file may change twice within one stamp."""

_SETTLED_REMOTE = 60.0
"""The same where another machine keeps the file: its clock is not ours, and what it says is remembered for a while."""

_REMOTE = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "afs",
    "virtiofs",
}


@dataclass(frozen=True)
class Stamp:
    """A file's size, dates and inode, as the file system has them.

    Attributes:
        path: where it really is, links followed.
        size: bytes.
        modified: when its bytes last changed, ns.
        changed: when anything of it last changed, ns; nobody can set this back.
        inode: device and number of the file.
    """

    path: str
    size: int
    modified: int
    changed: int
    inode: tuple[int, int]

    @property
    def bytes_of(self) -> tuple[int, int, tuple[int, int]]:
        """The fields that change when the file is replaced or written to."""
        return self.size, self.modified, self.inode


def stamps(places: Sequence[Path]) -> tuple[Stamp, ...]:
    """Return the stamps of all files in model folders that decide what the model computes.

    Args:
        places: folders of a model or an adapter, or GGUF files.
    """
    found = []
    for place in places:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        wanted = [file for file in files if place == file or file.suffix in _ENDINGS or file.name in _NAMES]
        for file in wanted:
            try:
                real = file.resolve(strict=True)
                told = real.stat()
            except OSError:  # a dangling link; what needs it will say so
                continue
            inode = told.st_dev, told.st_ino
            found.append(Stamp(str(real), told.st_size, told.st_mtime_ns, told.st_ctime_ns, inode))
    return tuple(found)


def settled(found: Sequence[Stamp]) -> bool:
    """Return whether any later change would show in the stamps: no file was changed just now or in the future."""
    now = time.time()
    return bool(found) and all(
        max(stamp.modified, stamp.changed) / 1e9 + (_SETTLED_REMOTE if is_remote(stamp.path) else _SETTLED) < now
        for stamp in found
    )


def is_remote(path: str) -> bool:
    """Return whether a file is on a network file system, as far as Linux tells."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    over = [(len(point), kind) for _, point, kind, *_ in mounts if os.path.commonpath((point, path)) == point]
    kind = max(over, default=(0, ""))[1]
    return kind in _REMOTE or (kind.startswith("fuse.") and "sshfs" in kind)


def refuse_moved(before: Sequence[Stamp]) -> None:
    """Refuse a model whose files have changed since `before`: it may be a mixture.

    Raises:
        UserError: names the file.
    """
    for then in before:
        now = stamps([Path(then.path)])
        if not now or now[0].bytes_of != then.bytes_of:
            raise UserError(f"{then.path} was replaced or written to while it was being read.", _AGAIN)


def guarded(results: Iterable[T], before: Sequence[Stamp]) -> Iterator[T]:
    """Yield results as long as nobody overwrites weights that are mapped into memory.

    A file that another has taken the place of is no matter: the one that was mapped is still there.

    Args:
        results: computed as they are asked for.
        before: stamps of the model's files.

    Raises:
        UserError: names the file.
    """
    for result in results:
        for then in before:
            if _overwritten(then):
                raise UserError(
                    f"{then.path} was written over while the model was in use, so what came out is of no one model.",
                    _AGAIN,
                )
        yield result


def _overwritten(then: Stamp) -> bool:
    try:
        told = os.stat(then.path)
    except OSError:
        return False
    if (told.st_dev, told.st_ino) != then.inode or (told.st_size, told.st_mtime_ns) == (then.size, then.modified):
        return False
    maps = _maps()
    return maps is None or then.path in maps


def _maps() -> str | None:
    """Return the files this process has mapped, None if the system does not tell."""
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


_AGAIN = "Run again when whatever writes there is done; a writer that writes aside and renames does no harm."


def stamped(spec: ModelSpec) -> tuple[Stamp, ...]:
    """Return the stamps of all files that decide a model's weights; none if it is in memory or not on this disk.

    Raises:
        UserError: there is no model at that place.
    """
    if spec.loaded is not None:
        return ()
    places = _places(spec.path, spec.revision, spec.base)
    if spec.adapter is not None:
        places += (adapter_folder(spec.adapter),)
    return () if None in places else stamps([place for place in places if place is not None])


def _places(path: str, revision: str | None, base: str | None = None) -> tuple[Path | None, ...]:
    """Return the folders and files of a model path, including an adapter's base."""
    place = Path(path).expanduser()
    if is_adapter_folder(path):
        own = adapter_folder(path)
        return own, *_places(base_of(path, base), revision or (adapter_config(own).get("revision") if own else None))
    if place.exists():
        return (place,)
    cached = try_to_load_from_cache(path, "config.json", revision=revision) if path.count("/") < 2 else None
    return (Path(cached).parent if isinstance(cached, str) else None,)
