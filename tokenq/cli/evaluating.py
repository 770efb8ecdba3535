"""What all evaluations share on the command line: traces and results to judge, and an outcome to show and keep."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.evaluation.config import Evaluation, ReadEvaluation, ResultsEvaluation

if TYPE_CHECKING:
    from tokenq.jobs.evaluated import Evaluated
    from tokenq.results import Candidate, SearchResult
    from tokenq.stats.bootstrap import Resampling
    from tokenq.stats.outcome import Outcome
    from tokenq.traces import TokenTrace


def resampling(config: Evaluation) -> "Resampling":
    """Return how intervals are made."""
    from tokenq.stats.bootstrap import Resampling

    return Resampling(config.resamples, seed=config.seed)


@dataclass(frozen=True)
class TraceFile:
    """Traces on disk, read anew each time they are gone through: a file of them is larger than memory.

    Attributes:
        path: the file.
        most: alternatives to keep of each list of a token; None keeps all.
    """

    path: Path
    most: int | None = None

    def __iter__(self) -> "Iterator[TokenTrace]":
        """Read the traces, and say now and then how far it is."""
        from tokenq.traces import read_traces

        say = Said("traces read")
        for number, trace in enumerate(read_traces(self.path, self.most), 1):
            say(number)
            yield trace


class Said:
    """Says how far something is, every few seconds.

    Args:
        what: what is counted.
    """

    def __init__(self, what: str) -> None:
        self._what, self._next = what, time.monotonic() + SECONDS

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say it, if it is time."""
        if time.monotonic() < self._next:
            return
        from tokenq.terminal.console import messages

        self._next = time.monotonic() + SECONDS
        messages().print(f"{self._what}: {done:,}" + ("" if total is None else f" of {total:,}"))


SECONDS = 5.0
"""How often something that takes long says how far it is."""


def traces_of(
    config: ReadEvaluation, levels: Sequence[str] = (), columns: Sequence[str] = ()
) -> "tuple[list[TokenTrace] | TraceFile, dict[str, dict[str, Any]], dict[str, Any]]":
    """Return (traces, further columns by the name of the row, what scoring cost) of what is to be evaluated.

    With --output, traces are kept beside it: an evaluation that was killed goes on from them, and a page shows them.

    Args:
        config: stored traces, or models and data.
        levels: levels of spans that the task needs.
        columns: columns of the data that the task needs.

    Raises:
        UserError: there is nothing to read, or a row lacks a column.
    """
    from tokenq.cli.trained_rows import warn_of_trained_rows
    from tokenq.jobs.outputs import claimed
    from tokenq.jobs.score import reader_of, rows_of, score_to_file
    from tokenq.score.config import ScoreConfig
    from tokenq.terminal.console import messages
    from tokenq.terminal.progress import Progress

    config.check()
    say, begin = messages(), time.perf_counter()
    further = _columns(config, columns)
    if config.traces is not None:
        return TraceFile(Path(config.traces)), further, {}
    shared = set(ScoreConfig.__dataclass_fields__) & set(asdict(config)) - {"output", "html"}
    score = ScoreConfig(**{name: getattr(config, name) for name in shared}, levels=levels, output=_beside(config))
    progress = Progress(1, say)
    reader = reader_of(score, config.device, progress)
    rows, summary = rows_of(score, reader, progress)
    warn_of_trained_rows(config, [row.example for row in rows], say)
    say.print(f"data: {summary.line()}")
    traces: list[TokenTrace] | TraceFile
    if score.output is None:
        traces = [trace for row in reader.traces(rows) for trace in row]
    else:
        path = Path(score.output)
        with claimed("tokenq eval", [path], overwrite=config.overwrite), progress:
            score_to_file(path, reader, rows, asdict(score), progress, "tokenq eval")
        traces = TraceFile(path)
    tokens, seconds = sum(row.group.n_tokens for row in rows), time.perf_counter() - begin
    return traces, further, {"tokens": tokens, "seconds_with_loading": seconds}


def _beside(config: ReadEvaluation) -> str | None:
    if config.output is None:
        return None
    return str(Path(config.output).with_suffix(".traces.jsonl"))


