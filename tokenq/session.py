"""A policy and its reference, loaded and ready to be read: what the command line and Python both work with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from tokenq.data.detokenize import piece_of
from tokenq.data.examples import single_example
from tokenq.data.summary import DataSummary
from tokenq.data.tokenize import refuse_bad, tokenize
from tokenq.errors import UserError
from tokenq.models.adapters import base_of, is_adapter_folder, leaves_base
from tokenq.models.classifier import REWARDS, RewardLM, open_classifier, output_weights, outputs_of
from tokenq.models.forward.policy import ReferencedPolicy, no_grad
from tokenq.models.limits import BeyondContext, ModelLimits, named_limits, refuse_beyond
from tokenq.models.load import ModelSpec, hide_progress_bars, is_quantised
from tokenq.models.open import Opened, open_model, open_tokenizer
from tokenq.models.precision import beside
from tokenq.models.run_models import RunModels, recorded_models
from tokenq.models.stamps import Stamp, unspoilt
from tokenq.models.vocabulary import check_vocabularies, same_tokens
from tokenq.records import Example
from tokenq.report.notebook import Shown
from tokenq.rundir import RunDir
from tokenq.score.aligned import score_aligned
from tokenq.score.health import row_warnings
from tokenq.score.rewards import RewardReader, bare_traces, with_rewards
from tokenq.score.spans import find_cut
from tokenq.score.trace import Row, Scoring, score
from tokenq.traces import TokenTrace
from tokenq.training.recorded import read_provenance

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How models are loaded and read.

    Attributes:
        beta: KL temperature of implicit rewards.
        dtype: type of the weights, "auto" for the checkpoint's own.
        device: where they go.
        attention: how batches go through a model; "auto" takes the fastest way that proves exact.
        trust_remote_code: whether code that comes with a model may run.
        top_k: alternatives kept at every position, under each model.
        levels: levels of spans: "word", "sentence", …, "regex:PATTERN".
        max_length: most tokens of prompt and response together; None for no limit.
        tokens_per_batch: most tokens in one forward.
        base: base of adapters, instead of the one that they name.
    """

    beta: float = 0.1
    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False
    top_k: int = 5
    levels: Sequence[str] = ("word", "sentence")
    max_length: int | None = None
    tokens_per_batch: int = 4096
    base: str | None = None

    def spec(self, path: str) -> ModelSpec:
        """Return how a model is loaded under these options."""
        code = self.trust_remote_code
        return ModelSpec(path, self.dtype, self.device, trust_remote_code=code, base=self.base)


