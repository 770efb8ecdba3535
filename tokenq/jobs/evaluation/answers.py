"""Tasks that judge stored answers: generation, best of n, quality against KL."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenq.data.layouts.engine_outputs import read_answers, with_prompts
from tokenq.data.prompts import load_prompts
from tokenq.errors import UserError
from tokenq.evaluation.config import BestOfNConfig, FrontierConfig, GenerationConfig, ResultsEvaluation, TruthOptions
from tokenq.evaluation.task_generation import Quality, frontier, generation
from tokenq.jobs.evaluated import Evaluated
from tokenq.jobs.evaluation.given import Given
from tokenq.jobs.host import untouched
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.tasks import AnswerTask, ReasoningGymTask, with_answers
from tokenq.listener import Listener
from tokenq.records.results import SearchResult
from tokenq.stats.bootstrap import Resampling
from tokenq.stats.outcome import Outcome

if TYPE_CHECKING:
    from tokenq.models.reward_model import RewardModel


def judge_generation(config: GenerationConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return how good stored answers are, beside their cost."""
    return _evaluated(config, generation(*_judged(config, given, listener), how))


def judge_frontier(config: FrontierConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return quality against KL from the reference."""
    return _evaluated(config, frontier(*_judged(config, given, listener), how))


def judge_best_of_n(config: BestOfNConfig, given: Given, how: Resampling, listener: Listener) -> Evaluated:
    """Return accuracy against n, from stored samples."""
    from tokenq.evaluation.task_best_of_n import best_of_n  # searches need torch, other answers do not

    systems, quality = _judged(config, given, listener)
    if len(systems) > 1:
        raise UserError("best-of-n reads the samples of one system.", "Name one file with --results.")
    (name, found), *_ = systems.items()
    if any(one.method != "sample" for one in found):
        raise UserError(f"{name} holds no plain samples.", "Draw them: tokenq search --method sample --n 16.")
    results = _with_own_answers(config, found)
    return _evaluated(config, best_of_n(results, quality, beta=config.beta, rankings=config.rankings, how=how))


def _evaluated(config: ResultsEvaluation, outcome: Outcome) -> Evaluated:
    return Evaluated(outcome, f"tokenq eval {outcome.task}", asdict(config), {})


def results_of(sources: Sequence[str], given: Mapping[str, Sequence[SearchResult]]) -> dict[str, list[SearchResult]]:
    """Return the results of each system by name: NAME=FILE, or FILE, whose name is then the system's.

    A file is one of `tokenq search`, or holds the answers of another program.
    A file of that very name is a file: sweeps write "beam,width=3.jsonl". Where a name has an "=" as well, what stands
    behind the first one that leaves a file is the file.

    Args:
        sources: files, or names of what is given.
        given: what systems found, in memory.

    Raises:
        UserError: a file is missing or holds no results, or two systems have one name.
    """
    found: dict[str, list[SearchResult]] = {}
    for source in sources:
        name, path = (source, "") if source in given else _named_file(source)
        if name in found:
            raise UserError(f"Two systems are called {name!r}.", "Name them apart: --results ours=FILE theirs=FILE.")
        found[name] = list(given[name]) if source in given else read_answers(Path(path))
    return with_prompts(found)


def _named_file(source: str) -> tuple[str, str]:
    """Return (name, file) of FILE or NAME=FILE."""
    places = [place for place, letter in enumerate(source) if letter == "=" and place]
    if not places or Path(source).exists():
        return Path(source).stem, source
    place = next((place for place in places if Path(source[place + 1 :]).is_file()), places[0])
    return source[:place], source[place + 1 :]


def _judged(
    config: ResultsEvaluation, given: Given, listener: Listener
) -> tuple[dict[str, list[SearchResult]], Quality]:
    """Return the systems' results, and the quality of a candidate by true answers, a verifier or a reward model.

    With `bad_rows` "drop", answers to prompts that cannot be used, or have no true answer, are left out and counted.

    Raises:
        UserError: there is no such task, a true answer is missing, or what `results_of` raises.
    """
    if config.reward_model is not None:
        model = reward_model_of(config.reward_model, config.reward_weights)
        scored = results_of(config.results, given.results)
        return scored, lambda result, candidate: model.score([result.prompt], [candidate.text])[0]
    correct, known = truth_of(config, given)
    systems = answered(config, results_of(config.results, given.results), known, listener)
    return systems, lambda result, candidate: correct(result.id, candidate.text)


def answered(
    config: TruthOptions, systems: Mapping[str, list[SearchResult]], known: Collection[str] | None, listener: Listener
) -> dict[str, list[SearchResult]]:
    """Return the answers to prompts whose true answer is known; with `bad_rows` "drop" the others are counted.

    Raises:
        UserError: a system answers none of them.
    """
    if known is None or config.bad_rows == "error":
        return dict(systems)
    kept = {name: [one for one in found if one.id in known] for name, found in systems.items()}
    for name, found in systems.items():
        if lost := len(found) - len(kept[name]):
            listener.say(f"{name}: {lost} of {len(found)} answers dropped: no true answer to their prompts")
        if not kept[name]:
            raise UserError(f"{name} answers none of the prompts that have a true answer.", "Are these the same rows?")
    return kept


def truth_of(config: TruthOptions, given: Given) -> tuple[Callable[[str, str], float], Collection[str] | None]:
    """Return (id, response) → 1 for the true answer, else 0, and the ids of the prompts with a known one; None for all.

    Raises:
        UserError: there is no such task, or a true answer is missing.
    """
    if config.task is not None:
        kind, _, rest = config.task.partition(":")
        name, *numbers = rest.split(":")
        if kind != "reasoning-gym" or not name or not all(number.isdigit() for number in numbers):
            raise UserError(f"--task {config.task} is not known.", "It has the form reasoning-gym:chain_sum:100:0.")
        verifier = ReasoningGymTask(name, *map(int, numbers[:2]))
        verifier.examples()
        return verifier.correct, None
    prompts, answer = given.data.get("prompts", config.prompts), str(config.answer)
    loaded = load_prompts(prompts, config.columns, bad_rows=config.bad_rows)
    task = AnswerTask(loaded.prompts, config.gold, find_extractor(answer), find_equality(answer))
    task = replace(task, prompts=with_answers(loaded, task, config.bad_rows).prompts)
    return task.correct, task.answers


def reward_model_of(name: str, weights: Mapping[str, str]) -> "RewardModel":
    """Return a reward model that judges texts; the first to need torch."""
    from tokenq.models.load import ModelSpec
    from tokenq.models.reward_model import RewardModel

    with untouched():
        return RewardModel(ModelSpec(name), weights)


def _with_own_answers(config: ResultsEvaluation, results: Sequence[SearchResult]) -> list[SearchResult]:
    """Return results whose candidates have their answers, where the configuration says how they are found."""
    if config.answer is None:
        return list(results)
    extract = find_extractor(config.answer)
    return [
        replace(one, candidates=tuple(replace(c, answer=extract(c.text)) for c in one.candidates)) for one in results
    ]
