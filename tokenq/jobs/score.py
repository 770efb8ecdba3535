"""Responses read token by token, by a policy and its reference: in memory, or into a file that a kill does not lose."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

import tokenq
from tokenq.data.bad_rows import first_named
from tokenq.data.digest import data_digest, group_digest
from tokenq.data.examples import ReadResult
from tokenq.data.sources import Data
from tokenq.data.summary import DataSummary
from tokenq.errors import UserError
from tokenq.files import plain
from tokenq.jobs.drawing.score import reads_pictures, scored_pictures
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, Options, RowsInMemory, examples_of, settings_given
from tokenq.jobs.load import open_reader, open_rewards
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.reader import Reader
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.options import SegmentOptions
from tokenq.records.trace_columns import TABLE_SCHEMA
from tokenq.records.trace_files import frame_of, read_traces, rows_of_frame, traces_of_frame, write_traces
from tokenq.records.traces import TokenTrace
from tokenq.report.notebook import Traces
from tokenq.report.pictures.read import PictureTraces
from tokenq.rundir import provenance
from tokenq.runs.places import home_of, models_of_run
from tokenq.score.config import ScoreConfig
from tokenq.score.health import pair_warnings
from tokenq.score.rows import ScoredRow

_LOOKED_AT = 64
"""Traces by which the pair of models is judged."""


def score(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    policy: Name | InMemory | Run | None = None,
    data: Name | RowsInMemory = (),
    output: Name | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    reference: Name | InMemory | None = None,
    run: Name | Run | None = None,
    base: str | None = None,
    beta: float | None = None,
    reward_model: str | None = None,
    reward_weights: Mapping[str, str] = {},
    prompt: str | None = None,
    response: str | None = None,
    refiner: Name | None = None,
    refiner_reference: Name | None = None,
    image_beta: float | None = None,
    noise_draws: int = 32,
    condition: Mapping[str, float] = {},
    columns: Mapping[str, str] = {},
    bad_rows: Literal["error", "drop"] = "error",
    style: Literal["as_given", "chat"] = "as_given",
    max_length: int | None = None,
    html: Name | None = None,
    figure: Name | None = None,
    png: Name | None = None,
    overwrite: bool = False,
    levels: Sequence[str] = ("word", "sentence"),
    top_k: int = 5,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    tokens_per_batch: int = 4096,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Traces | PictureTraces:
    """Read responses token by token, or pictures step by step, and return their traces.

    The settings are those of `tokenq score` (`tokenq score --help` has a line each). With an output, the same call goes
    on where a killed one stopped.

    Args:
        policy: a folder, a hub id, a loaded model of `transformers`, (model, tokenizer), or a run.
        data: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: file of traces; they stay in memory without one.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    given, in_memory, rows = settings_given(locals(), "data", ("listener",))
    config = ScoreConfig(**given)
    with untouched():
        if "policy" not in in_memory and reads_pictures(config):
            return scored_pictures(config, listener, rows)
        return scored(config, listener, in_memory, rows)


