"""The rows of a finished run, read again from where they were."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tokenq.data.examples import read_examples
from tokenq.data.sources import hold_out, load_examples
from tokenq.data.streams.groups import EVALUATED_ROWS, FIRST_ROWS, first_of_streams
from tokenq.records.examples import Example
from tokenq.runs.record import RunRecord


def data_of_run(record: RunRecord) -> tuple[Any, Sequence[Example], Sequence[Example]]:
    """Return the rows of a run's sources, its training data, and its held-out data; of a stream the first rows.

    Raises:
        UserError: the rows are no longer there, or cannot be read.
    """
    settings = record.config
    given = {name: settings[name] for name in ("columns", "style", "pairing", "same_length") if name in settings}
    read = partial(read_examples, selection=record.loss.selection, bad_rows="drop", **given)
    seed = int(settings.get("seed", 0))
    if settings.get("streaming"):  # what a run keeps of it are its first rows
        ahead = EVALUATED_ROWS if settings.get("eval_size") else FIRST_ROWS
        columns = settings.get("columns") or {}
        _, found = first_of_streams(settings["data"], record.loss.selection, columns, read, ahead)
    else:
        found = load_examples(settings["data"], read, seed=seed)
    kept, held_out = found.examples, found.examples[:0]
    if settings.get("eval_data"):
        held_out = load_examples(settings["eval_data"], read, seed=seed).examples
    elif settings.get("eval_size"):
        kept, held_out = hold_out(kept, settings["eval_size"], seed=seed)
    return found, kept, held_out