@dataclass(frozen=True)
class Session:
    """Two models that are read against each other.

    Attributes:
        models: policy and reference; None where a reward model reads alone.
        tokenizer: the policy's.
        other_tokenizer: the reference's, where it is another one; credit then goes to stretches of text.
        options: how they are read.
        identities: (policy, reference) as provenance has them.
        warnings: what may be wrong with this pair.
        rewards: a reward model that reads the same tokens, or None.
        limits: of every model with its name, the policy's and then the reference's first.
        files: stamps of the files that all their weights are mapped from.
    """

    models: ReferencedPolicy | None
    tokenizer: Any
    other_tokenizer: Any
    options: Options
    identities: tuple[dict[str, Any], dict[str, Any]]
    warnings: tuple[str, ...] = ()
    rewards: RewardReader | None = None
    limits: tuple[tuple[ModelLimits, str], ...] = ()
    files: tuple[Stamp, ...] = ()

    def rows(self, examples: Sequence[Example], bad_rows: str = "error") -> tuple[list[Row], DataSummary]:
        """Return examples in the policy's tokens, and what became of those that are not among them.

        Args:
            examples: what is to be read.
            bad_rows: "error" or "drop", for those that cannot be used: refused by the chat template, without tokens.

        Raises:
            BadRowsError: names the first that cannot be used.
            BeyondContext: a row is longer than a model can read, and none are to be dropped.
            UserError: nothing is left.
        """
        rows, summary = self._rows(examples, self.tokenizer, bad_rows)
        readers = self.limits if self.other_tokenizer is None else self.limits[:1]
        rows, beyond = self._readable(rows, readers, bad_rows)
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

    def _readable(
        self, rows: Sequence[Row], readers: Sequence[tuple[ModelLimits, str]], bad_rows: str
    ) -> tuple[list[Row], int]:
        """Return the rows that their readers can read, and how many they cannot."""
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

    def _kept(self, row: Row, readers: Sequence[tuple[ModelLimits, str]]) -> Row:
        """Return a row that its readers can read, with what they were not made for among its warnings."""
        said = [refuse_beyond(limits, [row.group], name) for limits, name in readers]
        beyond = [f"longer than {limits.context} tokens" for (limits, _), one in zip(readers, said, strict=True) if one]
        return replace(row, warnings=(*row.warnings, *dict.fromkeys(beyond))) if beyond else row

    def traces(self, rows: Sequence[Row], done: int = 0) -> Iterator[list[TokenTrace]]:
        """Yield the traces of every row, in order, one for each response.

        Args:
            rows: what to score.
            done: rows at the beginning that are left out; the others get the same bits as with them.

        Raises:
            UserError: weights were written over while they were in use.
        """
        budget = self.options.tokens_per_batch
        traces = self._policy_traces(rows, budget, done)
        if self.rewards is not None:
            traces = with_rewards(traces, rows, self.rewards, budget, done)
        return unspoilt(traces, self.files)

    def _policy_traces(self, rows: Sequence[Row], budget: int, done: int) -> Iterator[list[TokenTrace]]:
        if self.models is None:
            return bare_traces(rows, self._scoring, done)
        if self.other_tokenizer is None:
            return score(rows, partial(self.models.read, k=self.options.top_k), self._scoring, budget, done)
        others, _ = self._rows([row.example for row in rows], self.other_tokenizer, "drop")
        if [row.group.where for row in others] != [row.group.where for row in rows]:
            raise UserError("Some rows are too long for one of the two tokenizers.", "Raise --max-length.")
        for limits, name in self.limits[1:2]:
            refuse_beyond(limits, [row.group for row in others], name)
        scorers = no_grad(self.models.policy), no_grad(self.models.reference or self.models.policy)
        return score_aligned(rows, others, scorers, self._scoring, budget, done)

    def score(self, prompt: str, response: str) -> Shown:
        """Return the trace of one response, to be looked at in a notebook or a terminal.

        Args:
            prompt: text before it, as the models read it; for a tokenizer with a chat template, the user's turn.
            response: the response.
        """
        rows, _ = self.rows([self.example(prompt, response)])
        return Shown(next(self.traces(rows))[0])

    def example(self, prompt: str, response: str) -> Example:
        """Return one text as an example: in turns for a tokenizer with a chat template, else as it is."""
        return single_example(prompt, response, chat=self.tokenizer.chat_template is not None)

    def _rows(self, examples: Sequence[Example], tokenizer: Any, bad_rows: str) -> tuple[list[Row], DataSummary]:
        limit = self.options.max_length
        data = tokenize(examples, tokenizer, max_length=limit, truncation="response_right", with_texts=True)
        if bad_rows == "error":
            refuse_bad(data)
        by_place = {example.where: example for example in examples}
        numbered = enumerate(zip(data.groups, data.texts, strict=True), 1)
        rows = [
            Row(group.where, group, texts, by_place[group.where], row_warnings(group, tokenizer))
            for n, (group, texts) in numbered
        ]
        return rows, data.summary

    @cached_property
    def _scoring(self) -> Scoring:
        own, other = self.identities
        cuts = [find_cut(level) for level in self.options.levels]
        return Scoring(self.options.beta, own, other, self._text, cuts, self.warnings)

    @cached_property
    def _text(self) -> Callable[[int], str]:
        return cache(partial(piece_of, self.tokenizer))


def load(
    policy: str | ModelSpec,
    reference: str | ModelSpec | None = None,
    options: Options | None = None,
    say: Say = lambda _: None,
) -> Session:
    """Return two models ready to be read.

    Args:
        policy: folder or hub id of the policy, or folder of an adapter.
        reference: folder or hub id of the reference; may be left out for an adapter, which is then switched off.
        options: how they are loaded and read.
        say: told what could not be done as asked.

    Raises:
        UserError: a model is missing, or there is nothing to read it against.
    """
    hide_progress_bars()
    options = options or Options()
    spec = options.spec(policy) if isinstance(policy, str) else policy
    if reference is None:
        return _against_base(spec, options, say)
    other = options.spec(reference) if isinstance(reference, str) else reference
    return _pair((spec, other), _opened(spec, options, say), options, say)


