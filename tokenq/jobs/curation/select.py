"""`tokenq.select`: choose the rows of preference data that are worth training on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from tokenq.curation.selection.config import SelectConfig
from tokenq.curation.selection.findings import dropped_rows
from tokenq.curation.selection.first_errors import step_pairs
from tokenq.curation.selection.rules import RULES, Evidence, best, refuse_useless
from tokenq.data.sources import Data
from tokenq.errors import UserError, unknown_name
from tokenq.files import write_json_lines
from tokenq.jobs.curation.evidence import SOURCES, Measuring
from tokenq.jobs.curation.folds import pair_row
from tokenq.jobs.curation.held_out import RunRows
from tokenq.jobs.curation.pool import Pool, read_pool, values_of
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, settings_given
from tokenq.jobs.outputs import claimed, is_first, recorder
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.models.loaded import Loaded
from tokenq.rundir import provenance
from tokenq.runs.record import RunRecord

MADE_BY = "tokenq select"

BATCH = 8
"""Pairs of a batch, where nobody says."""


@dataclass(frozen=True)
class Selected:
    """The rows that were kept.

    Attributes:
        path: the file of these rows.
        rows: their numbers, counted from 0 over all of the data.
        pairs: how many pairs there were to choose from.
        dropped: rows that were not, by reason.
        found: what the rule found out on the way, by name.
    """

    path: Path
    rows: tuple[int, ...]
    pairs: int
    dropped: Mapping[str, int]
    found: Mapping[str, float | str]


def select(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    data: Name | RowsInMemory,
    output: Name,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    rule: str = "random",
    keep: float | None = None,
    drop: Name | None = None,
    drop_kinds: Sequence[str] = (),
    folds: int = 2,
    folds_output: Name | None = None,
    batch_size: int | None = None,
    policy: Name | InMemory | Run | None = None,
    reference: Name | InMemory | None = None,
    run: Name | Run | None = None,
    base: str | None = None,
    beta: float | None = None,
    columns: Mapping[str, str] = {},
    style: Literal["as_given", "chat"] = "as_given",
    bad_rows: Literal["error", "drop"] = "error",
    max_length: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    trust_remote_code: bool = False,
    tokens_per_batch: int = 4096,
    overwrite: bool = False,
    seed: int = 0,
) -> Selected:
    """Choose rows of preference data, write them as they stand, and return which they are.

    The settings are those of `tokenq select` (`tokenq select --help` has a line each).

    Args:
        data: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: file of the rows that are kept.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    given, in_memory, rows = settings_given(locals(), "data", ("listener",))
    with untouched():
        return selected(SelectConfig(**given), listener, in_memory, rows)


