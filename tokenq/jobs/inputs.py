"""Models and data as a job is given them: named, or in memory.

A training writes down what is in memory: its run is then what it is from files.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union, cast

from tokenq.data.examples import ReadResult, read_examples
from tokenq.data.files.local import Row
from tokenq.data.sources import Data, load_examples
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.files import folder_aside, write_json_lines
from tokenq.jobs.run import Run
from tokenq.records.episodes import Episode
from tokenq.runs.places import policy_in, run_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokenq.models.load import ModelSpec
    from tokenq.models.loaded import Loaded

Name = str | PathLike[str]

InMemory: TypeAlias = Union["PreTrainedModel", tuple["PreTrainedModel", "PreTrainedTokenizerBase"]]
"""A model of transformers that is loaded already, alone or with its tokenizer."""

RowsInMemory = Any
"""A datasets.Dataset, a pandas frame or a sequence of dictionaries."""


LOADED = ("beta", "dtype", "device", "attention", "trust_remote_code", "condition")
"""Options that a search shares with what is loaded."""


@dataclass(frozen=True)
class Options:
    """How models are loaded and read: the settings of `tokenq.load`, which has a line for each."""

    beta: float = 0.1
    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False
    top_k: int = 5
    levels: Sequence[str] = ("word", "sentence")
    max_length: int | None = None
    tokens_per_batch: int = 4096
    base: str | None = None
    condition: Mapping[str, float] = field(default_factory=dict)

    def spec(self, path: str) -> "ModelSpec":
        """Return the specification of a model under these options."""
        from tokenq.models.load import ModelSpec

        code = self.trust_remote_code
        return ModelSpec(path, self.dtype, self.device, trust_remote_code=code, base=self.base)


class NamedInput(NamedTuple):
    """A model or data by the name that a configuration has for it.

    Attributes:
        names: sources of data, or the name of a model.
        write: writes down what was given in memory; does nothing where it was named.
    """

    names: list[str]
    write: Callable[[], None] = lambda: None


def spec_of(
    model: Name | Run | InMemory, tokenizer: "PreTrainedTokenizerBase | None" = None, **options: Any
) -> "ModelSpec":
    """Return the specification of a model, whatever it is given as.

    Args:
        model: a folder, a hub id, a run or its folder (its policy is meant), a model of `transformers` or `peft`, or
            (model, tokenizer).
        tokenizer: of a loaded model.
        **options: fields of `ModelSpec`: dtype, device, …

    Raises:
        UserError: a loaded model without its tokenizer, a tokenizer without a loaded model, or something else.
    """
    from tokenq.models.load import ModelSpec

    folder = run_folder(model)
    if folder is not None:
        return ModelSpec(str(policy_in(folder)), **options)
    loaded = _in_memory(model, tokenizer)
    if loaded is not None:
        return ModelSpec(loaded.name, loaded=loaded, **options)
    return ModelSpec(fspath(cast(Name, model)), **options)


def model_source(model: Name | InMemory, tokenizer: "PreTrainedTokenizerBase | None", folder: Path) -> NamedInput:
    """Return the name of a model.

    Args:
        model: a folder or hub id, a model of `transformers`, or (model, tokenizer).
        tokenizer: of a loaded model.
        folder: where a loaded one is written; the caller's own is not touched.

    Raises:
        UserError: a loaded model without its tokenizer, a tokenizer without a loaded model, or something else.
    """
    loaded = _in_memory(model, tokenizer)
    if loaded is None:
        return NamedInput([str(model)])
    from tokenq.models.forward.packed_lm import is_peft

    if is_peft(loaded.model):
        raise _no_model(loaded.model)
    return NamedInput([str(folder)], partial(_write_model, loaded, folder))


def _in_memory(model: Any, tokenizer: Any) -> "Loaded | None":
    """Return a model that is given in memory, None for one that is named."""
    if isinstance(model, str | PathLike):
        if tokenizer is not None:
            raise UserError(
                "A tokenizer is given for a model that is named.", "A named model brings its own: leave it out."
            )
        return None
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokenq.models.forward.packed_lm import is_peft
    from tokenq.models.loaded import Loaded

    live, own = model if isinstance(model, tuple) and len(model) == 2 else (model, tokenizer)
    if not isinstance(live, PreTrainedModel) and not (isinstance(live, nn.Module) and is_peft(live)):
        raise _no_model(live)
    if not isinstance(own, PreTrainedTokenizerBase):
        raise UserError("A loaded model is given without its tokenizer.", "Give tokenizer=…, or (model, tokenizer).")
    return Loaded(live, own)


def _no_model(given: object) -> UserError:
    return UserError(
        f"A {type(given).__name__} is no model.",
        "Give a folder, a hub id, a model of transformers with tokenizer=…, or (model, tokenizer).",
    )


def _write_model(loaded: "Loaded", folder: Path) -> None:
    model: Any = loaded.model
    with folder_aside(folder) as aside:
        model.save_pretrained(aside)
        loaded.tokenizer.save_pretrained(aside)


def models_given(
    models: Mapping[str, Name | InMemory | None], tokenizer: "PreTrainedTokenizerBase | None"
) -> tuple[dict[str, str | None], dict[str, "Loaded"]]:
    """Return the names of models by role, and the models that are in memory.

    Args:
        models: by role, the policy first.
        tokenizer: of loaded models that come without one.

    Raises:
        UserError: a loaded model without its tokenizer, a tokenizer without a loaded model, or something else.
    """
    names: dict[str, str | None] = {}
    found: dict[str, Loaded] = {}
    for role, model in models.items():
        shared = role != "policy" and isinstance(model, str | PathLike)
        loaded = None if model is None else _in_memory(model, None if shared else tokenizer)
        if loaded is not None:
            found[role], names[role] = loaded, loaded.name
        else:
            names[role] = None if model is None else fspath(cast(Name, model))
    return names, found


def settings_given(
    keywords: Mapping[str, Any], data: str, own: Collection[str]
) -> tuple[dict[str, Any], dict[str, "Loaded"], Data]:
    """Return the settings of a job as its configuration has them, the models in memory by role, and the data.

    Args:
        keywords: of the job, among them policy, reference, run and tokenizer.
        data: the keyword that has data.
        own: keywords of the job that its configuration does not have.

    Raises:
        UserError: a model or data is nothing that can be read.
    """
    given, in_memory = pair_given(keywords, own)
    sources, rows = data_given(keywords[data])
    return given | {data: sources}, in_memory, rows


def pair_given(keywords: Mapping[str, Any], own: Collection[str]) -> tuple[dict[str, Any], dict[str, "Loaded"]]:
    """Return the settings of a job that reads no data as its configuration has them, and the models in memory by role.

    Args:
        keywords: of the job, among them policy, reference, run and tokenizer.
        own: keywords of the job that its configuration does not have.

    Raises:
        UserError: a model is nothing that can be read.
    """
    given = {name: value for name, value in keywords.items() if name not in own}
    tokenizer = given.pop("tokenizer")
    if isinstance(given["policy"], Run):
        given |= {"policy": None, "run": given["policy"]}
    names, in_memory = models_given({role: given[role] for role in ("policy", "reference")}, tokenizer)
    given |= names
    return {name: fspath(v) if isinstance(v, PathLike) else v for name, v in given.items()}, in_memory


def data_given(data: Name | RowsInMemory) -> tuple[list[str], Data]:
    """Return the names of data, and the sources or the rows themselves.

    Args:
        data: a source or a list of sources as `--data` takes them, a `datasets.Dataset`, a pandas frame, a list of
            dictionaries, or episodes.

    Raises:
        UserError: the rows are something else.
    """
    if isinstance(data, str | PathLike):
        names = [str(data)]
        return names, names
    if isinstance(data, Mapping):
        raise UserError("The data is one dictionary.", "Give a list of rows, or one split of a DatasetDict.")
    frame = type(data).__name__ == "DataFrame"
    rows = data.to_dict(orient="records") if frame else list(data)
    if all(isinstance(row, str | PathLike) for row in rows):
        names = [str(row) for row in rows]
        return names, names
    rows = [row.to_dict() if isinstance(row, Episode) else row for row in rows]
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise UserError(
            f"A {type(odd).__name__} is no row of data.", "Give dictionaries with one key a column, or names of files."
        )
    return ["rows in memory"], rows


def is_stream(data: Any) -> bool:
    """Return whether data are rows of unknown number.

    Such are a `datasets.IterableDataset`, an iterator, a function that returns one, and whatever else can be iterated
    over and has no length.
    """
    return callable(data) or (isinstance(data, Iterable) and not isinstance(data, Sized | str | PathLike))


def data_source(
    data: Name | RowsInMemory, path: Path, plain: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> NamedInput:
    """Return the sources of data; rows in memory are written to `path`, one JSON object per line.

    Args:
        data: names, or rows.
        path: where rows are written.
        plain: makes rows of them that JSON has.

    Raises:
        UserError: the rows are something else, or cannot be written.
    """
    names, given = data_given(data)
    return NamedInput(names) if given is names else NamedInput([str(path)], partial(_write_rows, given, path, plain))


def _write_rows(rows: Iterable[Any], path: Path, plain: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(path, plain(rows))
    except (TypeError, ValueError) as problem:
        raise UserError(f"The rows cannot be written as JSON: {problem}.", "Use texts, numbers and lists.") from None


def examples_of(data: Data, columns: Mapping[str, str], bad_rows: str, style: str, seed: int) -> ReadResult:
    """Return all responses of data as examples, and what was left out.

    Args:
        data: sources as `--data` has them, or rows.
        columns: the data set's names for columns of ours.
        bad_rows: "error" or "drop".
        style: "as_given" or "chat".
        seed: of the sample that a weighted source gives.

    Raises:
        UserError: there is no such source, or a row cannot be used and is not to be left out.
    """
    read = partial(read_examples, selection="all", columns=columns, bad_rows=bad_rows, style=style)
    return load_examples(data, lambda rows: read([_unambiguous(row) for row in rows]), seed=seed)


def _unambiguous(row: Row) -> Row:
    """Return a row; one that holds both a pair and a single response is a bad row."""
    single = sorted({"response", "completion"}.intersection(row.values))
    if not single or "chosen" not in row.values:
        return row
    said = f"it has both {single[0]!r} and 'chosen'"
    return replace(row, fault=BadRow("a pair and a response", said, "Score one of the two: remove the other column."))
