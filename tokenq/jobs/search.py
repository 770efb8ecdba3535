"""Answers to prompts, by the search that was asked for: in memory, or into a file that a kill does not lose."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

import tokenq
from tokenq.data.bad_rows import first_named
from tokenq.data.conditioning.control import with_control
from tokenq.data.prompts import Given, LoadedPrompts, Prompt, encode_prompts, load_prompts, usable_prompts
from tokenq.data.sources import Data
from tokenq.errors import unknown_name
from tokenq.files import json_line, plain, write_lines
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, data_given, settings_given
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.run import Run
from tokenq.jobs.searcher import Searcher, TextReward, load_searcher, searched_models
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.models.tokenizer import open_tokenizer
from tokenq.records.schema import SCHEMA
from tokenq.report.notebook import SearchResults
from tokenq.rundir import provenance
from tokenq.runs.places import run_folder
from tokenq.search.branches import never
from tokenq.search.config import SearchConfig


def search(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    policy: Name | Run | InMemory | None = None,
    prompts: Name | RowsInMemory = (),
    output: Name | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    judge: TextReward | None = None,
    listener: Listener = SILENCE,
    interrupted: Callable[[], bool] = never,
    reference: Name | InMemory | None = None,
    run: Name | Run | None = None,
    base: str | None = None,
    beta: float | None = None,
    proxy: Sequence[str] = (),
    alpha: Sequence[str] = (),
    reward_model: str | None = None,
    reward_weights: Mapping[str, str] = {},
    prompt: Given | None = None,
    condition: Mapping[str, float] = {},
    columns: Mapping[str, str] = {},
    bad_rows: Literal["error", "drop"] = "error",
    style: Literal["as_given", "chat"] = "as_given",
    max_new_tokens: int = 256,
    budget: int | None = None,
    eos: Sequence[str] = (),
    method: str = "beam",
    objective: str = "likelihood",
    width: int = 5,
    n: int = 8,
    ranking: str = "reward",
    answer: str | None = None,
    length_penalty: float = 1.0,
    early_stopping: str = "false",
    groups: int = 1,
    diversity_penalty: float = 0.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    chunk_samples: int = 4,
    chunk_length: int = 5,
    chunk_from: str = "policy",
    lookahead_top_k: int = 10,
    lookahead_weight: float = 1.0,
    simulations: int = 64,
    children: int = 8,
    tree_rule: str = "puct",
    exploration: float = 1.25,
    backup: Literal["max", "mean"] = "max",
    commit: Literal["never", "token"] = "never",
    rollouts: int = 1,
    html: Name | None = None,
    overwrite: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    tokens_per_batch: int = 4096,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    trust_remote_code: bool = False,
) -> SearchResults:
    """Write answers to prompts, and return them.

    The settings are those of `tokenq search` (`tokenq search --help` has a line each). With an output, the same call
    goes on where an interrupted one stopped.

    Args:
        policy: a folder, a hub id, a loaded model of `transformers`, (model, tokenizer), or a run.
        prompts: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: file of results; they stay in memory without one.
        tokenizer: of a loaded model.
        judge: (prompts, responses) → what each is worth, instead of a reward model.
        listener: told what is found, and how far it is.
        interrupted: True ends the search with what there is.
        prompt: texts or turns, instead of prompts from data: one, or a list of them.

    Raises:
        UserError: for anything that the user can mend.
    """
    given, in_memory, data = settings_given(locals(), "prompts", ("judge", "listener", "interrupted"))
    if prompt is not None and not isinstance(prompt, str):
        given["prompt"] = "prompts in memory"
    with untouched():
        return searched(SearchConfig(**given), listener, judge, interrupted, in_memory, data or prompt)


def decode(
    policy: Name | Run | InMemory,
    prompts: Given | Name | RowsInMemory,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    judge: TextReward | None = None,
    listener: Listener = SILENCE,
    **settings: Any,
) -> SearchResults:
    """Search for answers to prompts: `decode(p, "What is 2 + 2?", method="beam", width=5)`.

    Args:
        policy: a run or its folder (reference and β are then the run's), a folder, a hub id, the folder of an adapter,
            a loaded model of `transformers`, or (model, tokenizer).
        prompts: a text (a user's turn, for a tokenizer with a chat template), a conversation as a list of turns, a list
            of either; or a file as a `Path`, a `datasets.Dataset`, a pandas frame, rows as a list of dictionaries.
        tokenizer: of a loaded model.
        judge: (prompts, responses) → what each is worth, instead of a reward model.
        listener: told what could not be done as asked.
        settings: those of `tokenq search`: reference, method, width, n, objective, seed, …

    Raises:
        UserError: for anything that the user can mend.
    """
    for name in settings:
        if name not in SearchConfig.__dataclass_fields__:
            raise unknown_name("option of decode", name, SearchConfig.__dataclass_fields__)
    folder = run_folder(policy)
    named: dict[str, Any] = {"policy": policy} if folder is None else {"run": folder}
    asked: dict[str, Any] = {"prompts": prompts} if is_data(prompts) else {"prompt": prompts}
    return search(**named, **asked, tokenizer=tokenizer, judge=judge, listener=listener, **settings)


def is_data(prompts: Any) -> bool:
    """Return whether prompts are rows, or the name of a file, and not the prompts themselves."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return not isinstance(prompts, str)
    rows = all(isinstance(one, Mapping) and "role" not in one for one in prompts)
    return len(prompts) > 0 and (rows or all(isinstance(one, PathLike) for one in prompts))


def answers_of(searcher: Searcher, prompts: Given | Name | RowsInMemory) -> SearchResults:
    """Search with loaded models, for prompts in any form that Python may give them."""
    config = searcher.config
    if is_data(prompts):
        loaded = load_prompts(data_given(prompts)[1], config.columns, config.style, config.bad_rows)
        found = searcher.conditioned(usable_prompts(loaded, searcher.tokenizer, config.bad_rows)).prompts
    else:
        found = searcher.prompts(cast(Given, prompts))
    return SearchResults(list(searcher.results(found)), _title(config), _page_record(config, searcher))


def searched(
    config: SearchConfig,
    listener: Listener,
    judge: TextReward | None = None,
    interrupted: Callable[[], bool] = never,
    in_memory: Mapping[str, Loaded] = {},
    given: Data | Given | None = None,
) -> SearchResults:
    """Answer the prompts of `config`, write what it asks for, and return the answers.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        judge: instead of the reward model of the configuration.
        interrupted: True ends the search with what there is.
        in_memory: models by their role, instead of files of that name.
        given: rows or sources where the configuration has prompts, else texts or turns.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with claimed("tokenq search", files, overwrite=config.overwrite):
        first = PartialState(cpu=config.device == "cpu").is_main_process
        listener = listener if first else SILENCE
        given = given if given is not None else config.prompts or config.prompt
        loaded = read_prompts(config, cast(Data, given), in_memory) if config.prompts else None
        models = searched_models(config, in_memory)
        searcher = load_searcher(config, judge, lambda text: listener.say(f"warning: {text}"), models)
        prompts = searcher.prompts(cast(Given, given)) if loaded is None else usable(loaded, searcher, listener)
        source: Path | list[Any]
        if config.output is None:
            source = list(searcher.results(prompts, interrupted=interrupted))
        else:
            source = Path(config.output)
            search_to_file(source, searcher, prompts, listener, interrupted)
        answers = SearchResults(source, _title(config), _page_record(config, searcher), interrupted())
        if config.html is not None and first:
            listener.say(f"page: {answers.html(config.html)}")
        return answers


def _title(config: SearchConfig) -> str:
    return f"{config.method} with {config.policy or config.run}"


def _page_record(config: SearchConfig, searcher: Searcher) -> dict[str, Any]:
    return provenance(asdict(config), config.seed, searcher.identities) | {"beta": searcher.config.reward_beta}


def read_prompts(config: SearchConfig, data: Data, in_memory: Mapping[str, Loaded] = {}) -> LoadedPrompts:
    """Return the prompts of data, before any model is read.

    Args:
        config: says how rows are read, and by which policy.
        data: sources, or rows.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: a row cannot be used and is not to be left out; the first in the order of the data is named.
    """
    with first_named(lambda before: encode_prompts(before, open_tokenizer(searched_models(config, in_memory).policy))):
        return load_prompts(data, config.columns, config.style, config.bad_rows)


def usable(loaded: LoadedPrompts, searcher: Searcher, listener: Listener) -> list[Prompt]:
    """Return the prompts that the policy can read, and say what was left out.

    Raises:
        UserError: one cannot be read, and is not to be left out.
    """
    found = searcher.conditioned(usable_prompts(loaded, searcher.tokenizer, searcher.config.bad_rows))
    if found.dropped:
        listener.say(f"prompts: {found.line()}")
    return found.prompts


def search_to_file(
    path: Path,
    searcher: Searcher,
    prompts: Sequence[Prompt],
    listener: Listener,
    interrupted: Callable[[], bool] = never,
    made_by: str = "tokenq search",
) -> None:
    """Search, and write a line per prompt to `path`, with a record of where they come from beside it.

    Lines are kept as they come; a file that holds the whole of the same job is left as it is. What was interrupted or
    killed goes on where it stopped, beside the same prompts as before, so that it finds the same to the last bit; a
    search that was cut short by the interruption is done again then.
    """
    state, key = PartialState(), _key(searcher, prompts)
    listener = listener if state.is_main_process else SILENCE
    parts = Parts(path, key)
    if is_made(path, key):
        listener.say(f"the answers to {len(prompts)} prompts are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            parts.remove()
        return
    own = prompts[parts.mine]
    done = parts.begin(lambda line: json.loads(line)["stopped"] != "interrupted")
    if done:
        listener.say(f"going on after {done} of {len(own)} prompts that were searched before")
    for result in searcher.results(
        own, lambda part, whole: listener(Event("searching", part, whole)), interrupted, done
    ):
        parts.append(json_line(result.to_dict()))
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    config, count = asdict(searcher.config), sum(1 for _ in parts.in_order())
    sources = {**searcher.identities, "prompts": {"sources": plain(config["prompts"]), "sha256": _digest(prompts)}}
    record = {**provenance(config, searcher.config.seed, sources), "made_by": made_by, "records": count}
    record |= {} if interrupted() else {"key": key}
    write_lines(path, parts.in_order(), recorder(path, lambda: record))
    if interrupted():
        listener.say(f"stopped: {count} of {len(prompts)} prompts are in {path}; the same command goes on from there")
        return
    parts.remove()
    listener.say(f"done: the answers to {count} prompts are in {path}")


_IDLE = (
    "output",
    "html",
    "overwrite",
    "batch_size",
    "tokens_per_batch",
    "device",
    "prompts",
    "columns",
    "run",
    "policy",
)
"""Settings that results do not depend on, or that stand in the key by what they hold."""


def _key(searcher: Searcher, prompts: Sequence[Prompt]) -> str:
    """Return a key of all that the results depend on."""
    config = {name: value for name, value in asdict(searcher.config).items() if name not in _IDLE}
    made_of = [tokenq.__version__, SCHEMA, *sorted(config.items(), key=str)]
    if searcher.judge is not None and searcher.config.reward_model is None:
        made_of.append(repr(searcher.judge))  # a function is itself alone: its results are not taken for another's
    weights = [identity["weights"] for identity in searcher.identities.values()]
    return hashlib.sha256(repr((made_of, weights, _digest(prompts))).encode()).hexdigest()


def _digest(prompts: Sequence[Prompt]) -> str:
    said = "\n".join(f"{prompt.id}:{with_control(prompt.text, prompt.condition)!r}" for prompt in prompts)
    return hashlib.sha256(said.encode()).hexdigest()