def _pair(specs: tuple[ModelSpec, ModelSpec], own: Opened, options: Options, say: Say) -> Session:
    """Return a policy that is open, and a reference beside it."""
    tokenizer, their_tokenizer = (open_tokenizer(spec) for spec in specs)
    other = _opened(beside(own.lm.model, specs[1]), options, say)
    shared = same_tokens(tokenizer, their_tokenizer)
    if shared:
        check_vocabularies(own.lm.model, other.lm.model)
    said = tuple(
        f"{spec.path} has quantised weights: its log-probs are those of a rounded model"
        for spec, one in zip(specs, (own, other), strict=True)
        if spec.path.endswith(".gguf") or is_quantised(one.lm.model)
    )
    identities = own.identity.to_dict(), other.identity.to_dict()
    pair, files = ReferencedPolicy(own.lm, other.lm), own.files + other.files
    limits = named_limits(own.lm.model), named_limits(other.lm.model)
    theirs = None if shared else their_tokenizer
    return Session(pair, tokenizer, theirs, options, identities, said, limits=limits, files=files)


def _against_base(spec: ModelSpec, options: Options, say: Say) -> Session:
    """Return an adapter on its base, read against the base: one model in memory where switching it off gives that."""
    if not is_adapter_folder(spec.path):
        raise UserError(
            f"{spec.path} needs a --reference: it is no adapter, which could be switched off.",
            "Name the model that it was trained from.",
        )
    base = base_of(spec.path, spec.base)
    below = replace(spec, path=base, base=None)
    own = _opened(replace(below, adapter=spec.path), options, say)
    own = replace(own, identity=replace(own.identity, path=spec.path))
    if not leaves_base(own.lm.model):
        return _pair((spec, below), own, options, say)
    identities = own.identity.to_dict(), own.base.to_dict() | {"path": base}
    pair, limits = ReferencedPolicy(own.lm, None), (named_limits(own.lm.model),)
    return Session(pair, open_tokenizer(spec), None, options, identities, limits=limits, files=own.files)


def _opened(spec: ModelSpec, options: Options, say: Say) -> Opened:
    return open_model(spec, options.attention, options.max_length or 1024, say)


def load_rewards(
    path: str, weights: Mapping[str, str], options: Options, say: Say, beside: Session | None = None
) -> Session:
    """Return a reward model ready to read, alone or beside a policy.

    Args:
        path: folder or hub id of a sequence classifier.
        weights: of its outputs by name, where it has several.
        options: how it is loaded and read.
        say: told what could not be done as asked.
        beside: a policy with its reference that read the same texts.

    Raises:
        UserError: there is no such model, or it reads other tokens than the policy.
    """
    hide_progress_bars()
    spec = ModelSpec(path, options.dtype, options.device, trust_remote_code=options.trust_remote_code)
    tokenizer = open_tokenizer(spec)
    if beside is not None and (beside.other_tokenizer is not None or not same_tokens(beside.tokenizer, tokenizer)):
        raise UserError(f"{path} reads other tokens than the policy.", "Score it alone, without --policy.")
    opened = open_model(spec, options.attention, options.max_length or 1024, say, open_classifier, REWARDS)
    names = tuple(outputs_of(opened.lm.lm))
    lm = RewardLM(opened.lm)
    lm.eval()
    identity = opened.identity.to_dict()
    reader = RewardReader(lambda batch: lm(batch.to(lm.device)), names, output_weights(names, weights, path), identity)
    if beside is not None:
        limits, files = (*beside.limits, named_limits(lm.model)), beside.files + opened.files
        return replace(beside, rewards=reader, limits=limits, files=files)
    limits = (named_limits(lm.model),)
    return Session(None, tokenizer, None, options, ({}, {}), rewards=reader, limits=limits, files=opened.files)


def models_of_run(run: str, spec: ModelSpec) -> RunModels:
    """Return the models of a finished training run.

    Args:
        run: its folder.
        spec: how models are loaded; the run says which.

    Raises:
        UserError: the folder holds no finished run.
    """
    folder = RunDir(Path(run))
    if not folder.policy.exists():
        if folder.reward_model.exists():
            raise UserError(
                f"{run} holds a reward model and no policy.", f"Score it with --reward-model {folder.reward_model}."
            )
        raise UserError(f"{run} holds no trained policy.", "Give the --output folder of a finished tokenq train.")
    return recorded_models(folder.policy, read_provenance(folder), spec)
