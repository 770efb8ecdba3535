"""Parse `--data`: `LOCATION[:SPLIT][@WEIGHT]`; docs/data.md describes it in full."""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tokenq.data.files.local import READERS, STANDARD_INPUT
from tokenq.data.files.unpacking import plain_suffix
from tokenq.errors import UserError, nearest

_PART = r"(?:\w+(?:\.\w+)*)?(?:\[[^\[\]]*\])?(?:\([a-z0-9_]+\))?"
_SPLIT = re.compile(rf"(?P<location>.+?):(?P<split>(?=[\w\[]){_PART}(?:\+{_PART})*)")
_SLICE = re.compile(r"(?P<location>.+?)(?P<split>\[[^\[\]]*:[^\[\]]*\])")
_WEIGHT = re.compile(r"(?P<rest>.+)@(?P<weight>\d+(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class SourceName:
    """One source of rows, as parsed from a `--data` string.

    Attributes:
        text: the string as given.
        location: a local path, or a hub id without its configuration.
        config: the configuration (or data folder) of a hub data set or of a folder that declares some.
        split: split, slice or sum of them in the language of `datasets`; None for the default split.
        weight: passes over the examples: 0.5 takes a seeded half, 2 takes each twice.
    """

    text: str
    location: str
    config: str | None
    split: str | None
    weight: float


def parse_source(text: str) -> SourceName:
    """Return the parts of `LOCATION[:SPLIT][@WEIGHT]`.

    A whole string that exists as a path is that path. A location of three or more parts that does not exist and does
    not look like a path is a hub id with its configuration: `org/name/config`.

    Raises:
        UserError: for an empty string, a weight of zero, or a URL.
    """
    location, split, weight = text.strip(), None, 1.0
    if not os.path.exists(location):
        if match := _WEIGHT.fullmatch(location):
            location, weight = match["rest"], float(match["weight"])
        if not os.path.exists(location):
            found = _SPLIT.fullmatch(location) or _SLICE.fullmatch(location)
            if found and not (len(found["location"]) == 1 and found["location"].isalpha()):  # "C:name" is a drive
                location, split = found["location"], found["split"]
    if not location:
        raise UserError("A data source is empty.", "Give a file, a folder or a hub id.")
    if weight == 0:
        raise UserError(f"The weight of data source {text!r} is zero.", "Give a weight above zero, or leave it out.")
    if "://" in location:
        raise UserError(
            f"Data source {text!r} is a URL.", "Download the file first, or give a hub id such as org/name."
        )
    config = None
    if location in STANDARD_INPUT or is_pattern(location):
        return SourceName(text, location, None, split, weight)
    if not os.path.exists(location) and declares_configs(Path(location).parent):
        location, config = os.path.split(location)
    elif not os.path.exists(location) and not looks_like_path(location):
        owner, name, *rest = [*location.split("/"), ""]
        config = "/".join(rest).strip("/") or None
        location = f"{owner}/{name}".strip("/")
    return SourceName(text, location, config, split, weight)


def is_standard_input(text: str) -> bool:
    """Return whether a `--data` string means standard input, which can be read once."""
    return parse_source(text).location in STANDARD_INPUT


def is_pattern(location: str) -> bool:
    """Return whether a location is a pattern (`data/*.jsonl`) and not the name of a file."""
    return glob.has_magic(location) and not os.path.lexists(os.path.expanduser(location))


def looks_like_path(location: str) -> bool:
    """Return whether a missing location was meant as a path and not as a hub id."""
    return (
        location.startswith((".", "/", "~", "\\"))
        or "\\" in location
        or re.match(r"[A-Za-z]:", location) is not None
        or plain_suffix(Path(location)) in READERS
    )


def declares_configs(folder: Path) -> bool:
    """Return whether a folder is a copy of a hub data set whose card names configurations."""
    card = folder / "README.md"
    return card.is_file() and re.search(r"^configs:", card.read_text(errors="replace"), re.M) is not None


def neighbour(path: Path) -> str:
    """Return a hint with the name most like a missing path, in the nearest folder that exists."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    names = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    close = nearest(missing.name, names)
    if close:
        return f"Did you mean {str(missing.parent / close)!r}?"
    return "Give an existing file or folder, or a hub id such as org/name."
