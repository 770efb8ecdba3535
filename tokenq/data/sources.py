"""A `--data` string to rows: local files, folders, hub data sets, slices of them, and mixtures with weights.

The syntax is `LOCATION[:SPLIT][@WEIGHT]`; docs/data.md gives it in full. Local files are read here without the cache
of `datasets` and without a network; which files of a folder make up a split, what a slice means and everything on a
hub is left to `datasets`. This module knows nothing of columns and of what they mean.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.data.examples import ReadResult
from tokenq.data.files import READERS, Row, data_suffix, read_file, table_rows
from tokenq.errors import UserError, nearest, unknown_name
from tokenq.records import Example

_PART = r"(?:\w+(?:\.\w+)*)?(?:\[[^\[\]]*\])?(?:\([a-z0-9_]+\))?"
_SPLIT = re.compile(rf"(?P<location>.+?):(?P<split>(?=[\w\[]){_PART}(?:\+{_PART})*)")
_SLICE = re.compile(r"(?P<location>.+?)(?P<split>\[[^\[\]]*:[^\[\]]*\])")
_WEIGHT = re.compile(r"(?P<rest>.+)@(?P<weight>\d+(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class Source:
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


def parse_source(text: str) -> Source:
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
    if not os.path.exists(location) and _declares_configs(Path(location).parent):
        location, config = os.path.split(location)
    elif not os.path.exists(location) and not _looks_like_path(location):
        owner, name, *rest = [*location.split("/"), ""]
        config = "/".join(rest).strip("/") or None
        location = f"{owner}/{name}".strip("/")
    return Source(text, location, config, split, weight)


def read_rows(source: Source) -> list[Row]:
    """Return the rows of one source, with its slice applied and its weight not.

    Raises:
        UserError: when the source does not exist, is damaged, or has no such split.
    """
    path = Path(source.location).expanduser()
    if path.is_dir():
        return _folder_rows(path, source)
    if path.exists():
        rows = read_file(path, source.location)
        return _sliced({"train": rows}, source)
    if _looks_like_path(source.location):
        raise UserError(f"There is no file or folder {source.location!r}.", _neighbour(path))
    return _hub_rows(source)


def load_examples(sources: Sequence[str], read: Callable[[Sequence[Row]], ReadResult], *, seed: int = 0) -> ReadResult:
    """Return the examples of a mixture of sources, one after the other.

    A source of weight w gives floor(w) passes over its examples and a seeded sample of the rest, in their order. The
    sample of one source does not depend on the others, and a smaller weight takes a subset of a larger one.

    Args:
        sources: `--data` strings.
        read: rows of one source to examples, usually `read_examples` with its options bound.
        seed: decides which examples a fractional weight takes.
    """
    if not sources:
        raise UserError("No data source is given.", "Name one with --data FILE, --data FOLDER or --data HUB_ID.")
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    rows = 0
    for text in sources:
        source = parse_source(text)
        result = read(read_rows(source))
        taken = _weighted(result.examples, source, seed)
        examples += taken
        rows += result.rows
        dropped += result.dropped
        if len(taken) < len(result.examples):
            dropped["left out by the weight of its source"] += len(result.examples) - len(taken)
    return ReadResult(examples, rows, dropped)


def hold_out(examples: Sequence[Example], count: int, *, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Return (kept, held out): a seeded choice of whole prompts, so that no prompt is on both sides.

    Args:
        examples: what `load_examples` gave.
        count: held-out examples; more when the last prompt chosen has several.
        seed: decides which prompts.

    Raises:
        UserError: when nothing would be left to train on.
    """
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    random.Random(f"{seed} hold out").shuffle(prompts)
    sizes = Counter(example.prompt for example in examples)
    chosen: set[Any] = set()
    held = 0
    for prompt in prompts:
        if held >= count:
            break
        chosen.add(prompt)
        held += sizes[prompt]
    kept = [example for example in examples if example.prompt not in chosen]
    if not kept:
        raise UserError(f"--eval-size {count} leaves nothing of {len(examples)} examples.", "Make it smaller.")
    return kept, [example for example in examples if example.prompt in chosen]


def _weighted(examples: Sequence[Example], source: Source, seed: int) -> list[Example]:
    passes = int(source.weight)
    count = round((source.weight - passes) * len(examples))
    order = list(range(len(examples)))
    random.Random(f"{seed} {source.location} {source.config} {source.split}").shuffle(order)
    return [*examples] * passes + [examples[index] for index in sorted(order[:count])]


