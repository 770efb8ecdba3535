"""`tokenq eval win-rate`: who wins, from stored preferences or by a judge."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tokenq.errors import UserError
from tokenq.evaluation.config import WinRateConfig
from tokenq.jobs.outputs import claimed, claims, recorder

if TYPE_CHECKING:
    from rich.console import Console

    from tokenq.judge.judging import Judge, Judgement
    from tokenq.results import SearchResult
    from tokenq.stats.alpaca_eval import GamedBaselines

_MADE_BY = "tokenq eval win-rate"


@claims(_MADE_BY)
def run(config: WinRateConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, resampling, results_of
    from tokenq.evaluation.stored_preferences import read_preferences
    from tokenq.evaluation.task_win_rate import from_preferences, judged
    from tokenq.locks import hold_file
    from tokenq.terminal.console import messages

    config.check()
    if config.preferences is not None:
        rows = _rows(Path(config.preferences))
        stored = read_preferences(rows, config.preferences)
        return finish(config, from_preferences(stored, _gamed(config), resampling(config)))
    systems, say = results_of(config.results), messages()
    path = None if config.output is None else Path(config.output).with_suffix(".preferences.jsonl")
    asked = contextlib.nullcontext() if config.judge is None else hold_file(Path(config.answers))
    with claimed(_MADE_BY, [] if path is None else [path], overwrite=config.overwrite), asked:
        outcome, judgements = judged(systems, _judge(config, systems, say), resampling(config))
        if path is not None:
            _keep(path, judgements, systems, config)
            say.print(f"judgements: {path}")
    return finish(config, outcome)


def _rows(path: Path) -> list[dict[str, object]]:
    from tokenq.data.files.local import read_file, whole

    if not path.is_file():
        raise UserError(f"No file {path}.", "Name a file of stored judgements.")
    return [row.values for row in whole(read_file(path, str(path)))]


def _gamed(config: WinRateConfig) -> "GamedBaselines | None":
    from tokenq.stats.alpaca_eval import GamedBaselines

    if config.gamed is None:
        return None
    rows = _rows(Path(config.gamed))
    return GamedBaselines.from_columns({name: [row[name] for row in rows] for name in rows[0]})


def _judge(config: WinRateConfig, systems: "dict[str, list[SearchResult]]", say: "Console") -> "Judge":
    """Return the judge; of one that is asked in words, say first what it will cost."""
    from itertools import combinations

    from tokenq.evaluation.task_win_rate import comparisons
    from tokenq.judge.chat import QUESTION, ChatJudge
    from tokenq.judge.endpoint import Endpoint
    from tokenq.judge.judging import ScoreJudge
    from tokenq.judge.prompt import read_template

    if config.reward_model is not None:
        from tokenq.models.load import ModelSpec
        from tokenq.models.reward_model import RewardModel

        model = RewardModel(ModelSpec(config.reward_model), config.reward_weights)
        return ScoreJudge(lambda prompts, responses: model.score(list(prompts), responses))
    template = QUESTION if config.template is None else read_template(Path(config.template))
    judge = ChatJudge(
        Endpoint(str(config.judge), config.base_url),
        Path(config.answers),
        template,
        concurrency=config.concurrency,
        progress=lambda done, total: say.print(f"answers: {done} of {total}") if done == total else None,
    )
    for ours, theirs in combinations(systems, 2):
        cost = judge.estimate(comparisons(systems, ours, theirs))
        most = "" if cost.response_tokens is None else f", at most {cost.response_tokens} tokens to write"
        say.print(
            f"{ours} over {theirs}: {cost.requests} questions to ask ({cost.answered} are answered already), "
            f"about {cost.prompt_tokens} tokens to read{most}"
        )
    return judge


def _keep(
    path: Path,
    judgements: "dict[tuple[str, str], list[Judgement]]",
    systems: "dict[str, list[SearchResult]]",
    config: WinRateConfig,
) -> None:
    """Write every judgement as a row that `--preferences` reads again."""
    from tokenq.files import write_json_lines
    from tokenq.judge.judging import shares
    from tokenq.rundir import provenance

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
