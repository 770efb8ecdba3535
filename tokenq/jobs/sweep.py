"""Searches compared at equal cost: the same prompts searched in many ways, quality put against tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from tokenq.data.prompts import Prompt
from tokenq.data.sources import Data
from tokenq.errors import UserError, unknown_name
from tokenq.evaluation.sweep import POOLED, Point, first_samples, point, rivals_of
from tokenq.evaluation.sweep_config import SETTINGS, SweepConfig
from tokenq.evaluation.task_generation import Quality
from tokenq.files import write_json, write_text
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, settings_given
from tokenq.jobs.outputs import claimed_folder, refuse_foreign
from tokenq.jobs.run import Run
from tokenq.jobs.search import read_prompts, search_to_file, usable
from tokenq.jobs.searcher import Searcher, check_needs, load_searcher, searched_models
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.tasks import AnswerTask, with_answers
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.parsing import convert
from tokenq.records.results import Candidate, SearchResult, read_results
from tokenq.report.notebook import frame
from tokenq.report.offline import origin
from tokenq.report.sweep import save_sweep_figure, sweep_table
from tokenq.rundir import provenance
from tokenq.search.branches import never
from tokenq.search.config import USED, SearchConfig
from tokenq.search.methods import find_method
from tokenq.search.proxy import weights_of
from tokenq.stats.bootstrap import Resampling

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        folder: where it is written.
        points: every search with its quality and its cost; none where the sweep was interrupted.
        interrupted: whether it was; the same call goes on from there.
    """

    folder: Path
    points: Sequence[Point] = ()
    interrupted: bool = False

    def to_frame(self) -> "DataFrame":
        """Return a pandas table with one row a search.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(
            {"search": one.setting, "quality": one.quality.value, "low": one.quality.low, "high": one.quality.high}
            | {"policy_tokens": one.policy_tokens, "reference_tokens": one.reference_tokens, "seconds": one.seconds}
            | {"length": one.length.value, "terminal": one.terminal}
            for one in self.points
        )


def sweep(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    policy: Name | Run | InMemory | None = None,
    prompts: Name | RowsInMemory = (),
    output: Name = "",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    quality: Quality | None = None,
    listener: Listener = SILENCE,
    interrupted: Callable[[], bool] = never,
    reference: Name | InMemory | None = None,
    run: Name | Run | None = None,
    base: str | None = None,
    beta: float | None = None,
    proxy: Sequence[str] = (),
    reward_model: str | None = None,
    reward_weights: Mapping[str, str] = {},
    condition: Mapping[str, float] = {},
    columns: Mapping[str, str] = {},
    bad_rows: Literal["error", "drop"] = "error",
    style: Literal["as_given", "chat"] = "as_given",
    answer: str | None = None,
    gold: str | None = None,
    max_new_tokens: int = 256,
    eos: Sequence[str] = (),
    settings: Sequence[str] = (),
    pool: int = 16,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    overwrite: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    trust_remote_code: bool = False,
) -> SweepResult:
    """Search the same prompts in many ways, write what came out, and return it.

    The settings are those of `tokenq sweep` (`tokenq sweep --help` has a line each). The same call goes on where an
    interrupted one stopped.

    Args:
        policy: a folder, a hub id, a loaded model of `transformers`, (model, tokenizer), or a run.
        prompts: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: folder of results.
        tokenizer: of a loaded model.
        quality: (result, candidate) → how good it is, instead of the true answers or the reward model.
        listener: told what is found, and how far it is.
        interrupted: True ends the sweep; what was found stays.

    Raises:
        UserError: for anything that the user can mend.
    """
    given, in_memory, data = settings_given(locals(), "prompts", ("quality", "listener", "interrupted"))
    config = SweepConfig(**given)
    config.check(judged=quality is not None)
    record, drawn = Path(config.output) / "sweep.json", ("sweep.md", "sweep.svg", "sweep.png")
    with untouched(), claimed_folder("tokenq sweep", record, drawn, overwrite=config.overwrite):
        points = _swept(config, data, quality, listener, interrupted, in_memory)
    return SweepResult(Path(config.output), points or (), points is None)


def _swept(
    config: SweepConfig,
    data: Data,
    quality: Quality | None,
    listener: Listener,
    interrupted: Callable[[], bool],
    in_memory: Mapping[str, Loaded],
) -> list[Point] | None:
    """Return the points of a sweep; None when it was interrupted."""
    settings = parse_settings(config)
    state = PartialState(cpu=config.device == "cpu")
    listener = listener if state.is_main_process else SILENCE
    base = replace(next(iter(settings.values())), method="greedy")
    base = SearchConfig(**{name: value for name, value in asdict(base).items() if name in _SHARED})
    for one in settings.values():
        check_needs(one, in_memory=in_memory)
    rows, task, answer = read_prompts(base, data, in_memory), None, str(config.answer)
    if config.gold is not None:  # a row without a true answer is said before anything is searched
        task = AnswerTask(rows.prompts, config.gold, find_extractor(answer), find_equality(answer))
        rows = with_answers(rows, task, config.bad_rows)
        task = replace(task, prompts=rows.prompts)
    models = searched_models(base, in_memory)
    loaded = load_searcher(base, say=lambda text: listener.say(f"warning: {text}"), models=models)
    prompts = usable(rows, loaded, listener)
    found = _found(config, settings, base, loaded, prompts, listener, interrupted)
    if found is None:
        return None
    points = _points(settings, base, found, loaded, quality or _quality(task, loaded), config.seed)
    if state.is_main_process:
        _report(config, points, loaded.identities, listener)
    return points


def _found(
    config: SweepConfig,
    settings: Mapping[str, SearchConfig],
    base: SearchConfig,
    loaded: Searcher,
    prompts: Sequence[Prompt],
    listener: Listener,
    interrupted: Callable[[], bool],
) -> dict[str, list[SearchResult]] | None:
    """Return the results of every search by name, the pool of samples first; None after an interruption."""
    pool = replace(
        base, method="sample", n=max([config.pool, *(s.n for s in settings.values() if _is_pooled(s, base))])
    )
    found: dict[str, list[SearchResult]] = {}
    searches = {"pool": pool} | {name: one for name, one in settings.items() if not _is_pooled(one, base)}
    for name, one in searches.items():
        path = Path(config.output) / "results" / f"{name.replace(' ', ',')}.jsonl"
        refuse_foreign(path, "tokenq sweep", overwrite=config.overwrite)
        told = _Named(name, listener)
        search_to_file(path, _as_loaded(one, loaded), prompts, told, interrupted, "tokenq sweep")
        if interrupted():
            return None
        PartialState().wait_for_everyone()
        found[name] = list(read_results(path))
    return found


class _Named:
    """Tells a listener about one of several searches: its first line begins with the name.

    Args:
        name: of the search.
        listener: is told.
    """

    def __init__(self, name: str, listener: Listener) -> None:
        self._head, self._listener = f"{name}: ", listener

    def __call__(self, event: Event) -> None:
        """Tell how far it is."""
        self._listener(event)

    def say(self, text: str) -> None:
        """Tell a line."""
        self._listener.say(self._head + text)
        self._head = ""


def parse_settings(config: SweepConfig) -> dict[str, SearchConfig]:
    """Return the configuration of each search by the words that ask for it: a method, and name=value options.

    Raises:
        UserError: an unknown method or option, a value of the wrong type, or one without effect.
    """
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
    drawn = ("temperature", "top_k", "top_p", "min_p", "alpha")
    judged = one.ranking == "value"  # a judge reads texts, which the pool's own search shows it
    return one.method in POOLED and not judged and all(getattr(one, name) == getattr(base, name) for name in drawn)


def _as_loaded(one: SearchConfig, loaded: Searcher) -> Searcher:
    """Return a searcher for one configuration, with the models and the β of all of them."""
    known = loaded.config
    config = replace(one, policy=known.policy, reference=known.reference, beta=known.beta)
    pairs = zip(loaded.terms, weights_of(config), strict=True)
    return replace(loaded, config=config, terms=tuple((tuned, untuned, alpha) for (tuned, untuned, _), alpha in pairs))


def _quality(task: AnswerTask | None, loaded: Searcher) -> Quality:
    if task is not None:
        return lambda result, candidate: task.correct(result.id, candidate.text)
    judge = loaded.judge
    assert judge is not None  # the configuration was checked
    known: dict[tuple[str, str], float] = {}

    def judged(result: SearchResult, candidate: Candidate) -> float:
        key = result.id, candidate.text
        if key not in known:
            known[key] = judge([result.prompt], [candidate.text], [candidate.terminal])[0]
        return known[key]

    return judged


def _points(
    settings: dict[str, SearchConfig],
    base: SearchConfig,
    found: dict[str, list[SearchResult]],
    loaded: Searcher,
    quality: Quality,
    seed: int,
) -> list[Point]:
    """Return every search as a point of the curve."""
    pool = found["pool"]
    ranking = "reward" if loaded.reference is not None else "mean_likelihood"
    asked = [("sample", base.ranking), ("best_of_n", ranking), *([("majority", base.ranking)] if base.answer else [])]
    pooled = [replace(base, method=method, ranking=by, beta=loaded.config.beta) for method, by in asked]
    points = []
    for name, one in settings.items():
        if _is_pooled(one, base):
            config = _as_loaded(one, loaded).config
            found[name] = [first_samples(samples, one.n, config) for samples in pool]
        rivals = rivals_of(found[name], pool, pooled)
        points.append(point(name, found[name], quality, found.get("greedy"), rivals, Resampling(seed=seed)))
    return points


def _report(config: SweepConfig, points: Sequence[Point], identities: Mapping[str, Any], listener: Listener) -> None:
    """Write the points as numbers, table and figure."""
    folder = Path(config.output)
    record = {**provenance(asdict(config), config.seed, identities), "made_by": "tokenq sweep"}
    write_json(folder / "sweep.json", {**record, "points": points})
    said = "".join(f"- {name}: {text}\n" for name, text in origin(record))
    write_text(folder / "sweep.md", f"{said}\n{sweep_table(points)}")
    try:
        for suffix in ("svg", "png"):
            said = "share of right answers" if config.gold else "quality"
            save_sweep_figure(folder / f"sweep.{suffix}", points, said)
    except UserError as problem:
        listener.say(f"no figure: {problem.message} {problem.hint}")
    listener.say(f"done: sweep.json, sweep.md and the figure are in {folder}")