def _folder_rows(path: Path, source: Source) -> list[Row]:
    from datasets import Dataset, load_dataset_builder, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        tables = {"train": saved} if isinstance(saved, Dataset) else {str(name): saved[name] for name in saved}
        names = _resolved(source, list(tables))
        return _sliced({name: table_rows(tables[name], f"{source.location}, {name}") for name, _ in names}, source)
    try:
        builder = load_dataset_builder(str(path.resolve()), source.config)
    except (OSError, ValueError) as error:
        raise UserError(
            f"Folder {source.location!r} cannot be read as data: {_first_line(error)}",
            f"Give a folder with data files ({', '.join(sorted(READERS))}) or one written by save_to_disk.",
        ) from error
    files: Mapping[str, Sequence[str]] = {str(split): found for split, found in builder.config.data_files.items()}
    rows: dict[str, list[Row]] = {}
    for split, _ in _resolved(source, list(files)):
        rows[split] = []
        for file in sorted(files[split]):
            shown = os.path.join(source.location, os.path.relpath(file, path.resolve()))
            rows[split] += read_file(Path(file), shown)
    return _sliced(rows, source)


def _hub_rows(source: Source) -> list[Row]:
    from datasets import get_dataset_split_names, load_dataset
    from datasets.exceptions import DatasetsError

    def load(**which: str) -> list[Row]:
        try:
            spec = source.split if source.split and source.split[0] != "[" else f"train{source.split or ''}"
            table = load_dataset(source.location, split=spec, **which)
        except ValueError:
            # No split "train", or one that does not exist: ask for the names, take the only one or name them all.
            splits = [str(name) for name in get_dataset_split_names(source.location, **_renamed(which))]
            spec = "+".join(name + piece for name, piece in _resolved(source, splits))
            table = load_dataset(source.location, split=spec, **which)
        return table_rows(table, ":".join(("/".join((source.location, *which.values())), spec)))

    try:
        if source.config is None:
            return load()
        try:
            return load(name=source.config)
        except ValueError as error:
            # Some data sets keep their parts in folders and declare no configurations: take the name as a folder.
            try:
                return load(data_dir=source.config)
            except (OSError, ValueError, DatasetsError):
                raise error from None
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"{source.text!r} is no local file or folder, and reading it from the hub failed: {_first_line(error)}",
            _neighbour(Path(source.location)),
        ) from error


def _renamed(which: Mapping[str, str]) -> dict[str, str]:
    return {"config_name" if key == "name" else key: value for key, value in which.items()}


def _resolved(source: Source, available: Sequence[str]) -> list[tuple[str, str]]:
    """Return the (split, slice) parts that a source asks for; the default is "train", or the only split."""
    parts = []
    for part in re.split(r"\+(?![^\[]*\])", source.split or ""):
        match = re.match(r"[\w.]*", part)
        name = match[0] if match else ""
        if not name and "train" not in available and len(available) > 1:
            raise UserError(
                f"{source.location!r} has no split 'train'.",
                f"Name one of {', '.join(available)}, as in {source.location}:{available[0]}.",
            )
        chosen = name or ("train" if "train" in available else available[0])
        if chosen not in available:
            raise unknown_name(f"split of {source.location!r}", chosen, available)
        parts.append((chosen, part[len(name) :]))
    return parts


def _sliced(rows: Mapping[str, list[Row]], source: Source) -> list[Row]:
    """Return the rows that the split of a source asks for, read as `datasets` reads it."""
    from datasets import ReadInstruction

    spec = "+".join(name + piece for name, piece in _resolved(source, list(rows)))
    try:
        pieces: Any = ReadInstruction.from_spec(spec).to_absolute({name: len(found) for name, found in rows.items()})
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"The slice of data source {source.text!r} cannot be taken: {_first_line(error)}",
            "Write a slice as [100:200], [:10%] or train[:1000].",
        ) from error
    taken = [row for piece in pieces for row in rows[piece.splitname][piece.from_ : piece.to]]
    if not taken:
        raise UserError(f"The slice of data source {source.text!r} holds no rows.", "Widen the slice.")
    return taken


def _looks_like_path(location: str) -> bool:
    """Return whether a location that does not exist was meant as a path and not as a hub id."""
    return (
        location.startswith((".", "/", "~", "\\"))
        or "\\" in location
        or re.match(r"[A-Za-z]:", location) is not None
        or data_suffix(Path(location)) in READERS
    )


def _declares_configs(folder: Path) -> bool:
    """Return whether a folder is a copy of a hub data set whose card names configurations."""
    card = folder / "README.md"
    return card.is_file() and re.search(r"^configs:", card.read_text(errors="replace"), re.M) is not None


def _neighbour(path: Path) -> str:
    """Return a hint that names what is spelt most like a missing path, in the nearest folder that exists."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    names = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    close = nearest(missing.name, names)
    if close:
        return f"Did you mean {str(missing.parent / close)!r}?"
    return "Give an existing file or folder, or a hub id such as org/name."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
