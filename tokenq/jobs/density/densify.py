"""`tokenq.densify`: chains of summaries of articles, in memory or in a file that a kill does not lose."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import tokenq
from tokenq.data.bad_rows import BadRowsError, UnusableRow
from tokenq.data.layouts import cells
from tokenq.data.layouts.columns import renamed_columns
from tokenq.data.sources import Data, tables_of
from tokenq.data.turns import BadRow
from tokenq.density.backends import Entities
from tokenq.density.measures import PUBLISHED, measured
from tokenq.density.prompt import CHAIN, Template, read_template
from tokenq.density.rules import has_capitals
from tokenq.files import json_line, plain, write_lines
from tokenq.jobs.density.config import DensifyConfig
from tokenq.jobs.density.entities import entities_of
from tokenq.jobs.density.forms import FORMS, Asking, Chain
from tokenq.jobs.density.writers import writer_of
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, data_given, pair_given
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.run import Rows, Run
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.rundir import provenance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MADE_BY = "tokenq densify"
ARTICLE = ("article", "document", "text")
"""Columns of what is summarised."""


@dataclass(frozen=True)
class Article:
    """What is summarised.

    Attributes:
        id: its "id" in the data, else its number, from 1.
        text: the article.
        kept: columns that go into the chain as they are: the prompt of a training on it.
    """

    id: str
    text: str
    kept: Mapping[str, Any] = field(default_factory=dict)


def densify(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    policy: Name | Run | InMemory | None = None,
    articles: Name | RowsInMemory = (),
    output: Name | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    listener: Listener = SILENCE,
    run: Name | Run | None = None,
    base: str | None = None,
    writer: str = "local",
    writer_model: str | None = None,
    writer_api: Literal["chat", "completions"] = "chat",
    columns: Mapping[str, str] = {},
    bad_rows: Literal["error", "drop"] = "error",
    form: Literal["chain", "steps", "guided"] = "chain",
    prompt_file: Name | None = None,
    steps: int = 5,
    words: int = 80,
    same_length: float = 0.05,
    attempts: int = 1,
    entities: str = "rules",
    max_new_tokens: int | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
    eos: Sequence[str] = (),
    batch_size: int = 8,
    seed: int = 0,
    overwrite: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    trust_remote_code: bool = False,
) -> Rows:
    """Summarise articles in steps that say more at one length, and return a row an article.

    The settings are those of `tokenq densify` (`tokenq densify --help` has a line each). With an output, the same call
    goes on where an interrupted one stopped.

    Args:
        policy: a folder, a hub id, a loaded model of `transformers`, (model, tokenizer), or a run.
        articles: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: file of chains; they stay in memory without one.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    keywords = locals()
    given, in_memory = pair_given({**keywords, "reference": None}, ("listener", "articles"))
    given.pop("reference")
    names, data = data_given(articles)
    with untouched():
        return densified(DensifyConfig(**given, articles=names), listener, in_memory, data)


