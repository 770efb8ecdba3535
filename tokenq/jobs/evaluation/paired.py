"""Pairs that are made of rated responses before they are read, as a training makes them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tokenq.data.examples import read_examples
from tokenq.data.sources import Data, load_examples
from tokenq.evaluation.config import PreferenceConfig
from tokenq.listener import Listener
from tokenq.records.examples import Example
from tokenq.score.config import ScoreConfig

if TYPE_CHECKING:
    from tokenq.jobs.reader import Reader
    from tokenq.score.rows import ScoredRow


def paired_rows(
    asked: PreferenceConfig, config: ScoreConfig, reader: "Reader", listener: Listener, data: Data
) -> tuple[list["ScoredRow"], str]:
    """Return a row for each pair, and what is to be said of them.

    Args:
        asked: says which pairs.
        config: how rows are read.
        reader: the models.
        listener: told what was decided.
        data: sources, or rows.

    Raises:
        UserError: a row cannot be used, or no pair is left.
    """
    pairing = "best_worst" if asked.pairing == "none" else asked.pairing
    read = partial(read_examples, pairing=pairing, same_length=asked.same_length)
    read = partial(read, columns=config.columns, bad_rows=config.bad_rows, style=config.style)
    found = load_examples(data, read, seed=config.seed)
    for note in found.notes:
        listener.say(f"data: {note}")
    rows, summary = reader.rows(_apart(found.examples), config.bad_rows)
    dropped = found.dropped + Counter(summary.dropped)
    return rows, replace(summary, rows=found.rows, dropped=dict(dropped.most_common())).line()


def _apart(examples: Sequence[Example]) -> list[Example]:
    """Return pairs whose names differ, where a row has given several."""
    seen = Counter[str]()
    named = []
    for example in examples:
        seen[example.where] += 1
        count = seen[example.where]
        named.append(example if count == 1 else replace(example, where=f"{example.where}, pair {count}"))
    return named
