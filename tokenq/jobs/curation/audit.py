"""`tokenq.audit`: what is wrong with preference data, row by row and as a whole."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenq.curation.audit.collector import Collector, Compared
from tokenq.curation.audit.config import AuditConfig
from tokenq.curation.audit.finding import KINDS, Fault, check_kinds, of_kinds
from tokenq.curation.audit.findings import Read, read_columns
from tokenq.curation.audit.shortcuts import Shortcut
from tokenq.data.bad_rows import BadRowsError, UnusableRow
from tokenq.data.files.local import given_rows
from tokenq.data.sources import Data
from tokenq.data.streams.raw import RawSource, raw_rows, raw_source
from tokenq.files import write_json
from tokenq.jobs.curation.suspects import (
    PairMargins,
    margins_of,
    noise_fault,
    numbers_of,
    suspects,
    traces_of,
)
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import Name, RowsInMemory, data_given
from tokenq.jobs.outputs import claimed
from tokenq.jobs.run import Rows, Run
from tokenq.listener import SILENCE, Event, Listener
from tokenq.report.audits.page import AuditPage, SuspectPair, Texts, write_audit_page
from tokenq.report.audits.tables import tables_of
from tokenq.rundir import provenance
from tokenq.stats.outcome import Table

if TYPE_CHECKING:
    from pandas import DataFrame

MADE_BY = "tokenq audit"

_BETWEEN = 1000
"""Rows between two reports of progress."""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        findings: what is wrong, in the order of `KINDS` in tokenq/curation/audit/finding.py.
        where: the place of every row, as messages have it: the data, then the held-out data.
        numbers: of the data as a whole.
        shortcuts: what tells chosen from rejected without understanding it; none without enough pairs.
        margins: what policies say of the pairs; empty without --run and --folds.
        settings: what was asked for.
    """

    findings: Sequence[Fault]
    where: Sequence[str] = field(repr=False)
    numbers: Mapping[str, Any] = field(repr=False)
    shortcuts: Sequence[Shortcut]
    margins: Mapping[str, Any]
    settings: Mapping[str, Any] = field(repr=False)
    _texts: Texts = field(repr=False)
    _pairs: Sequence[SuspectPair] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind that was found."""
        return {kind: count for kind in KINDS if (count := sum(one.kind == kind for one in self.findings))}

    def failed(self, kinds: Sequence[str]) -> list[str]:
        """Return those of some kinds of which there are findings; "any" stands for all.

        Raises:
            UserError: there is no such kind.
        """
        check_kinds(kinds)
        return list(dict.fromkeys(one.kind for one in of_kinds(self.findings, kinds)))

    @property
    def tables(self) -> Mapping[str, Rows]:
        """The findings, a row each."""
        return {"findings": Rows([one.to_dict(self.where) for one in self.findings])}

    def to_frame(self) -> "DataFrame":
        """Return the findings as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return self.tables["findings"].to_frame()

    def shown_tables(self) -> list[Table]:
        """Return what a terminal and a page show of it: findings by kind, shortcuts, margins."""
        return list(tables_of(self.findings, self.where, self.numbers, self.shortcuts, self.margins))

    def save(self, path: Name) -> Path:
        """Write the findings as JSON, with where they come from, and return the file."""
        write_json(Path(path), self._record() | self._told())
        return Path(path)

    def html(self, path: Name) -> Path:
        """Write the page, which opens from disk, and return its file."""
        record = self._record() | {"made_by": MADE_BY}
        counts = self.numbers["counts"]
        shown = AuditPage(self.shown_tables(), self.findings, self.where, self._texts, counts, self._pairs, record)
        write_audit_page(Path(path), shown)
        return Path(path)

    def _told(self) -> dict[str, Any]:
        return {
            "made_by": MADE_BY,
            "findings": [one.to_dict(self.where) for one in self.findings],
            "counts": self.counts,
            "numbers": dict(self.numbers),
            "shortcuts": {one.name: one.to_dict() for one in self.shortcuts},
            "margins": dict(self.margins),
        }

    def _record(self) -> dict[str, Any]:
        sources = {"data": {"sources": list(self.settings["data"])}}
        return provenance(dict(self.settings), self.settings["seed"], sources)