def densified(
    config: DensifyConfig, listener: Listener, in_memory: Mapping[str, Loaded] = {}, data: Data | None = None
) -> Rows:
    """Summarise the articles of `config`, write what it asks for, and return the rows.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        in_memory: the policy, where it is loaded already.
        data: rows or sources, instead of those that the configuration names.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    path = None if config.output is None else Path(config.output)
    with claimed(MADE_BY, [] if path is None else [path], overwrite=config.overwrite):
        articles, dropped = read_articles(config.articles if data is None else data, config)
        entities = entities_of(config.entities)
        question = Template(CHAIN) if config.prompt_file is None else read_template(Path(config.prompt_file))
        writer = writer_of(config, in_memory, listener)
        asking = Asking(writer.write, config, entities, question)
        work = _Work(articles, asking, {"writer": writer.identity, "dropped": dict(dropped)})
        rows = work.in_memory(listener) if path is None else work.to_file(path, listener)
        for line in account(rows, config, dropped):
            listener.say(line)
        return Rows(rows)


def read_articles(data: Data, config: DensifyConfig) -> tuple[list[Article], Counter[str]]:
    """Return the articles of data, and what was left out, by reason.

    Raises:
        BadRowsError: names the first row without one, unless they are left out.
    """
    rows = [row for table in tables_of(data) for row in renamed_columns(table, config.columns)]
    found, bad = list[Article](), list[UnusableRow]()
    for place, row in enumerate(rows):
        try:
            if row.fault:
                raise row.fault
            found.append(_article(row.values, str(place + 1)))
        except BadRow as problem:
            bad.append(UnusableRow(place, row.where, problem))
    if bad and (config.bad_rows == "error" or not found):
        raise BadRowsError(bad, len(rows))
    return found, Counter(one.problem.reason for one in bad)


def _article(values: Mapping[str, Any], number: str) -> Article:
    name = next((one for one in ARTICLE if one in values), "prompt")
    if name not in values:
        hint = "Name its column: --columns article=THEIRS."
        raise BadRow("no article", f"it has no article (columns: {', '.join(map(repr, values))})", hint)
    text = cells.text(values, name)
    if not text.strip():
        raise BadRow("no article", f"column {name!r} is empty")
    prompt = values.get("prompt")
    own = values.get("id")
    return Article(str(own) if own is not None else number, text, {} if prompt is None else {"prompt": prompt})


@dataclass(frozen=True)
class _Work:
    """Articles to summarise, and how."""

    articles: Sequence[Article]
    asking: Asking
    record: Mapping[str, Any]

    def rows(self, articles: Sequence[Article], done: int, listener: Listener) -> Iterable[list[dict[str, Any]]]:
        """Yield the rows of each batch of articles that is not done."""
        size, form = self.asking.config.batch_size, FORMS[self.asking.config.form]
        for start in range(done, len(articles), size):
            batch = articles[start : start + size]
            chains = form([one.text for one in batch], self.asking)
            yield [row_of(*both, self.asking.entities, self.asking.config) for both in zip(batch, chains, strict=True)]
            listener(Event("densifying", min(start + size, len(articles)), len(articles)))

    def in_memory(self, listener: Listener) -> list[dict[str, Any]]:
        """Return all rows."""
        return [row for rows in self.rows(self.articles, 0, listener) for row in rows]

    def to_file(self, path: Path, listener: Listener) -> list[dict[str, Any]]:
        """Write all rows, going on where a killed run stopped, and return them."""
        key, config = self.key(), self.asking.config
        parts = Parts(path, key)
        if is_made(path, key):
            listener.say(f"the chains of {len(self.articles)} articles are in {path} already")
        else:
            own = self.articles[parts.mine]
            done = parts.begin()
            if done:
                listener.say(f"going on after {done} of {len(own)} articles that were summarised before")
            for rows in self.rows(own, done, listener):
                for row in rows:
                    parts.append(json_line(row))
            record = provenance(asdict(config), config.seed, self.record["writer"])
            record |= {"made_by": MADE_BY, "key": key, "records": len(self.articles), "dropped": self.record["dropped"]}
            write_lines(path, parts.in_order(), recorder(path, lambda: record))
            listener.say(f"done: the chains of {len(self.articles)} articles are in {path}")
        parts.remove()
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def key(self) -> str:
        """Return a key of all that the chains depend on."""
        config = {name: value for name, value in asdict(self.asking.config).items() if name not in _IDLE}
        who = self.record["writer"]
        weights = who.get("weights", sorted(plain(who).items()))
        said = [(one.id, one.text, str(one.kept)) for one in self.articles]
        made_of = [tokenq.__version__, sorted(config.items(), key=str), weights, self.asking.question.text, said]
        return hashlib.sha256(repr(made_of).encode("utf-8", "replace")).hexdigest()


_IDLE = ("output", "overwrite", "device", "articles", "columns", "policy", "run", "writer", "bad_rows", "prompt_file")
"""Settings that chains do not depend on, or that stand in the key by what they hold."""


def row_of(article: Article, chain: Chain, entities: Entities, config: DensifyConfig) -> dict[str, Any]:
    """Return the line of an article."""
    found = measured(chain.summaries, entities, article.text)
    off = [abs(one.words - config.words) <= config.same_length * config.words for one in found]
    row = {"id": article.id, "article": article.text, **article.kept}
    row |= {"summaries": chain.summaries, "entities": [list(one.entities) for one in found]}
    row |= {"densities": [one.density for one in found], "missing": chain.missing}
    row |= {name: [list(vars(one)[name]) for one in found] for name in ("added", "dropped")}
    row |= {name: [vars(one)[name] for one in found] for name in ("tokens", "words", "faithful", "fusion", "lead")}
    row |= {"length_kept": off, "repairs": dict(chain.repairs), "questions": chain.asked}
    return row | ({"problem": chain.problem} if chain.problem else {})


def account(rows: Sequence[Mapping[str, Any]], config: DensifyConfig, dropped: Counter[str]) -> list[str]:
    """Return what is to be said of chains, in lines."""
    whole = [row for row in rows if row["summaries"]]
    strict = sum(not row["repairs"] for row in whole)
    repairs = sum((Counter(row["repairs"]) for row in rows), Counter[str]())
    problems = Counter(str(row["problem"]) for row in rows if "problem" in row)
    said = [
        f"chains: {len(whole)} of {len(rows)} articles have one, {strict} as asked for to the letter"
        + _counted(repairs, "; strayed: ")
        + _counted(problems, "; none because ")
        + _counted(dropped, "; left out: ")
    ]
    if not whole:
        return said
    places = range(max(len(row["summaries"]) for row in whole))
    steps = [[(row, place) for row in whole if place < len(row["summaries"])] for place in places]
    means = {
        name: [fmean(float(row[name][place]) for row, place in one) for one in steps]
        for name in ("densities", "words", "length_kept")
    }
    published = " ".join(f"{one:.3f}" for one in PUBLISHED)
    said.append(f"density by step, entities by {config.entities}: {_shown(means['densities'])} (paper: {published})")
    said.append(f"words by step: {_shown(means['words'], 1)}; length kept: {_shown(means['length_kept'], 2)}")
    lost = sum(len(one) for row in whole for one in row["dropped"])
    said.append(
        f"entities dropped on the way: {lost} of {sum(len(one) for row in whole for one in row['entities'][:-1])}"
    )
    bare = sum(not any(map(has_capitals, row["summaries"])) for row in whole)
    if bare and config.entities == "rules":
        said.append(f"note: {bare} chains have no capitals, by which the rules know names: try --entities spacy:MODEL")
    return said


def _shown(values: Iterable[float], digits: int = 3) -> str:
    return " ".join(f"{one:.{digits}f}" for one in values)


def _counted(found: Counter[str], before: str) -> str:
    return before + ", ".join(f"{count} {name}" for name, count in found.most_common()) if found else ""
