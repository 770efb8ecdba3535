"""Tasks that read what a policy and its reference say: preference, localisation, first error, turns."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokenq.data.sources import Data, tables_of
from tokenq.errors import UserError
from tokenq.evaluation.config import (
    FirstErrorConfig,
    LocalisationConfig,
    PreferenceConfig,
    ReadEvaluation,
    TurnsConfig,
)
from tokenq.evaluation.episodes.turns import turns
from tokenq.evaluation.localisation import ALL_TOKENS
from tokenq.evaluation.readouts import LEADS
from tokenq.evaluation.task_first_error import first_error
from tokenq.evaluation.task_localisation import localisation
from tokenq.evaluation.task_preference import preference
from tokenq.jobs.evaluated import Evaluated
from tokenq.jobs.evaluation.given import Given
from tokenq.jobs.evaluation.paired import paired_rows
from tokenq.jobs.outputs import claimed
from tokenq.listener import Listener
from tokenq.records.trace_files import read_traces
from tokenq.records.traces import TokenTrace
from tokenq.score.config import ScoreConfig
from tokenq.stats.bootstrap import Resampling
from tokenq.stats.outcome import Outcome

if TYPE_CHECKING:
    from tokenq.jobs.reader import Reader
    from tokenq.score.rows import ScoredRow

RowsOf = Callable[[ScoreConfig, "Reader", Listener, Data], tuple[list["ScoredRow"], str]]
"""(what is asked for, models, listener, data) → rows to score, and what is to be said of them."""

SECONDS = 5.0
"""How often something that takes long says how far it is."""


class Tally:
    """Says how far something is, every few seconds.

    Args:
        what: what is counted.
        listener: told so.
    """

    def __init__(self, what: str, listener: Listener) -> None:
        self._what, self._say, self._next = what, listener.say, time.monotonic() + SECONDS

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say it, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        self._say(f"{self._what}: {done:,}" + ("" if total is None else f" of {total:,}"))


@dataclass(frozen=True)
class TraceFile:
    """Traces on disk, read anew each time they are gone through: a file of them is larger than memory.

    Attributes:
        path: the file.
        listener: told now and then how far it is.
        alternatives: whether to read what could have stood at each token.
    """

    path: Path
    listener: Listener
    alternatives: bool = True

    def __iter__(self) -> Iterator[TokenTrace]:
        """Read the traces."""
        tally = Tally("traces read", self.listener)
        for number, trace in enumerate(read_traces(self.path, alternatives=self.alternatives), 1):
            tally(number)
            yield trace


@dataclass(frozen=True)
class UnreadTraces:
    """Traces of rows whose totals are known: they are read when somebody goes through them, as a page does.

    Attributes:
        reader: the models.
        rows: what they read.
    """

    reader: "Reader"
    rows: Sequence["ScoredRow"]

    def __iter__(self) -> Iterator[TokenTrace]:
        """Read the traces."""
        return (trace for row in self.reader.traces(self.rows) for trace in row)


def judge_preference(config: PreferenceConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how often the policy's rewards prefer the chosen response: from totals, unless a page shows tokens."""
    chosen = None if (config.pairing, config.same_length) == ("none", None) else partial(paired_rows, config)
    columns = [config.subset] if config.subset else []
    read = scored_of(config, given, listener, columns=columns, shown=config.html is not None, rows_from=chosen)
    totals = list(replace(read.traces, alternatives=False) if isinstance(read.traces, TraceFile) else read.traces)
    subsets = {name: str(row[str(config.subset)]) for name, row in read.further.items()}
    return evaluated(config, preference(totals, subsets, how).costing(read.cost), totals, read.shown)


