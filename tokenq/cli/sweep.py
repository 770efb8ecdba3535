"""`tokenq sweep`: search the same prompts in many ways, and put quality against cost."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from tokenq.cli.outputs import claimed_folder
from tokenq.errors import UserError
from tokenq.evaluation.sweep_config import SETTINGS, SweepConfig
from tokenq.search.config import USED, SearchConfig

if TYPE_CHECKING:
    from tokenq.decoding import Searcher
    from tokenq.evaluation.sweep import Point
    from tokenq.evaluation.task_generation import Quality
    from tokenq.judge.tasks import AnswerTask
    from tokenq.results import SearchResult


def run(config: SweepConfig) -> int:
    """Do what `config` asks for, judged by its true answers or its reward model, and return the exit code.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.search import INTERRUPTED

    return INTERRUPTED if sweep(config) is None else 0


def sweep(config: SweepConfig, quality: "Quality | None" = None) -> "list[Point] | None":
    """Search in every way that `config` asks for, write what came out, and return it; None when that was interrupted.

    Args:
        config: what is asked for.
        quality: how good a candidate is, instead of the true answers or the reward model of the configuration.

    Raises:
        UserError: for anything that the user can mend.
    """
    record, drawn = Path(config.output) / "sweep.json", ("sweep.md", "sweep.svg", "sweep.png")
    config.check(judged=quality is not None)
    with claimed_folder("tokenq sweep", record, drawn, overwrite=config.overwrite):
        return _sweep(config, quality)


def _sweep(config: SweepConfig, quality: "Quality | None") -> "list[Point] | None":
    from accelerate import PartialState

    from tokenq.cli.outputs import refuse_foreign
    from tokenq.cli.prompt_rows import read_prompts, usable
    from tokenq.cli.search import interruptible, search_to_file
    from tokenq.decoding import check_needs, load_searcher
    from tokenq.judge.answers import find_equality, find_extractor
    from tokenq.judge.tasks import AnswerTask, with_answers
    from tokenq.results import read_results
    from tokenq.terminal.console import messages

    settings = parse_settings(config)
    state = PartialState(cpu=config.device == "cpu")
    say = messages(quiet=not state.is_main_process)
    base = replace(next(iter(settings.values())), method="greedy")
    base = SearchConfig(**{name: value for name, value in asdict(base).items() if name in _SHARED})
    for one in settings.values():
        check_needs(one)
    rows, task, answer = read_prompts(base, tuple(config.prompts)), None, str(config.answer)
    if config.gold is not None:  # a row without a true answer is said before anything is searched
        task = AnswerTask(rows.prompts, config.gold, find_extractor(answer), find_equality(answer))
        rows = with_answers(rows, task, config.bad_rows)
        task = replace(task, prompts=rows.prompts)
    loaded = load_searcher(base, say=lambda text: say.print(f"warning: {text}"))
    prompts = usable(rows, loaded, say)
    pool = replace(
        base, method="sample", n=max([config.pool, *(s.n for s in settings.values() if _is_pooled(s, base))])
    )
    found: dict[str, list[SearchResult]] = {}
    with interruptible(say) as interrupted:
        searches = {"pool": pool} | {name: one for name, one in settings.items() if not _is_pooled(one, base)}
        for name, one in searches.items():
            path = Path(config.output) / "results" / f"{name.replace(' ', ',')}.jsonl"
            say.print(f"{name}:", end=" ")
            refuse_foreign(path, "tokenq sweep", overwrite=config.overwrite)
            search_to_file(path, _as_loaded(one, loaded), prompts, interrupted, say, "tokenq sweep")
            if interrupted():
                return None
            state.wait_for_everyone()
            found[name] = list(read_results(path))
    points = _points(settings, base, found, loaded, quality or _quality(task, loaded), config.seed)
    if state.is_main_process:
        _report(config, points, loaded.identities, say)
    return points


def parse_settings(config: SweepConfig) -> dict[str, SearchConfig]:
    """Return what to search by the words that ask for it: a method, and name=value for its options.

    Raises:
        UserError: an unknown method or option, a value of the wrong type, or one without effect.
    """
    from tokenq.cli.values import convert
    from tokenq.errors import unknown_name
    from tokenq.search.methods import find_method

    kinds = get_type_hints(SearchConfig)
    shared = {name: value for name, value in asdict(config).items() if name in kinds and name != "output"}
    sampled = ("temperature", "top_k", "top_p")
    with_votes = config.answer is not None
    words = config.settings or [one for one in SETTINGS if with_votes or not one.startswith("majority")]
    settings = {}
    for text in words:
        method, *options = text.split()
        find_method(method)
        values: dict[str, Any] = {n: v for n, v in shared.items() if n not in sampled or n in USED[method]}
        for option in options:
            name, equals, raw = option.partition("=")
            known = (*USED[method], *(("alpha",) if config.proxy else ()))
            if not equals or name not in known:
                raise unknown_name(f"option of {method}", name, known)
            if name == "alpha":
                values[name] = tuple(raw.split(","))
                continue
            values[name] = convert(raw, kinds[name], f"--settings {text!r}: {name}")
        one = SearchConfig(method=method, **values)
        one.check_method()
        settings[" ".join(text.split())] = one
    return settings