def selected(
    config: SelectConfig, listener: Listener, in_memory: Mapping[str, Loaded] = {}, data: Data | None = None
) -> Selected:
    """Choose what `config` says, write it, and return which rows they are.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        in_memory: models by their role, instead of files of that name.
        data: instead of the files that the configuration names.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    choose = {**dict.fromkeys(RULES, chosen_rows), **MAKERS}
    if config.rule not in choose:
        raise unknown_name("rule", config.rule, choose)
    with claimed(MADE_BY, [Path(config.output)], overwrite=config.overwrite):
        return choose[config.rule](config, listener, in_memory, config.data if data is None else data)


def chosen_rows(config: SelectConfig, listener: Listener, in_memory: Mapping[str, Loaded], data: Data) -> Selected:
    """Choose rows by a rule, write them, and return which they are; the arguments are those of `selected`."""
    rule = RULES[config.rule]
    pool = read_pool(data, config, listener)
    trained = None if config.run is None else RunRows.of(config.run)
    if trained is not None:
        pool = trained.without_held_out(pool, listener)
    pool = _without_findings(pool, config)
    record = None if trained is None else trained.record
    measuring = Measuring(config, pool, record, in_memory, listener)
    if trained is not None and rule.needs:
        trained.refuse_changed(config.data)
    evidence = replace(Evidence(len(pool.pairs)), **{name: SOURCES[name](measuring) for name in rule.needs})
    refuse_useless(evidence)
    worth = rule.worth(evidence)
    share = rule.share if config.keep is None else config.keep
    places = best(worth.numbers, max(1, round(share * len(pool.pairs))), config.seed)
    numbers = tuple(pool.numbers[place] for place in places)
    result = Selected(Path(config.output), numbers, len(pool.pairs), pool.dropped, worth.found)
    models: dict[str, Any] = {} if record is None else {"run": _identity(config, record)}
    if {"margins", "references"} & set(rule.needs):
        models |= dict(zip(("policy", "reference"), measuring.reader.identities, strict=True))
    _write(result, values_of(pool, numbers), config, pool, models, _batch(config, record))
    listener.say(f"done: {len(numbers)} of {result.pairs} pairs ({rule.says}) are in {config.output}{_told(result)}")
    return result


def paired_steps(config: SelectConfig, listener: Listener, in_memory: Mapping[str, Loaded], data: Data) -> Selected:
    """Write pairs of solutions in steps, and return the rows of the wrong ones; the arguments are as in `selected`."""
    given = [name for name in _OF_PAIRS if getattr(config, name)]
    if given or in_memory:
        flag = (given or ["policy"])[0].replace("_", "-")
        raise UserError(f"--{flag} is given, and --rule first_error goes by labels of steps.", "Leave it out.")
    pool = read_pool(data, config, listener, selection="steps")
    found, without = step_pairs(pool.pairs, [pool.rows[number].values for number in pool.numbers])
    if not found:
        raise UserError(
            f"None of {without} wrong solutions has a right continuation.",
            "Add a column continuation, or right solutions of the same problems that begin alike.",
        )
    places = best(np.zeros(len(found)), max(1, round((config.keep or 1.0) * len(found))), config.seed)
    kept = [found[place] for place in places]
    rows = [{**pair_row(one.pair), "shared_steps": one.shared} for one in kept]
    dropped = {**pool.dropped, "wrong without a right continuation": without}
    told = {"shared steps, mean": float(np.mean([one.shared for one in kept]))}
    numbers = tuple(pool.numbers[one.wrong] for one in kept)
    result = Selected(Path(config.output), numbers, len(found), dropped, told)
    right = [None if one.right is None else pool.numbers[one.right] for one in kept]
    _write(result, rows, config, pool, {"continuations": right}, _batch(config, None))
    said = f"; {without} wrong solutions have no right continuation" if without else ""
    listener.say(f"done: {len(rows)} pairs that share a prefix are in {config.output}{_told(result)}{said}")
    return result


MAKERS: dict[str, Callable[[SelectConfig, Listener, Mapping[str, Loaded], Data], Selected]] = {
    "first_error": paired_steps
}
"""Rules that make rows of their own, by the name that --rule has for them."""

_OF_PAIRS = ("policy", "reference", "run", "base", "beta", "drop", "folds_output")
"""Settings that rules which make rows do not read."""


def _without_findings(pool: Pool, config: SelectConfig) -> Pool:
    if config.drop is None:
        return pool
    for kind, rows in dropped_rows(Path(config.drop), config.drop_kinds, [row.where for row in pool.rows]).items():
        pool = pool.without(rows, kind)
    if not pool.pairs:
        raise UserError(f"{config.drop} drops every pair.", "Name fewer kinds with --drop-kinds.")
    return pool


def _batch(config: SelectConfig, record: RunRecord | None) -> int:
    """Return the batch size of the training that is to follow."""
    default = BATCH if record is None else int(record.config.get("batch_size", BATCH))
    return config.batch_size or default


def _write(
    result: Selected,
    rows: Sequence[Mapping[str, Any]],
    config: SelectConfig,
    pool: Pool,
    identities: Mapping[str, Any],
    batch: int,
) -> None:
    """Write rows, and what they were made of beside them.

    Raises:
        UserError: they are fewer than two batches.
    """
    if len(rows) < 2 * batch:
        raise UserError(
            f"{len(rows)} of {result.pairs} pairs would be kept: fewer than two batches of {batch}.",
            "Raise --keep, or name a smaller --batch-size.",
        )
    data = {"sources": list(config.data), "sha256": pool.digest()}
    made = {"made_by": MADE_BY, "rule": config.rule, "rows": list(result.rows), "records": len(rows)}
    made |= {"pairs": result.pairs, "dropped": dict(result.dropped), "found": dict(result.found)}
    record = {**provenance(asdict(config), config.seed, {"data": data, **identities}), **made}
    if is_first():
        write_json_lines(result.path, rows, recorder(result.path, lambda: record))


def _identity(config: SelectConfig, record: RunRecord) -> dict[str, Any]:
    return {"path": str(config.run), **{name: record.provenance.get(name) for name in ("model", "reference", "data")}}


def _told(result: Selected) -> str:
    return "".join(
        f"; {name}: {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in result.found.items()
    )
