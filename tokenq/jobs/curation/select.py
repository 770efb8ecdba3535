"""`tokenq.select`: choose the rows of preference data that are worth training on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tokenq.curation.selection.config import SelectConfig
from tokenq.curation.selection.findings import dropped_rows
from tokenq.curation.selection.rules import RULES, Evidence, Rule, best, refuse_useless
from tokenq.data.sources import Data
from tokenq.errors import UserError, unknown_name
from tokenq.files import write_json_lines
from tokenq.jobs.curation.evidence import SOURCES, Measuring
from tokenq.jobs.curation.held_out import RunRows
from tokenq.jobs.curation.pool import Pool, read_pool, values_of
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, settings_given
from tokenq.jobs.outputs import claimed, recorder
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.models.loaded import Loaded
from tokenq.rundir import provenance

MADE_BY = "tokenq select"


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
    keep: float = 0.25,
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
    if config.rule not in RULES:
        raise unknown_name("rule", config.rule, RULES)
    rule, path = RULES[config.rule], Path(config.output)
    with claimed(MADE_BY, [path], overwrite=config.overwrite):
        pool = read_pool(config.data if data is None else data, config, listener)
        trained = None if config.run is None else RunRows.of(config.run)
        if trained is not None:
            pool = trained.without_held_out(pool, listener)
        pool = _without_findings(pool, config)
        measuring = Measuring(config, pool, None if trained is None else trained.record, in_memory, listener)
        if trained is not None and rule.needs:
            trained.refuse_changed(config.data)
        found, kept = _chosen(rule, config, measuring)
        size = config.batch_size or (8 if trained is None else int(trained.record.config.get("batch_size", 8)))
        if len(kept) < 2 * size:
            raise UserError(
                f"{len(kept)} of {len(pool.pairs)} pairs would be kept: fewer than two batches of {size}.",
                "Raise --keep, or name a smaller --batch-size.",
            )
        result = Selected(path, tuple(pool.numbers[place] for place in kept), len(pool.pairs), pool.dropped, found)
        write_json_lines(
            path, values_of(pool, result.rows), recorder(path, lambda: _record(result, pool, config, measuring))
        )
    said = "".join(f"; {name}: {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in found.items())
    listener.say(f"done: {len(kept)} of {result.pairs} pairs ({rule.says}) are in {path}{said}")
    return result


def _without_findings(pool: Pool, config: SelectConfig) -> Pool:
    if config.drop is None:
        return pool
    for kind, rows in dropped_rows(Path(config.drop), config.drop_kinds, [row.where for row in pool.rows]).items():
        pool = pool.without(rows, kind)
    if not pool.pairs:
        raise UserError(f"{config.drop} drops every pair.", "Name fewer kinds with --drop-kinds.")
    return pool


def _chosen(rule: Rule, config: SelectConfig, measuring: Measuring) -> tuple[Mapping[str, float | str], Sequence[int]]:
    """Return what a rule found, and the places of the pairs that it keeps."""
    pairs = measuring.pool.pairs
    measured = {name: SOURCES[name](measuring) for name in rule.needs}
    evidence = replace(Evidence(len(pairs)), **measured)
    refuse_useless(evidence)
    worth = rule.worth(evidence)
    places = best(worth.numbers, max(1, round(config.keep * len(pairs))), config.seed)
    return worth.found, places.tolist()


def _record(result: Selected, pool: Pool, config: SelectConfig, measuring: Measuring) -> dict[str, Any]:
    """Return the provenance of the rows that are kept."""
    identities: dict[str, Any] = {"data": {"sources": list(config.data), "sha256": pool.digest()}}
    if measuring.record is not None:
        told = measuring.record.provenance
        identities["run"] = {
            "path": str(config.run),
            **{name: told.get(name) for name in ("model", "reference", "data")},
        }
    more = {"pairs": result.pairs, "dropped": dict(result.dropped), "found": dict(result.found)}
    made = {"made_by": MADE_BY, "rule": config.rule, "rows": list(result.rows), "records": len(result.rows), **more}
    return {**provenance(asdict(config), config.seed, identities), **made}
