"""What a job is given in memory, a loaded model or rows, written down: a run is then what it is from files."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenq.errors import UserError
from tokenq.files import folder_aside, write_json_lines

Name = str | PathLike[str]

Loaded: TypeAlias = PreTrainedModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]

Rows = Any
"""A datasets.Dataset, a pandas frame or a sequence of dictionaries."""


class Source(NamedTuple):
    """What a configuration names.

    Attributes:
        names: sources of data, or the name of a model.
        write: writes down what was given in memory; does nothing where it was named.
    """

    names: list[str]
    write: Callable[[], None] = lambda: None


def model_source(model: Name | Loaded, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> Source:
    """Return the name of a model.

    Args:
        model: a folder or hub id, a model of `transformers`, or (model, tokenizer).
        tokenizer: of a loaded model.
        folder: where a loaded one is written; the caller's own is not touched.

    Raises:
        UserError: a loaded model without its tokenizer, a tokenizer without a loaded model, or something else.
    """
    if isinstance(model, str | PathLike):
        if tokenizer is not None:
            raise UserError(
                "A tokenizer is given for a model that is named.", "A named model brings its own: leave it out."
            )
        return Source([str(model)])
    loaded: Any
    loaded, own = model if isinstance(model, tuple) and len(model) == 2 else (model, tokenizer)
    if not isinstance(loaded, PreTrainedModel):
        raise UserError(
            f"A {type(loaded).__name__} is no model.",
            "Give a folder, a hub id, a model of transformers with tokenizer=…, or (model, tokenizer).",
        )
    if not isinstance(own, PreTrainedTokenizerBase):
        raise UserError("A loaded model is given without its tokenizer.", "Give tokenizer=…, or (model, tokenizer).")
    return Source([str(folder)], partial(_write_model, loaded, own, folder))


def _write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    with folder_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def data_source(data: Name | Rows, path: Path) -> Source:
    """Return the sources of data.

    Args:
        data: a source or a list of sources as `--data` takes them, a `datasets.Dataset`, a pandas frame, or a list of
            dictionaries.
        path: where rows are written, one JSON object a line.

    Raises:
        UserError: the rows are something else, or cannot be written.
    """
    if isinstance(data, str | PathLike):
        return Source([str(data)])
    if isinstance(data, Mapping):
        raise UserError("The data is one dictionary.", "Give a list of rows, or one split of a DatasetDict.")
    frame = type(data).__name__ == "DataFrame"
    rows = data.to_dict(orient="records") if frame else list(data)
    if all(isinstance(row, str | PathLike) for row in rows):
        return Source([str(row) for row in rows])
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise UserError(
            f"A {type(odd).__name__} is no row of data.", "Give dictionaries with one key a column, or names of files."
        )
    return Source([str(path)], partial(_write_rows, rows, path))


def _write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(path, rows)
    except (TypeError, ValueError) as problem:
        raise UserError(f"The rows cannot be written as JSON: {problem}.", "Use texts, numbers and lists.") from None