def audit(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    data: Name | RowsInMemory,
    *,
    eval_data: Name | RowsInMemory = (),
    listener: Listener = SILENCE,
    columns: Mapping[str, str] = {},
    style: Literal["as_given", "chat"] = "as_given",
    bad_rows: Literal["error", "drop"] = "drop",
    similarity: float = 0.6,
    bias_above: float = 0.6,
    tokenizer: Name | None = None,
    run: Name | Run | None = None,
    folds: int = 0,
    model: Name | None = None,
    fold_dir: Name | None = None,
    beta: float | None = None,
    learning_rate: float | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    top: int = 20,
    fail_on: Sequence[str] = (),
    output: Name | None = None,
    html: Name | None = None,
    overwrite: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    tokens_per_batch: int = 4096,
    seed: int = 0,
) -> Audit:
    """Look for what is wrong with preference data, and return what was found.

    The settings are those of `tokenq audit` (`tokenq audit --help` has a line each). Data may be in memory: a
    `datasets.Dataset`, a pandas frame or a list of dictionaries.

    Args:
        data: names of files or hub ids, or rows.
        eval_data: held-out data, likewise.
        listener: told how far it is.

    Raises:
        UserError: there are no such data, a row cannot be read and is not to be left out, or what a training raises.
    """
    given = {name: value for name, value in locals().items() if name != "listener"}
    rows: dict[str, Data] = {}
    for name in ("data", "eval_data"):
        given[name], rows[name] = data_given(given[name])
    given["eval_data"] = given["eval_data"] if rows["eval_data"] else ()
    for name in ("tokenizer", "run", "model", "fold_dir", "output", "html"):
        given[name] = None if given[name] is None else fspath(given[name])
    config = AuditConfig(**given)
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with untouched(), claimed(MADE_BY, files, overwrite=config.overwrite):
        found = _audited(config, rows, listener)
        if config.output is not None:
            listener.say(f"findings: {found.save(config.output)}")
        if config.html is not None:
            listener.say(f"page: {found.html(config.html)}")
    return found


def _audited(config: AuditConfig, rows: Mapping[str, Data], listener: Listener) -> Audit:
    asks = config.run is not None or config.folds > 0
    collector = Collector(_counter(config), keep_pairs=asks)
    with closing(collector.columns.likenesses):
        bad = _collect(collector, config, rows["data"], listener)
        if rows["eval_data"]:
            collector.hold_out()
            bad += _collect(collector, config, rows["eval_data"], listener)
        if bad and config.bad_rows == "error":
            raise BadRowsError(bad, len(collector.columns.where))
        read = read_columns(
            collector.columns,
            likeness=config.similarity,
            bias_above=config.bias_above,
            progress=lambda done, total: listener(Event("comparing", done, total)),
        )
    margins = margins_of(config, collector.pairs, listener) if asks and collector.pairs else None
    if asks and margins is None:
        listener.say("note: there are no pairs, so that no policy says anything of them")
    return _result(config, read, collector, margins, listener)


def _counter(config: AuditConfig) -> Any:
    """Return what counts the tokens of a text, None where nobody is asked."""
    if config.tokenizer is None:
        return None
    from tokenq.models.load import ModelSpec
    from tokenq.models.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(ModelSpec(config.tokenizer))
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _collect(collector: Collector, config: AuditConfig, data: Data, listener: Listener) -> list[UnusableRow]:
    """Look at every row of some data, and return those that cannot be read."""
    bad = []
    for source in _sources(data, config):
        number, row, count = -1, 0, 0
        for count, one in enumerate(source.rows, 1):
            if one.number != number:
                number, row = one.number, collector.row(one.row.where)
            if one.bad is not None:
                kind = FAULTS.get(one.bad.problem.reason, "unusable")
                collector.columns.fault(kind, row, one.bad.problem.detail)
                bad += [one.bad._replace(place=row)] if kind == "unusable" else []
            elif one.example is not None:
                collector.add(row, one.example, one.row.values, grouped=source.form.grouped)
            if count % _BETWEEN == 0:
                listener(Event("looking at rows", count, count + _BETWEEN))
        collector.close()
        listener(Event("looking at rows", count, count))
    return bad


FAULTS = {"chosen equals rejected": "identical", "empty response": "empty", "empty prompt": "empty"}
"""Reasons for which layouts refuse a row that are findings of their own."""


def _sources(data: Data, config: AuditConfig) -> Iterator[RawSource]:
    named = [one for one in data if isinstance(one, str)]
    for text in named:
        yield raw_source(text, config.columns, config.style)
    if not named:
        rows = given_rows([dict(one) for one in data if not isinstance(one, str)])
        yield raw_rows(rows, config.columns, config.style)


def _result(
    config: AuditConfig, read: Read, collector: Collector, margins: PairMargins | None, listener: Listener
) -> Audit:
    faults, numbers, pairs = list(read.faults), {}, []
    if margins is not None:
        faults += [*noise_fault(margins), *(fault for _, fault in suspects(config, collector.pairs, margins))]
        numbers = dict(numbers_of(margins))
        if config.html is not None and config.top:
            pairs = _suspect_pairs(config, collector.pairs, margins, collector.columns.where, listener)
    return Audit(
        faults,
        collector.columns.where,
        read.numbers,
        read.shortcuts,
        numbers,
        asdict(config),
        collector.columns.shown,
        pairs,
    )


def _suspect_pairs(
    config: AuditConfig,
    pairs: Sequence[Compared],
    margins: PairMargins,
    where: Sequence[str],
    listener: Listener,
) -> list[SuspectPair]:
    """Return the most suspicious pairs with their traces, in their order."""
    places = margins.order()[: config.top]
    wrong = None if margins.noise is None else margins.noise.wrong(margins.values)
    found = {}
    for place, chosen, rejected in traces_of(config, pairs, margins, places, listener):
        rows = pairs[place].rows
        probability = None if wrong is None else float(wrong[place])
        named = ", ".join(where[row] for row in rows)
        found[place] = SuspectPair(named, float(margins.values[place]), probability, chosen, rejected)
    return [found[place] for place in places if place in found]
