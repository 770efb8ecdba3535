"""The win rate of stored preferences, or of stored answers by a judge."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from tokenq.data.files.local import whole
from tokenq.data.sources import Data, tables_of
from tokenq.errors import UserError
from tokenq.evaluation.config import WinRateConfig
from tokenq.evaluation.stored_preferences import read_preferences
from tokenq.evaluation.task_win_rate import comparisons, from_preferences, judged
from tokenq.files import write_json_lines
from tokenq.jobs.evaluated import Evaluated
from tokenq.jobs.evaluation.answers import answered, results_of, truth_of
from tokenq.jobs.evaluation.given import Given
from tokenq.jobs.evaluation.judges import Bench, Scores, chat_judge, judge_of, person
from tokenq.jobs.outputs import claimed, recorder
from tokenq.judge.chat import QUESTION, CostEstimate
from tokenq.judge.judging import Judge, Judgement, shares
from tokenq.judge.kinds import Response, compared
from tokenq.judge.prompt import read_template
from tokenq.listener import Listener
from tokenq.locks import hold_file
from tokenq.options import judge_kind
from tokenq.records.results import SearchResult
from tokenq.rundir import provenance
from tokenq.stats.alpaca_eval import GamedBaselines
from tokenq.stats.bootstrap import Resampling

_MADE_BY = "tokenq eval win-rate"


def judge_win_rate(config: WinRateConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return who wins; what a judge says is kept beside the output."""
    if config.preferences is not None:
        rows = _rows(given.data["preferences"])
        outcome = from_preferences(read_preferences(rows, config.preferences), _gamed(config), how)
        return Evaluated(outcome, _MADE_BY, asdict(config), {})
    correct, systems = None, results_of(config.results, given.results)
    if config.judged_by == "verifier":
        correct, known = truth_of(config, given)
        systems = answered(config, systems, known, listener)
    config = replace(config, judge=config.judged_by)
    path = None if config.output is None else Path(config.output).with_suffix(".preferences.jsonl")
    kept = judge_kind(config.judged_by) in ("ask", "chat")
    asked = hold_file(Path(config.answers)) if kept else contextlib.nullcontext()
    with claimed(_MADE_BY, [] if path is None else [path], overwrite=config.overwrite), asked:
        outcome, judgements = judged(systems, _judge(config, correct, systems, listener), how)
        if path is not None:
            _keep(path, judgements, systems, config)
            listener.say(f"judgements: {path}")
    return Evaluated(outcome, _MADE_BY, asdict(config), {})


def _rows(data: Data) -> list[Mapping[str, Any]]:
    for path in (one for one in data if isinstance(one, str) and not Path(one).is_file()):
        raise UserError(f"No file {path}.", "Name a file of stored judgements.")
    return [row.values for table in tables_of(data) for row in whole(table)]


def _gamed(config: WinRateConfig) -> GamedBaselines | None:
    if config.gamed is None:
        return None
    rows = _rows([config.gamed])
    return GamedBaselines.from_columns({name: [row[name] for row in rows] for name in rows[0]})


def _judge(
    config: WinRateConfig,
    correct: Callable[[str, str], float] | None,
    systems: Mapping[str, list[SearchResult]],
    listener: Listener,
) -> Judge:
    """Return the judge; of one that is asked, say first what it will cost, or what a person is to fill in."""
    bench = Bench(
        config,
        answers=Path(config.answers),
        comparisons=lambda number: Path(config.answers),
        correct=correct,
        implicit=lambda: _implicit(str(config.judge_run)),
        seed=config.seed,
        template=QUESTION if config.template is None else read_template(Path(config.template)),
        concurrency=config.concurrency,
        progress=lambda done, total: listener.say(f"answers: {done} of {total}") if done == total else None,
        listener=listener,
    )
    for ours, theirs in combinations(systems, 2):
        some = comparisons(systems, ours, theirs)
        if config.judge == "ask":  # all of them before the first is waited for
            person(bench, 0).ask(some)
        elif judge_kind(config.judged_by) == "chat":
            _say_cost(f"{ours} over {theirs}", chat_judge(bench).estimate(some), listener)
    judge = judge_of(bench)
    return partial(compared, judge)


def _say_cost(what: str, cost: CostEstimate, listener: Listener) -> None:
    most = "" if cost.response_tokens is None else f", at most {cost.response_tokens} tokens to write"
    listener.say(
        f"{what}: {cost.requests} questions to ask ({cost.answered} are answered already), about {cost.prompt_tokens} "
        f"tokens to read{most}"
    )


def _implicit(run: str) -> Scores:
    """Return what reads β Σ log π/π_ref of texts with the policy and the reference of a finished run."""
    from tokenq.jobs.load import load

    reader = load(run)

    def score(number: int, responses: Sequence[Response]) -> Sequence[float]:
        rows, _ = reader.rows([reader.example(one.prompt, one.response) for one in responses])
        return [trace.totals.given("implicit_reward") for (trace,) in reader.totals(rows)]

    return score


def _keep(
    path: Path,
    judgements: Mapping[tuple[str, str], list[Judgement]],
    systems: Mapping[str, list[SearchResult]],
    config: WinRateConfig,
) -> None:
    """Write every judgement as a row that `--preferences` reads again."""
    rows = []
    for (ours, theirs), made in judgements.items():
        pairs = zip(made, shares(made).tolist(), systems[ours], systems[theirs], strict=True)
        for judgement, share, one, other in pairs:
            rows.append(
                {
                    "id": judgement.id,
                    "system": f"{ours} over {theirs}",
                    "preference": share,
                    "problem": judgement.problem,
                    "length": len(one.candidates[0].text) if one.candidates else 0,
                    "baseline_length": len(other.candidates[0].text) if other.candidates else 0,
                }
            )
    record = {**provenance(asdict(config), config.seed, {}), "made_by": _MADE_BY, "records": len(rows)}
    write_json_lines(path, rows, recorder(path, lambda: record))