_SHARED = {field.name for field in fields(SearchConfig)} & {field.name for field in fields(SweepConfig)} - {"output"}


def _is_pooled(one: SearchConfig, base: SearchConfig) -> bool:
    """Return whether a search is read off the pool of samples."""
    from tokenq.evaluation.sweep import POOLED

    drawn = ("temperature", "top_k", "top_p", "min_p", "alpha")
    judged = one.ranking == "value"  # a judge reads texts, which the pool's own search shows it
    return one.method in POOLED and not judged and all(getattr(one, name) == getattr(base, name) for name in drawn)


def _as_loaded(one: SearchConfig, loaded: "Searcher") -> "Searcher":
    """Return what searches as `one` asks, with the models and the β that were found for all of them."""
    from tokenq.search.planning import weights_of

    known = loaded.config
    config = replace(one, policy=known.policy, reference=known.reference, beta=known.beta)
    pairs = zip(loaded.terms, weights_of(config), strict=True)
    return replace(loaded, config=config, terms=tuple((tuned, untuned, alpha) for (tuned, untuned, _), alpha in pairs))


def _quality(task: "AnswerTask | None", loaded: "Searcher") -> "Quality":
    from tokenq.results import Candidate

    if task is not None:
        return lambda result, candidate: task.correct(result.id, candidate.text)
    judge = loaded.judge
    assert judge is not None  # the configuration was checked
    known: dict[tuple[str, str], float] = {}

    def judged(result: "SearchResult", candidate: Candidate) -> float:
        key = result.id, candidate.text
        if key not in known:
            known[key] = judge([result.prompt], [candidate.text], [candidate.terminal])[0]
        return known[key]

    return judged


def _points(
    settings: dict[str, SearchConfig],
    base: SearchConfig,
    found: "dict[str, list[SearchResult]]",
    loaded: "Searcher",
    quality: "Quality",
    seed: int,
) -> "list[Point]":
    """Return every search as a point of the curve."""
    from tokenq.evaluation.sweep import first_samples, point, rivals_of
    from tokenq.stats.bootstrap import Resampling

    pool = found["pool"]
    plans = {"sample": replace(loaded, config=replace(base, method="sample")).plan}
    ranking = "reward" if loaded.reference is not None else "mean_likelihood"
    by_reward = replace(base, method="best_of_n", ranking=ranking, beta=loaded.config.beta)
    plans["best_of_n"] = replace(loaded, config=by_reward).plan
    if base.answer is not None:
        plans["majority"] = replace(loaded, config=replace(base, method="majority")).plan
    points = []
    for name, one in settings.items():
        if _is_pooled(one, base):
            plan = _as_loaded(one, loaded).plan
            found[name] = [first_samples(samples, one.n, one.method, plan) for samples in pool]
        rivals = rivals_of(found[name], pool, plans)
        points.append(point(name, found[name], quality, found.get("greedy"), rivals, Resampling(seed=seed)))
    return points


def _report(config: SweepConfig, points: "list[Point]", identities: dict[str, Any], say: Any) -> None:
    """Write the points as numbers, table and figure, and show the table."""
    from tokenq.files import write_json, write_text
    from tokenq.report.origin import origin
    from tokenq.report.outcome import tables
    from tokenq.report.sweep import save_sweep_figure, sweep_table, sweep_tables
    from tokenq.rundir import provenance
    from tokenq.terminal.console import screen

    folder = Path(config.output)
    record = {**provenance(asdict(config), config.seed, identities), "made_by": "tokenq sweep"}
    write_json(folder / "sweep.json", {**record, "points": points})
    said = "".join(f"- {name}: {text}\n" for name, text in origin(record))
    write_text(folder / "sweep.md", f"{said}\n{sweep_table(points)}")
    screen().print(*tables(sweep_tables(points)))
    try:
        for suffix in ("svg", "png"):
            said = "share of right answers" if config.gold else "quality"
            save_sweep_figure(folder / f"sweep.{suffix}", points, said)
    except UserError as problem:
        say.print(f"no figure: {problem.message} {problem.hint}")
    say.print(f"done: sweep.json, sweep.md and the figure are in {folder}")
