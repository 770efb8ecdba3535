"""Read rows and examples from sources: local files, folders, hub data sets, and weighted mixtures.

Local files are read without the cache of `datasets` and without a network; which files of a folder make up a split,
what a slice means and everything on a hub is left to `datasets`. This module knows nothing of columns and of what they
mean.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.data.bad_rows import BadRowsError
from tokenq.data.examples import ReadResult
from tokenq.data.files.folders import folder_rows, pattern_rows
from tokenq.data.files.hub import hub_rows
from tokenq.data.files.local import STANDARD_INPUT, Row, given_rows, read_file, read_standard_input
from tokenq.data.files.slices import sliced
from tokenq.data.files.source_language import SourceName, is_pattern, looks_like_path, neighbour, parse_source
from tokenq.errors import UserError
from tokenq.records.examples import Example


def read_rows(source: SourceName) -> list[Row]:
    """Return the rows of one source, sliced and not yet weighted.

    Raises:
        UserError: when the source does not exist, is damaged, or has no such split.
    """
    if source.location in STANDARD_INPUT:
        return sliced({"train": read_standard_input()}, source)
    path = Path(source.location).expanduser()
    if path.is_dir():
        return folder_rows(path, source)
    if is_pattern(source.location):
        return pattern_rows(source)
    if path.exists():
        rows = read_file(path, source.location)
        return sliced({"train": rows}, source)
    if looks_like_path(source.location):
        raise UserError(f"There is no file or folder {source.location!r}.", neighbour(path))
    return hub_rows(source)


Data = Sequence[str] | Sequence[Mapping[str, Any]]
"""Sources as `--data` has them, or rows that are in memory."""


def tables_of(data: Data) -> list[list[Row]]:
    """Return the rows of each source, not yet weighted; rows in memory are one table.

    Raises:
        UserError: as `read_rows`.
    """
    named = [one for one in data if isinstance(one, str)]
    if named:
        return [read_rows(parse_source(one)) for one in named]
    return [given_rows([dict(one) for one in data if not isinstance(one, str)])]


def load_examples(data: Data, read: Callable[[Sequence[Row]], ReadResult], *, seed: int = 0) -> ReadResult:
    """Return the examples of a mixture of sources, one after the other.

    A source of weight w gives floor(w) passes over its examples and a seeded sample of the rest, in their order. The
    sample of one source does not depend on the others, and a smaller weight takes a subset of a larger one.

    Args:
        data: `--data` strings, or rows in memory.
        read: rows of one source to examples, usually `read_examples` with its options bound.
        seed: decides which examples a fractional weight takes.
    """
    if not data:
        raise UserError("No data source is given.", "Name one with --data FILE, --data FOLDER or --data HUB_ID.")
    examples: list[Example] = []
    notes: dict[str, None] = {}
    dropped: Counter[str] = Counter()
    rows = 0
    sources = [one for one in data if isinstance(one, str)]
    if not sources:
        return read(tables_of(data)[0])
    for text in sources:
        source = parse_source(text)
        try:
            result = read(read_rows(source))
        except BadRowsError as error:
            error.before = [*examples, *error.before]
            raise
        taken = _weighted(result.examples, source, seed)
        examples += taken
        rows += result.rows
        notes |= dict.fromkeys(result.notes)
        dropped += result.dropped
        if len(taken) < len(result.examples):
            dropped["left out by the weight of its source"] += len(result.examples) - len(taken)
    return ReadResult(examples, rows, dropped, tuple(notes))


def hold_out(examples: Sequence[Example], count: int, *, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Split examples into (training, held out) by prompt, so that no prompt is on both sides; seeded.

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


def _weighted(examples: Sequence[Example], source: SourceName, seed: int) -> list[Example]:
    passes = int(source.weight)
    count = round((source.weight - passes) * len(examples))
    order = list(range(len(examples)))
    random.Random(f"{seed} {source.location} {source.config} {source.split}").shuffle(order)
    return [*examples] * passes + [examples[index] for index in sorted(order[:count])]
