"""The win rate of stored preferences, or of stored answers by a judge."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
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
from tokenq.jobs.evaluation.answers import results_of, reward_model_of
from tokenq.jobs.evaluation.given import Given
from tokenq.jobs.outputs import claimed, recorder
from tokenq.judge.chat import QUESTION, ChatJudge
from tokenq.judge.endpoint import Endpoint
from tokenq.judge.judging import Judge, Judgement, ScoreJudge, shares
from tokenq.judge.prompt import read_template
from tokenq.listener import Listener
from tokenq.locks import hold_file
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
    systems = results_of(config.results, given.results)
    path = None if config.output is None else Path(config.output).with_suffix(".preferences.jsonl")
    asked = contextlib.nullcontext() if config.judge is None else hold_file(Path(config.answers))
    with claimed(_MADE_BY, [] if path is None else [path], overwrite=config.overwrite), asked:
        outcome, judgements = judged(systems, _judge(config, systems, listener), how)
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


def _judge(config: WinRateConfig, systems: Mapping[str, list[SearchResult]], listener: Listener) -> Judge:
    """Return the judge; of one that is asked in words, say first what it will cost."""
    if config.reward_model is not None:
        model = reward_model_of(config.reward_model, config.reward_weights)
        return ScoreJudge(lambda prompts, responses: model.score(list(prompts), responses))
    template = QUESTION if config.template is None else read_template(Path(config.template))
    judge = ChatJudge(
        Endpoint(str(config.judge), config.base_url),
        Path(config.answers),
        template,
        concurrency=config.concurrency,
        progress=lambda done, total: listener.say(f"answers: {done} of {total}") if done == total else None,
    )
    for ours, theirs in combinations(systems, 2):
        cost = judge.estimate(comparisons(systems, ours, theirs))
        most = "" if cost.response_tokens is None else f", at most {cost.response_tokens} tokens to write"
        listener.say(
            f"{ours} over {theirs}: {cost.requests} questions to ask ({cost.answered} are answered already), "
            f"about {cost.prompt_tokens} tokens to read{most}"
        )
    return judge


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
