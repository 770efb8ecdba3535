"""A policy with its reference, loaded: it reads responses, token by token, and writes answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

from tokenq.data.conditioning.asked import asked_levels, conditioned_examples
from tokenq.data.encoding import piece_of
from tokenq.data.examples import single_example
from tokenq.data.prompts import Given, given_prompts
from tokenq.data.summary import DataSummary
from tokenq.data.tokenize import refuse_bad, tokenize
from tokenq.errors import UserError, unknown_name
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import LOADED, Name, Options, RowsInMemory, data_given, examples_of
from tokenq.jobs.search import answers_of
from tokenq.jobs.searcher import Searcher, Terms, TextReward, check_settings, rating_of
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.models.limits import BeyondContext, ModelLimits, refuse_beyond
from tokenq.models.open import OpenedPair, open_model
from tokenq.models.stamps import Stamp, guarded
from tokenq.models.tokenizer import check_tokenizers
from tokenq.options import SegmentOptions
from tokenq.records.examples import Example
from tokenq.records.traces import TokenTrace
from tokenq.report.notebook import SearchResults, Traces, TraceView
from tokenq.rundir import provenance
from tokenq.score.aligned import score_aligned
from tokenq.score.health import row_warnings
from tokenq.score.rewards import RewardReader, bare_traces, with_rewards
from tokenq.score.rows import ScoredRow, Scoring
from tokenq.score.segments import marked, said
from tokenq.score.spans import find_cut
from tokenq.score.trace import bare_trace, score, score_totals, without_tokens
from tokenq.search.config import SearchConfig

_SEARCH = [
    name
    for name in SearchConfig.__dataclass_fields__
    if name not in ("policy", "reference", "run", "base", "proxy", "alpha", "prompts", "prompt", "output", "html")
]
"""Settings of a search with models that are loaded."""


@dataclass(frozen=True)
class Reader:
    """A policy with its reference, or a reward model, ready to read.

    Attributes:
        pair: policy and reference; None where a reward model reads alone.
        tokenizer: the policy's, or the reward model's.
        options: how they are read.
        limits: of every model with its name, the policy's and then the reference's first.
        files: stamps of the files that all their weights are mapped from.
        rewards: a reward model that reads the same tokens, or None.
        parts: segments of responses with strengths of their own in the run that the pair comes from.
    """

    pair: OpenedPair | None
    tokenizer: Any
    options: Options
    limits: tuple[tuple[ModelLimits, str], ...]
    files: tuple[Stamp, ...]
    rewards: RewardReader | None = None
    parts: SegmentOptions = field(default_factory=SegmentOptions)

    @property
    def identities(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(Policy, reference) as provenance has them, empty where none reads."""
        return ({}, {}) if self.pair is None else self.pair.identities

    @property
    def other_tokenizer(self) -> Any:
        """The reference's tokenizer, where it is another one; credit then goes to stretches of text."""
        return None if self.pair is None else self.pair.other_tokenizer

    def rows(self, examples: Sequence[Example], bad_rows: str = "error") -> tuple[list[ScoredRow], DataSummary]:
        """Return examples in the policy's tokens, and what became of those that are not among them.

        Args:
            examples: what is to be read.
            bad_rows: "error" or "drop", for those that cannot be used: refused by the chat template, without tokens.

        Raises:
            BadRowsError: names the first that cannot be used.
            BeyondContext: a row is longer than a model can read, and none are to be dropped.
            UserError: nothing is left, or nothing says which levels a policy is asked for that was trained to be.
        """
        name = str(self.identities[0].get("path", "the reward model"))
        asked = asked_levels(self.tokenizer, self.options.condition, name)
        examples, unrated = conditioned_examples(examples, *asked, bad_rows)
        rows, summary = self._rows(examples, self.tokenizer, bad_rows)
        summary = replace(summary, dropped={**summary.dropped, **unrated})
        rows, beyond = self.readable(rows, bad_rows)
        if beyond:
            summary = replace(summary, dropped=summary.dropped | {"longer than the model's context": beyond})
        if self.other_tokenizer is None:
            return rows, summary
        theirs = {
            row.group.where for row in self._rows([row.example for row in rows], self.other_tokenizer, bad_rows)[0]
        }
        lost = {"unusable for the other tokenizer": sum(row.group.where not in theirs for row in rows)}
        dropped = summary.dropped | {reason: count for reason, count in lost.items() if count}
        return [row for row in rows if row.group.where in theirs], replace(summary, dropped=dropped)

    def readable(self, rows: Sequence[ScoredRow], bad_rows: str = "error") -> tuple[list[ScoredRow], int]:
        """Return the rows that the models can read, and how many they cannot.

        Args:
            rows: in the policy's tokens.
            bad_rows: "error" or "drop", for those that are longer than a model can read.

        Raises:
            BeyondContext: a row is longer than a model can read, and none are to be dropped.
            UserError: nothing is left.
        """
        readers = self.limits if self.other_tokenizer is None else self.limits[:1]
        kept, beyond = [], 0
        for row in rows:
            try:
                kept.append(self._kept(row, readers))
            except BeyondContext:
                if bad_rows == "error":
                    raise
                beyond += 1
        if rows and not kept:
            raise UserError("All rows are longer than the model's context.", "Give --max-length to have them cut.")
        return kept, beyond

    def _kept(self, row: ScoredRow, readers: Sequence[tuple[ModelLimits, str]]) -> ScoredRow:
        """Return a row that its readers can read, with what they were not made for among its warnings."""
        said = [refuse_beyond(limits, [row.group], name) for limits, name in readers]
        beyond = [f"longer than {limits.context} tokens" for (limits, _), one in zip(readers, said, strict=True) if one]
        return replace(row, warnings=(*row.warnings, *dict.fromkeys(beyond))) if beyond else row

    def traces(self, rows: Sequence[ScoredRow], done: int = 0) -> Iterator[list[TokenTrace]]:
        """Yield the traces of every row, in order, one for each response.

        Args:
            rows: what to score.
            done: rows at the beginning that are left out; the others get the same bits as with them.

        Raises:
            UserError: weights were written over while they were in use.
        """
        return self._judged(self._policy_traces(rows, done), rows, done)

    def totals(self, rows: Sequence[ScoredRow], done: int = 0) -> Iterator[list[TokenTrace]]:
        """Yield the totals of every row as `traces` does its traces, without tokens: to the last bit the same sums."""
        scoring, budget = self._scoring, self.options.tokens_per_batch
        read: Iterator[list[TokenTrace]]
        if self.pair is None:
            read = ([bare_trace(row, which, scoring) for which in range(len(row.texts))] for row in rows[done:])
        elif self.other_tokenizer is None:
            read = score_totals(rows, self.pair.models.read_logps, scoring, budget, done)
        else:
            read = (list(map(without_tokens, row)) for row in self._policy_traces(rows, done))
        return self._judged(read, rows, done)

    def _judged(
        self, traces: Iterator[list[TokenTrace]], rows: Sequence[ScoredRow], done: int
    ) -> Iterator[list[TokenTrace]]:
        """Yield traces with what a reward model says, where there is one."""
        budget = self.options.tokens_per_batch
        if self.rewards is not None:
            traces = with_rewards(traces, rows, self.rewards, budget, done)
        return guarded(traces, self.files)

    def _policy_traces(self, rows: Sequence[ScoredRow], done: int) -> Iterator[list[TokenTrace]]:
        budget = self.options.tokens_per_batch
        if self.pair is None:
            return bare_traces(rows, self._scoring, done)
        if self.other_tokenizer is None:
            return score(rows, partial(self.pair.models.read, k=self.options.top_k), self._scoring, budget, done)
        others, _ = self._rows([row.example for row in rows], self.other_tokenizer, "drop")
        if [row.group.where for row in others] != [row.group.where for row in rows]:
            raise UserError("Some rows are too long for one of the two tokenizers.", "Raise --max-length.")
        for limits, name in self.limits[1:2]:
            refuse_beyond(limits, [row.group for row in others], name)
        models = self.pair.models
        scorers = no_grad(models.policy), no_grad(models.reference or models.policy)
        return score_aligned(rows, others, scorers, self._scoring, budget, done)

    def score(self, prompt: Given, response: str) -> TraceView:
        """Return the trace of one response, to be looked at in a notebook or a terminal, or taken as a table.

        Args:
            prompt: text before it, as the models read it (for a tokenizer with a chat template, the user's turn), or
                the turns of a conversation.
            response: the response.

        Raises:
            UserError: the prompt is several, or the chat template refuses it.
        """
        with untouched():
            rows, _ = self.rows([self.example(prompt, response)])
            return TraceView(next(self.traces(rows))[0])

    def score_all(
        self,
        data: Name | RowsInMemory,
        *,
        columns: Mapping[str, str] = {},
        bad_rows: str = "error",
        style: str = "as_given",
        seed: int = 0,
    ) -> Traces:
        """Return the traces of all responses of a data set.

        Args:
            data: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
            columns: columns under other names: {"chosen": "good"} (tokenq's name first).
            bad_rows: what to do with a row that cannot be used: "error", or "drop".
            style: "as_given", or "chat" to make turns of text.
            seed: of the sample that a weighted source gives.

        Raises:
            UserError: a row cannot be used, and is not to be left out.
        """
        sources, given = data_given(data)
        asked = {"columns": columns, "bad_rows": bad_rows, "style": style, "seed": seed}
        with untouched():
            rows, _ = self.rows(examples_of(given, columns, bad_rows, style, seed).examples, bad_rows)
            traces = [trace for row in self.traces(rows) for trace in row]
            own, other = self.identities
            record = provenance({**asked, "data": sources}, seed, {"policy": own, "reference": other})
        return Traces(traces, self.title, record | {"beta": self.options.beta})

    def decode(self, prompts: Any, *, judge: TextReward | None = None, **settings: Any) -> SearchResults:
        """Search for answers to prompts with the loaded models.

        Args:
            prompts: as `tokenq.decode` takes them.
            judge: (prompts, responses) → what each is worth, instead of a reward model.
            settings: as `tokenq.decode` takes them: method, width, n, objective, seed, …

        Raises:
            UserError: for anything that the user can mend.
        """
        with untouched():
            return answers_of(self.searcher(judge, settings), prompts)

    def searcher(self, judge: TextReward | None, settings: Mapping[str, Any], terms: Terms = ()) -> Searcher:
        """Return the models ready to be searched: settings as `decode` takes them, steered by small pairs (`terms`)."""
        if self.pair is None:
            raise UserError("A reward model writes nothing.", "Load a policy.")
        if odd := [name for name in settings if name not in _SEARCH]:
            raise unknown_name("option of decode", odd[0], _SEARCH)
        own, other = self.identities
        check_tokenizers(self.tokenizer, self.other_tokenizer or self.tokenizer)
        shared = {name: getattr(self.options, name) for name in LOADED}
        config = SearchConfig(policy=own["path"], reference=other["path"], **(shared | dict(settings)))
        check_settings(config, judge)
        reference = None if terms else self._base or self.pair.models.reference
        models = self.pair.models.policy, reference, terms, rating_of(config, judge)
        return Searcher(config, self.tokenizer, *models, {"policy": own, "reference": other}, self.files)

    @cached_property
    def _base(self) -> PackedLM | None:
        """Return the base of an adapter as a model of its own: a search goes through both side by side."""
        base = None if self.pair is None else self.pair.base
        return None if base is None else open_model(base, self.options.attention).lm

    @property
    def title(self) -> str:
        """What a page is called: after the models that have read."""
        own, other = self.identities
        judge = [] if self.rewards is None else [str(self.rewards.identity["path"])]
        read = [f"{own['path']} against {other['path']}"] if own else []
        return ", ".join([*read, *judge])

    def example(self, prompt: Given, response: str) -> Example:
        """Return a prompt with a response as an example: in turns for a tokenizer with a chat template.

        Raises:
            UserError: the prompt is several.
        """
        prompts = given_prompts(prompt, chat=False)
        if len(prompts) != 1 or not isinstance(response, str):
            raise UserError("A single response is a text behind one prompt.", "score_all reads rows.")
        return single_example(prompts[0].text, response, chat=self.tokenizer.chat_template is not None)

    def _rows(self, examples: Sequence[Example], tokenizer: Any, bad_rows: str) -> tuple[list[ScoredRow], DataSummary]:
        limit = self.options.max_length
        data = tokenize(examples, tokenizer, max_length=limit, truncation="response_right", with_texts=True)
        if bad_rows == "error":
            refuse_bad(data)
        groups = marked(data.groups, self.parts, tokenizer)
        by_place = {example.where: example for example in examples}
        numbered = enumerate(zip(groups, data.texts, strict=True), 1)
        rows = [
            ScoredRow(group.where, group, texts, by_place[group.where], row_warnings(group, tokenizer))
            for n, (group, texts) in numbered
        ]
        return rows, data.summary

    @cached_property
    def _scoring(self) -> Scoring:
        own, other = self.identities
        cuts = [find_cut(level) for level in self.options.levels]
        beta, strengths = self.options.beta, self.parts.segments
        warnings = (*(() if self.pair is None else self.pair.warnings), *said(strengths, beta, self.other_tokenizer))
        return Scoring(beta, own, other, self._text, cuts, warnings, strengths)

    @cached_property
    def _text(self) -> Callable[[int], str]:
        return cache(partial(piece_of, self.tokenizer))