def scored(
    config: ScoreConfig,
    listener: Listener,
    in_memory: Mapping[str, Loaded] = {},
    data: Data | None = None,
) -> Traces:
    """Score what `config` says, write what it asks for, and return the traces.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        in_memory: models by their role, instead of files of that name.
        data: instead of the files that the configuration names.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    config.check_texts()
    files = [Path(name) for name in (config.output, config.html, config.figure) if name is not None]
    with claimed("tokenq score", files, overwrite=config.overwrite):
        state = PartialState(cpu=config.device == "cpu")
        first = state.is_main_process
        listener = listener if first else SILENCE
        reader = reader_of(config, str(state.device), listener, in_memory)
        rows, summary = rows_of(config, reader, listener, data)
        if config.data:
            listener.say(f"data: {summary.line()}")
        about = reader.title, _page_record(config, reader)

        def look(found: Iterable[TokenTrace] | Path) -> None:
            if first:
                _show(Traces(found, *about), config, listener)

        if config.output is None:
            traces = [trace for row in reader.traces(rows) for trace in row]
            look(traces)
            return Traces(traces, *about)
        score_to_file(Path(config.output), reader, rows, asdict(config), listener, look=look)
        return Traces(Path(config.output), *about)


def _show(traces: Traces, config: ScoreConfig, listener: Listener) -> None:
    """Draw the figure and write the page that are asked for."""
    if config.figure is not None:
        listener.say(f"figure: {traces.figure(config.figure)}")
    if config.html is not None:
        listener.say(f"page: {traces.html(config.html)}")


def reader_of(config: ScoreConfig, device: str, listener: Listener, in_memory: Mapping[str, Loaded] = {}) -> Reader:
    """Return the models that a configuration names.

    Args:
        config: what is asked for.
        device: where to compute, where the configuration leaves that open.
        listener: told what could not be done as asked.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: a model is missing, or two of them do not belong together.
    """
    shared = {name: getattr(config, name) for name in Options.__dataclass_fields__}
    shared |= {"beta": config.beta or 0.1, "device": device if config.device == "auto" else config.device}
    options = Options(**shared)

    def spec(role: str, path: str | None) -> Any:
        if path is None or role not in in_memory:
            return None if path is None else options.spec(path)
        return replace(options.spec(path), loaded=in_memory[role], device=config.device)

    policy, reference, parts = spec("policy", config.policy), spec("reference", config.reference), SegmentOptions()
    run = config.policy if config.run is None and "policy" not in in_memory and home_of(config.policy) else config.run
    if run is not None:
        made = models_of_run(run, options.spec(run))
        policy, reference = made.policy, reference or made.reference
        options = replace(options, beta=config.beta or made.beta or 0.1)
        parts = made.parts_at(options.beta)

    def warn(text: str) -> None:
        listener.say(f"warning: {text}")

    pair = None if policy is None else replace(open_reader(policy, reference, options, warn), parts=parts)
    if config.reward_model is not None:
        return open_rewards(options.spec(config.reward_model), config.reward_weights, options, warn, pair)
    if pair is None:
        raise UserError("Nothing is to read.", "Give --policy, --run or --reward-model.")
    return pair


def rows_of(
    config: ScoreConfig,
    reader: Reader,
    listener: Listener,
    data: Data | None = None,
) -> tuple[list[ScoredRow], DataSummary]:
    """Return the rows to score in the reader's tokens, and a summary of all rows.

    Raises:
        UserError: a row cannot be used, and is not to be left out; the first in the order of the data is named.
    """
    with first_named(reader.rows):
        if config.prompt is not None and config.response is not None:
            found = ReadResult([reader.example(config.prompt, config.response)], 1, Counter())
        else:
            given = config.data if data is None else data
            found = examples_of(given, config.columns, config.bad_rows, config.style, config.seed)
    for note in found.notes:
        listener.say(f"data: {note}")
    rows, summary = reader.rows(found.examples, config.bad_rows)
    dropped = found.dropped + Counter(summary.dropped)
    return rows, replace(summary, rows=found.rows, dropped=dict(dropped.most_common()))


def _page_record(config: ScoreConfig, reader: Reader) -> dict[str, Any]:
    """Return the provenance of traces, for a page."""
    own, other = reader.identities
    read: dict[str, Any] = {"policy": own, "reference": other} if own else {}
    read |= {} if reader.rewards is None else {"reward_model": reader.rewards.identity}
    return provenance(asdict(config), config.seed, read) | ({"beta": reader.options.beta} if own else {})


def score_to_file(
    path: Path,
    reader: Reader,
    rows: Sequence[ScoredRow],
    config: Mapping[str, Any],
    listener: Listener,
    made_by: str = "tokenq score",
    what: Literal["traces", "totals"] = "traces",
    look: Callable[[Iterable[TokenTrace] | Path], None] = lambda _: None,
) -> None:
    """Score the rows and write their traces to `path`, with a record of where they come from beside it.

    A file that holds the whole of the same job is left as it is. What a killed run of it has left behind is taken over,
    and the rest is scored in the batches of an uninterrupted run, so that it is the same to the last bit.

    Args:
        path: `.jsonl` or `.parquet`.
        reader: the models.
        rows: what to score.
        config: what was asked for, for the record.
        listener: told how far it is.
        made_by: the command, for the record.
        what: "totals" leaves the tokens out.
        look: given the traces once they are all there, by the first process: columns that need no parsing.
    """
    state, key = PartialState(), _key(reader, rows, what)
    read = {"traces": reader.traces, "totals": reader.totals}[what]
    listener = listener if state.is_main_process else SILENCE
    parts = Parts(path, key)
    if is_made(path, key):
        listener.say(f"the {what} of {len(rows)} rows are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            _warn(read_traces(path, alternatives=False), listener)
            parts.remove()
            look(path)
        return
    own = rows[parts.mine]
    done = parts.begin()
    if done:
        listener.say(f"going on after {done} of {len(own)} rows that were scored before")
    begin = time.perf_counter()
    for number, traces in enumerate(read(own, done), 1):
        parts.append(frame_of(traces))
        listener(Event("scoring", number, len(own) - done))
    seconds, tokens = time.perf_counter() - begin, sum(row.group.n_tokens for row in own[done:])
    if tokens:
        listener.say(
            f"scored {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s through all models"
        )
    state.wait_for_everyone()
    if state.is_main_process:
        record = {**_record(reader, rows, config), "made_by": made_by, "key": key}
        record["records"] = sum(len(row.texts) for row in rows)
        write_traces(path, map(rows_of_frame, parts.in_order()), recorder(path, lambda: record))
        found = PartTraces(parts)
        _warn(iter(found), listener)
        listener.say(f"done: the {what} of {len(rows)} rows are in {path}")
        look(found)
        parts.remove()


@dataclass(frozen=True)
class PartTraces:
    """The traces of a job that is all but over, read anew from its parts each time they are gone through."""

    parts: Parts

    def __iter__(self) -> Iterator[TokenTrace]:
        """Read the traces."""
        return (trace for frame in self.parts.in_order() for trace in traces_of_frame(frame))


def _warn(traces: Iterator[TokenTrace], listener: Listener) -> None:
    """Say what the first traces tell against the pair of models."""
    for warning in pair_warnings(list(islice(traces, _LOOKED_AT))):
        listener.say(f"warning: {warning}")


def _key(reader: Reader, rows: Sequence[ScoredRow], what: str) -> str:
    """Return a key of all that the traces depend on."""
    options = reader.options
    said = [f"{tokenq.__version__} {TABLE_SCHEMA} {what}", *(one.get("weights", "") for one in reader.identities)]
    said += [] if reader.rewards is None else [repr(reader.rewards.described())]
    parts = [repr(reader.parts)] if reader.parts.segments else []
    said += [repr((options.beta, options.dtype, options.top_k, list(options.levels))), *parts]
    said += [f"{row.id}:{group_digest(row.group)}" for row in rows]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _record(reader: Reader, rows: Sequence[ScoredRow], config: Mapping[str, Any]) -> dict[str, Any]:
    digest = data_digest(row.group for row in rows)
    policy, reference = reader.identities
    identities = {
        "policy": policy or None,
        "reference": reference or None,
        "reward_model": None if reader.rewards is None else reader.rewards.described(),
        "data": {"sources": plain(config["data"]), "sha256": digest},
    }
    return provenance(config, int(config["seed"]), identities)
