"""Read rows and examples from sources: local files, folders, hub data sets, and weighted mixtures.

Local files are read without the cache of `datasets` and without a network; which files of a folder make up a split,
what a slice means and everything on a hub is left to `datasets`. This module knows nothing of columns and of what they
mean.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokenq.data.bad_rows import BadRowsError
from tokenq.data.examples import ReadResult
from tokenq.data.files.folders import local_pieces
from tokenq.data.files.hub import hub_piece
from tokenq.data.files.local import STANDARD_INPUT, Piece, Row, given_rows, read_standard_input
from tokenq.data.files.slices import sliced
from tokenq.data.files.source_language import SourceName, parse_source
from tokenq.errors import UserError
from tokenq.records.examples import Example, Text

Pieces = Mapping[str, Sequence[Piece]]
"""The files and tables of a source by split."""

WHOLE = ""
"""In place of a split: a table that is just what the source names, its slice taken."""


def read_rows(source: SourceName, pieces: Pieces | None = None) -> list[Row]:
    """Return the rows of one source, sliced and not yet weighted.

    Args:
        source: names it.
        pieces: what `pieces_of` found there; None looks.

    Raises:
        UserError: when the source does not exist, is damaged, or has no such split.
    """
    if source.location in STANDARD_INPUT:
        return sliced({"train": read_standard_input()}, source)
    found = pieces or pieces_of(source)
    rows = {split: [row for piece in pieces for row in piece.rows()] for split, pieces in found.items()}
    return rows[WHOLE] if WHOLE in rows else sliced(rows, source)


def pieces_of(source: SourceName) -> Pieces:
    """Return the files and tables of a source.

    Raises:
        UserError: when the source does not exist, or has no such split.
    """
    found = local_pieces(source)
    return {WHOLE: [hub_piece(source)]} if found is None else found


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


def load_examples(
    data: Data, read: Callable[[Sequence[Row]], ReadResult], *, seed: int = 0, pieces: Mapping[str, Pieces] = {}
) -> ReadResult:
    """Return the examples of a mixture of sources, one after the other.

    A source of weight w gives floor(w) passes over its examples and a seeded sample of the rest, in their order. The
    sample of one source does not depend on the others, and a smaller weight takes a subset of a larger one.

    Args:
        data: `--data` strings, or rows in memory.
        read: rows of one source to examples, usually `read_examples` with its options bound.
        seed: decides which examples a fractional weight takes.
        pieces: what `pieces_of` found of sources already.
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
            result = read(read_rows(source, pieces.get(text)))
        except BadRowsError as error:
            error.before = [*examples, *error.before]
            raise
        taken = [result.examples[place] for place in weighted_places(len(result.examples), source, seed)]
        examples += taken
        rows += result.rows
        notes |= dict.fromkeys(result.notes)
        dropped += result.dropped
        if len(taken) < len(result.examples):
            dropped["left out by the weight of its source"] += len(result.examples) - len(taken)
    return ReadResult(examples, rows, dropped, tuple(notes))


class Asked(Protocol):
    """Anything that answers a prompt."""

    @property
    def prompt(self) -> Text:
        """What was asked."""
        ...


E = TypeVar("E", bound=Asked)


def hold_out(examples: Sequence[E], count: float, *, seed: int = 0) -> tuple[list[E], list[E]]:
    """Split examples into (training, held out) by prompt, so that no prompt is on both sides; seeded.

    Args:
        examples: what `load_examples` gave.
        count: held-out examples, more when the last prompt chosen has several; below 1 a share of the prompts, each
            chosen by its own hash (`is_held_out`).
        seed: decides which prompts.

    Raises:
        UserError: when nothing would be left to train on.
    """
    chosen = _by_hash(examples, count, seed) if count < 1 else _by_count(examples, int(count), seed)
    kept = [example for example in examples if example.prompt not in chosen]
    if not kept:
        raise UserError(f"--eval-size {count:g} leaves nothing of {len(examples)} examples.", "Make it smaller.")
    return kept, [example for example in examples if example.prompt in chosen]


def _by_count(examples: Sequence[Asked], count: int, seed: int) -> set[Text]:
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    random.Random(f"{seed} hold out").shuffle(prompts)
    sizes = Counter(example.prompt for example in examples)
    chosen: set[Text] = set()
    held = 0
    for prompt in prompts:
        if held >= count:
            break
        chosen.add(prompt)
        held += sizes[prompt]
    return chosen


def _by_hash(examples: Sequence[Asked], share: float, seed: int) -> set[Text]:
    return {example.prompt for example in examples if is_held_out(example.prompt, share, seed)}


def is_held_out(prompt: Text, share: float, seed: int) -> bool:
    """Return whether a prompt is among a share of all prompts, whatever else the data hold: its rank is low."""
    return bool(share) and bool(prompt_ranks(np.array([prompt_hash(prompt)], np.uint64), seed)[0] < share)


def prompt_hash(prompt: Text) -> int:
    """Return a hash of a prompt, 64 bits."""
    said = prompt if isinstance(prompt, str) else [[*turn.to_dict().values()] for turn in prompt]
    return int.from_bytes(hashlib.blake2b(json.dumps(said).encode(), digest_size=8).digest(), "big")


def prompt_ranks(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each hash of a prompt, even over all prompts and another for each seed.

    The mixing is that of SplitMix64 (Steele, Lea, Flood 2014).
    """
    begin = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big")
    mixed = hashes ^ np.uint64(begin)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)  # modulo 2**64
    return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64


def weighted_places(count: int, source: SourceName, seed: int) -> Sequence[int]:
    """Return the places of the examples that a source's weight takes: all of them in each pass, then some."""
    passes = int(source.weight)
    some = round((source.weight - passes) * count)
    if passes == 1 and not some:
        return range(count)
    order = list(range(count))
    random.Random(f"{seed} {source.location} {source.config} {source.split}").shuffle(order)
    return [*range(count)] * passes + sorted(order[:some])