def judge_localisation(config: LocalisationConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how well read-outs find labelled errors."""
    levels = ("word",) if config.errors else ("word", "step")
    read = scored_of(config, given, listener, levels, [config.errors] if config.errors else [])
    traces = list(read.traces)
    for trace in traces:
        trace.totals.given("logp")  # a reward model alone says nothing of tokens here
    stretches = {name: _stretches(name, row[str(config.errors)]) for name, row in read.further.items()}
    classes = {**ALL_TOKENS, **config.classes}
    outcome = localisation(traces, stretches, classes=classes, against=config.against, how=how)
    return evaluated(config, outcome.costing(read.cost), traces, traces)


def judge_first_error(config: FirstErrorConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how often the first wrong step is named."""
    read = scored_of(config, given, listener, ("step",))
    leads = any(name in LEADS for name in config.readouts)
    outcome = first_error(
        replace(read.traces, alternatives=leads) if isinstance(read.traces, TraceFile) else read.traces,
        readouts=config.readouts,
        conventions=config.step_scores,
        folds=config.folds,
        how=how,
        progress=Tally("ways judged", listener),
    )
    return evaluated(config, outcome.costing(read.cost), read.traces, read.shown)


def judge_turns(config: TurnsConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how well wrong turns of episodes are told."""
    from tokenq.jobs.evaluation.episodes import episode_rows

    read = scored_of(config, given, listener, ("step",), rows_from=episode_rows)
    outcome = turns(
        read.traces, readouts=config.readouts, conventions=config.step_scores, against=config.against, how=how
    )
    return evaluated(config, outcome.costing(read.cost), read.traces, read.shown)


def _stretches(where: str, value: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(start), int(end)) for start, end in value)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: the stretches are {value!r}.", "They are a list of [start, end], in characters of the response."
        ) from None


class Read(NamedTuple):
    """What is to be evaluated.

    Attributes:
        traces: of the responses, or their totals alone.
        shown: traces with tokens, for a page.
        further: further columns of the data, by the name of the row.
        cost: of scoring.
    """

    traces: Sequence[TokenTrace] | TraceFile
    shown: Iterable[TokenTrace]
    further: dict[str, dict[str, Any]]
    cost: dict[str, Any]


def scored_of(
    config: ReadEvaluation,
    given: Given,
    listener: Listener,
    levels: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    shown: bool = True,
    rows_from: RowsOf | None = None,
) -> Read:
    """Return what is to be evaluated, scored first where it is not.

    With an output, what was read is kept beside it: an evaluation that was killed goes on from there.

    Args:
        config: stored traces, or models and data.
        given: what of these is in memory.
        listener: told what is found.
        levels: levels of spans that the task needs.
        columns: columns of the data that the task needs.
        shown: whether tokens are looked at; else totals are all that is made.
        rows_from: makes rows of the data; None for those that `tokenq train` reads.

    Raises:
        UserError: there is nothing to read, or a row lacks a column.
    """
    begin, data = time.perf_counter(), given.data.get("data", config.data)
    further = _columns(data, columns)
    if config.traces is not None:
        stored = TraceFile(Path(config.traces), listener) if given.traces is None else given.traces
        return Read(stored, stored, further, {})
    from tokenq.jobs.evaluation.overlap import warn_of_overlap
    from tokenq.jobs.score import score_to_file

    what: Literal["traces", "totals"] = "traces" if shown else "totals"
    path = None if config.output is None else Path(config.output).with_suffix(f".{what}.parquet")
    shared = set(ScoreConfig.__dataclass_fields__) & set(asdict(config)) - {"output", "html"}
    settings = {name: getattr(config, name) for name in shared}
    score = ScoreConfig(**settings, levels=levels, output=None if path is None else str(path))
    reader = _reader(score, given, listener)
    rows, said = (rows_from or _usual_rows)(score, reader, listener, data)
    warn_of_overlap(config, [row.example for row in rows], listener)
    listener.say(f"data: {said}")
    traces: Sequence[TokenTrace] | TraceFile
    if path is None:
        traces = [trace for row in (reader.traces if shown else reader.totals)(rows) for trace in row]
    else:
        with claimed("tokenq eval", [path], overwrite=config.overwrite):
            score_to_file(path, reader, rows, asdict(score), listener, "tokenq eval", what)
        traces = TraceFile(path, listener)
    tokens, seconds = sum(row.group.n_tokens for row in rows), time.perf_counter() - begin
    unread = traces if shown else UnreadTraces(reader, rows)
    return Read(traces, unread, further, {"tokens": tokens, "seconds_with_loading": seconds})


def _usual_rows(config: ScoreConfig, reader: "Reader", listener: Listener, data: Data) -> tuple[list["ScoredRow"], str]:
    from tokenq.jobs.score import rows_of

    rows, summary = rows_of(config, reader, listener, data)
    return rows, summary.line()


def _reader(config: ScoreConfig, given: Given, listener: Listener) -> "Reader":
    from tokenq.jobs.score import reader_of

    if given.reader is None:
        return reader_of(config, config.device, listener, given.models)
    return replace(given.reader, options=replace(given.reader.options, levels=config.levels))


def _columns(data: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return some columns of the data by the name of the row."""
    if not names or not data:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for row in (row for table in tables_of(data) for row in table):
        if row.fault:
            continue  # nothing that was scored comes from it
        missing = [name for name in names if name not in row.values]
        if missing:
            raise UserError(f"{row.where} has no column {missing[0]!r}.", "Name the column that your data has.")
        found[row.where] = {name: row.values[name] for name in names}
    return found


def evaluated(
    config: ReadEvaluation, outcome: Outcome, traces: Iterable[TokenTrace], shown: Iterable[TokenTrace]
) -> Evaluated:
    """Return the evaluation with the identities of the models that the traces name."""
    first = next(iter(traces), None)
    read: dict[str, Mapping[str, Any] | float | None] = {}
    if first is not None:
        read = {"policy": dict(first.policy), "reference": dict(first.reference), "beta": first.beta}
        read |= {} if first.reward_model is None else {"reward_model": dict(first.reward_model)}
    return Evaluated(outcome, f"tokenq eval {outcome.task}", asdict(config), read, shown)