def _columns(config: ReadEvaluation, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return some columns of the data by the name of the row."""
    from tokenq.data.files.source_language import parse_source
    from tokenq.data.sources import read_rows

    if not names or not config.data:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for source in config.data:
        for row in read_rows(parse_source(source)):
            if row.fault:
                continue  # nothing that was scored comes from it
            missing = [name for name in names if name not in row.values]
            if missing:
                raise UserError(f"{row.where} has no column {missing[0]!r}.", "Name the column that your data has.")
            found[row.where] = {name: row.values[name] for name in names}
    return found


def results_of(sources: Sequence[str]) -> "dict[str, list[SearchResult]]":
    """Return what systems found, by name: NAME=FILE, or FILE, whose name is then the system's.

    A file is one of `tokenq search`, or holds the answers of another program.
    A file of that very name is a file: sweeps write "beam,width=3.jsonl". Where a name has an "=" as well, what stands
    behind the first one that leaves a file is the file.

    Raises:
        UserError: a file is missing or holds no results, or two systems have one name.
    """
    from tokenq.data.layouts.engine_outputs import read_answers, with_prompts

    found: dict[str, list[SearchResult]] = {}
    for source in sources:
        name, path = _named_file(source)
        if name in found:
            raise UserError(f"Two systems are called {name!r}.", "Name them apart: --results ours=FILE theirs=FILE.")
        found[name] = read_answers(Path(path))
    return with_prompts(found)


def _named_file(source: str) -> tuple[str, str]:
    """Return (name, file) of FILE or NAME=FILE."""
    places = [place for place, letter in enumerate(source) if letter == "=" and place]
    if not places or Path(source).exists():
        return Path(source).stem, source
    place = next((place for place in places if Path(source[place + 1 :]).is_file()), places[0])
    return source[:place], source[place + 1 :]


def judged_results(
    config: ResultsEvaluation,
) -> "tuple[dict[str, list[SearchResult]], Callable[[SearchResult, Candidate], float]]":
    """Return what systems found, and how good a candidate is: by true answers, a task's verifier or a reward model.

    With `bad_rows` "drop", answers to prompts that cannot be used, or have no true answer, are left out and counted.

    Raises:
        UserError: there is no such task, a true answer is missing, or what `results_of` raises.
    """
    from tokenq.terminal.console import messages

    quality, known = _quality_of(config)
    systems = results_of(config.results)
    if known is None or config.bad_rows == "error":
        return systems, quality
    kept = {name: [one for one in found if one.id in known] for name, found in systems.items()}
    for name, found in systems.items():
        if lost := len(found) - len(kept[name]):
            messages().print(f"{name}: {lost} of {len(found)} answers dropped: no true answer to their prompts")
        if not kept[name]:
            raise UserError(f"{name} answers none of the prompts that have a true answer.", "Are these the same rows?")
    return kept, quality


def _quality_of(
    config: ResultsEvaluation,
) -> "tuple[Callable[[SearchResult, Candidate], float], Collection[str] | None]":
    """Return how good a candidate is, and the ids of the prompts of which that is known; None for all."""
    from tokenq.data.prompts import load_prompts
    from tokenq.judge.answers import find_equality, find_extractor
    from tokenq.judge.tasks import AnswerTask, ReasoningGymTask, with_answers

    if config.reward_model is not None:
        from tokenq.models.load import ModelSpec
        from tokenq.models.reward_model import RewardModel

        model = RewardModel(ModelSpec(config.reward_model), config.reward_weights)
        return lambda result, candidate: model.score([result.prompt], [candidate.text])[0], None
    if config.task is not None:
        kind, _, rest = config.task.partition(":")
        name, *numbers = rest.split(":")
        if kind != "reasoning-gym" or not name or not all(number.isdigit() for number in numbers):
            raise UserError(f"--task {config.task} is not known.", "It has the form reasoning-gym:chain_sum:100:0.")
        verifier = ReasoningGymTask(name, *map(int, numbers[:2]))
        verifier.examples()
        return lambda result, candidate: verifier.correct(result.id, candidate.text), None
    loaded, answer = load_prompts(config.prompts, config.columns, bad_rows=config.bad_rows), str(config.answer)
    task = AnswerTask(loaded.prompts, config.gold, find_extractor(answer), find_equality(answer))
    task = replace(task, prompts=with_answers(loaded, task, config.bad_rows).prompts)
    return lambda result, candidate: task.correct(result.id, candidate.text), task.answers


def with_answers(config: ResultsEvaluation, results: "Sequence[SearchResult]") -> "list[SearchResult]":
    """Return results whose candidates have their answers, where the configuration says how they are found."""
    from tokenq.judge.answers import find_extractor

    if config.answer is None:
        return list(results)
    extract = find_extractor(config.answer)
    return [
        replace(one, candidates=tuple(replace(c, answer=extract(c.text)) for c in one.candidates)) for one in results
    ]


def finish(
    config: Evaluation,
    outcome: "Outcome",
    traces: "Iterable[TokenTrace]" = (),
    identities: Mapping[str, Any] | None = None,
) -> int:
    """Show an outcome, write it wherever the configuration asks, and return 0.

    Args:
        config: what was asked for.
        outcome: what it came to.
        traces: what was read; they say which models it was.
        identities: what identifies models and data, where no traces say it.
    """
    from tokenq.jobs.evaluated import Evaluated

    first = next(iter(traces), None)
    read: dict[str, Any] = {}
    if first is not None:
        read = {"policy": dict(first.policy), "reference": dict(first.reference), "beta": first.beta}
        read |= {} if first.reward_model is None else {"reward_model": dict(first.reward_model)}
    return show(config, Evaluated(outcome, f"tokenq eval {outcome.task}", asdict(config), identities or read, traces))


def show(config: Evaluation, found: "Evaluated") -> int:
    """Show what an evaluation came to, write it wherever the configuration asks, and return 0."""
    from tokenq.report.outcome import tables
    from tokenq.terminal.console import messages, screen

    out, say = screen(), messages()
    for table in tables(found.outcome.tables):
        out.print(table)
    if config.output is not None:
        say.print(f"done: the numbers are in {found.save(config.output)}")
    if config.html is not None:
        say.print(f"page: {found.html(config.html)}")
    return 0
