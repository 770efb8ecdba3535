"""A policy ready to be searched, with what may stand beside it: a reference, a small pair as a guide, a judge."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

from tokenq.core.tensors import Stepper, TokenScorer
from tokenq.data.conditioning.asked import asked_levels, conditioned_prompts
from tokenq.data.encoding import piece_of, pieces_of, text_of
from tokenq.data.prompts import Given, LoadedPrompts, Prompt, encode_prompts, given_prompts
from tokenq.errors import UserError
from tokenq.judge.answers import Extract, find_extractor
from tokenq.listener import Progress, silent
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.models.forward.stepper import ModelStepper
from tokenq.models.limits import least_context, named_limits, refuse_tokens
from tokenq.models.load import ModelSpec, same_dtype
from tokenq.models.loaded import Loaded
from tokenq.models.open import open_model
from tokenq.models.reward_model import RewardModel
from tokenq.models.run_models import RunModels, model_spec, named_models, with_models
from tokenq.models.stamps import Stamp, guarded
from tokenq.models.tokenizer import check_tokenizers, ends_of, open_tokenizer
from tokenq.records.examples import Text
from tokenq.records.results import Cost, SearchResult
from tokenq.runs.places import home_of, models_of_run
from tokenq.search.branches import Branch, Limits, Walk, check_room, never
from tokenq.search.config import SearchConfig
from tokenq.search.methods import METHODS, Aids, aims_at, check_parts, needs_reference, search
from tokenq.search.outcome import candidates_of, tree_of
from tokenq.search.proxy import ProxyStepper, Term, weights_of
from tokenq.training.monitor import peak_memory

TextReward = Callable[[Sequence[Text], Sequence[str]], Sequence[float]]
"""(prompts, responses, complete or not) → what each is worth; larger is better."""

TextRating = Callable[[Sequence[Text], Sequence[str], Sequence[bool]], Sequence[float]]
"""The same, told as well which responses have come to their end: a reward model reads EOS behind these alone."""

Say = Callable[[str], None]

Terms = tuple[tuple[PackedLM, PackedLM, float], ...]
"""Small pairs (tuned, untuned) with their weights, for proxy tuning."""

Watch = Callable[[Stepper], Stepper]
"""(stepper) → the same, with somebody who sees every step."""


def unseen(stepper: Stepper) -> Stepper:
    """Return a stepper that nobody watches."""
    return stepper


@dataclass(frozen=True)
class Searcher:
    """Models that are searched.

    Attributes:
        config: what was asked for.
        tokenizer: the policy's.
        policy: the model that writes.
        reference: the model it is compared with, None where there is none.
        terms: small pairs (tuned, untuned) with their weights, for proxy tuning.
        judge: judges texts, None where nothing does.
        identities: by role, as provenance has them.
        files: stamps of the files that the weights are mapped from.
        watch: puts somebody beside the stepper who sees what is looked at, while it is.
        scored: the same for what scores complete responses.
    """

    config: SearchConfig
    tokenizer: Any
    policy: PackedLM
    reference: PackedLM | None
    terms: Terms
    judge: TextRating | None
    identities: dict[str, dict[str, Any]]
    files: tuple[Stamp, ...] = ()
    watch: Watch = unseen
    scored: Callable[[TokenScorer], TokenScorer] = lambda score: score

    def prompts(self, given: Given) -> list[Prompt]:
        """Return a text, a conversation or several of either as prompts; text is a user's turn for a chat template."""
        found = given_prompts(given, chat=self.tokenizer.chat_template is not None)
        return self.conditioned(LoadedPrompts(found)).prompts

    def conditioned(self, loaded: LoadedPrompts) -> LoadedPrompts:
        """Return prompts with the levels that the policy is asked for, by the settings or by their rows."""
        asked = asked_levels(self.tokenizer, self.config.condition, str(self.config.policy))
        return conditioned_prompts(loaded, *asked, self.config.bad_rows)

    def results(
        self,
        prompts: Sequence[Prompt],
        progress: Progress = silent,
        interrupted: Callable[[], bool] = never,
        done: int = 0,
    ) -> Iterator[SearchResult]:
        """Yield what is found for every prompt that is not done, in their order.

        Args:
            prompts: what to answer.
            progress: told (prompts done, prompts in all) in thousandths of a prompt.
            interrupted: True ends the searches that run with what they have, and begins no other.
            done: prompts at the beginning that are left out; the others get the same bits as beside them.

        Raises:
            UserError: a prompt without tokens, one behind which budget or context leave no room, or weights that were
                written over.
        """
        ids = encode_prompts(prompts, self.tokenizer)
        lengths = [(prompt.where, len(tokens)) for prompt, tokens in zip(prompts, ids, strict=True)]
        check_room(lengths, self.config.budget, self._context)
        limits = named_limits(self.policy.model)
        for prompt, tokens in zip(prompts, ids, strict=True):
            refuse_tokens(limits, tokens, prompt.where)
        size = self.config.batch_size
        for start in range(done // size * size, len(prompts), size):
            batch = prompts[start : start + size]

            def tell(part: int, whole: int, share: int = 1000 * len(batch), before: int = 1000 * start) -> None:
                progress(before + share * part // max(1, whole), len(prompts) * 1000)

            found = self._search(batch, ids[start : start + size], tell, interrupted)
            yield from guarded(found[max(0, done - start) :], self.files)
            tell(1, 1)
            if interrupted():
                return

    def _search(
        self,
        prompts: Sequence[Prompt],
        ids: Sequence[tuple[int, ...]],
        progress: Progress,
        interrupted: Callable[[], bool],
    ) -> list[SearchResult]:
        config, begin = self.config, time.perf_counter()
        judged = [0] * len(prompts)
        aids = self._aids(ids, prompts, judged)
        stepped = METHODS[config.method].steps_reference(config, aids)
        limits = Limits(self._eos, config.max_new_tokens, config.budget, interrupted, self._context)
        walk = Walk(self.watch(self._stepper(stepped)), ids, limits)
        found = search(walk, config, aids, progress)
        seconds = (time.perf_counter() - begin) / len(prompts)
        aim, results = aims_at(config, judged=self.judge is not None), []
        for place, (prompt, one) in enumerate(zip(prompts, found, strict=True)):
            cost = Cost(
                walk.spent[place],
                self._read(len(ids[place]), walk.spent[place], one.candidates, stepped),
                judged[place],
                seconds,
                peak_memory(self.policy.device),
            )
            pieces = partial(pieces_of, self.tokenizer, ids[place])
            made = candidates_of(one.candidates, pieces, self._eos, self._extract)
            tree, stopped = tree_of(one.tree, self._token) if one.tree else None, walk.stopped[place]
            results.append(SearchResult(prompt.id, prompt.text, config.method, aim, made, cost, tree, stopped))
        return results

    def _read(self, prompt: int, spent: int, candidates: Sequence[Branch], stepped: bool) -> int:
        """Return how many tokens went through models beside the policy."""
        if self.terms or self.reference is None:
            return 2 * len(self.terms) * spent
        return spent if stepped else prompt + sum(len(branch.tokens) - 1 for branch in candidates)

    @cached_property
    def _token(self) -> Callable[[int, int], str]:
        """Return (token before, token) → its text there; standing alone it might lose its blank."""

        @cache
        def text(before: int, token: int) -> str:
            return piece_of(self.tokenizer, token, [] if before < 0 else [before])

        return text

    def _aids(self, ids: Sequence[tuple[int, ...]], prompts: Sequence[Prompt], judged: list[int]) -> Aids:
        """Return the aids of a search: the judge, whose tokens are counted by prompt, and the extractor of answers.

        Args:
            ids: tokens of every prompt.
            prompts: the same prompts.
            judged: is told how many tokens were judged.
        """
        judge, extract = self.judge, self._extract

        def text(branch: Branch) -> str:
            return text_of(self.tokenizer, ids[branch.prompt], branch.tokens)

        def value(branches: Sequence[Branch]) -> Sequence[float]:
            assert judge is not None  # else this is not asked
            for branch in branches:
                judged[branch.prompt] += len(branch.tokens)
            ended = [one.tokens[-1:] != () and one.tokens[-1] in self._eos for one in branches]
            return judge([prompts[one.prompt].text for one in branches], [text(one) for one in branches], ended)

        answer = None if extract is None else lambda branch: extract(text(branch))
        reference = None if self.reference is None else self.scored(no_grad(self.reference))
        return Aids(None if judge is None else value, answer, reference)

    @cached_property
    def _context(self) -> int | None:
        pairs = [model for tuned, untuned, _ in self.terms for model in (tuned, untuned)]
        return least_context(model.lm for model in (self.policy, self.reference, *pairs) if model is not None)

    @cached_property
    def _extract(self) -> Extract | None:
        return None if self.config.answer is None else find_extractor(self.config.answer)

    @cached_property
    def _eos(self) -> tuple[int, ...]:
        return ends_of(self.policy, self.tokenizer, self.config.eos)

    def _stepper(self, with_reference: bool) -> Stepper:
        if not self.terms:
            return ModelStepper(self.policy, self.reference if with_reference else None)
        terms = [Term(ModelStepper(tuned, untuned), alpha) for tuned, untuned, alpha in self.terms]
        return ProxyStepper(ModelStepper(self.policy), terms)


def load_searcher(
    config: SearchConfig,
    judge: TextReward | None = None,
    say: Say = lambda _: None,
    models: RunModels | None = None,
) -> Searcher:
    """Return the models of a configuration, ready to be searched.

    Args:
        config: what is asked for.
        judge: judges texts, instead of the reward model of the configuration.
        say: told what could not be done as asked.
        models: policy and reference, instead of those that the configuration names.

    Raises:
        UserError: a model is missing, one that the method needs is not named, or vocabularies do not match.
    """
    models = models or searched_models(config)
    config = with_models(config, models)
    check_settings(config, judge)
    alphas, tokenizer = weights_of(config), open_tokenizer(models.policy)
    files: list[Stamp] = []
    identities: dict[str, dict[str, Any]] = {}

    def loaded(spec: ModelSpec, role: str) -> PackedLM:
        if role != "policy":
            check_tokenizers(tokenizer, open_tokenizer(spec))
        if role == "reference":
            spec = same_dtype(policy, spec)
        opened = open_model(spec, config.attention, config.max_new_tokens + 1024, say)
        identities[role] = opened.identity.to_dict()
        files.extend(opened.files)
        return opened.lm

    policy = loaded(models.policy, "policy")
    reference = None if models.reference is None or config.proxy else loaded(models.reference, "reference")
    small = [model_spec(config, path) for path in config.proxy]
    terms = tuple(
        (loaded(small[2 * i], f"tuned {i + 1}"), loaded(small[2 * i + 1], f"untuned {i + 1}"), alpha)
        for i, alpha in enumerate(alphas)
    )
    return Searcher(config, tokenizer, policy, reference, terms, rating_of(config, judge), identities, tuple(files))


def rating_of(config: SearchConfig, judge: TextReward | None) -> TextRating | None:
    """Return the judge of texts: a function, or the reward model of the configuration; None without one."""
    if judge is not None:
        return lambda prompts, texts, _: judge(prompts, texts)
    if config.reward_model is None:
        return None
    return RewardModel(model_spec(config, config.reward_model), config.reward_weights).score


def check_needs(config: SearchConfig, judge: TextReward | None = None, in_memory: Mapping[str, Loaded] = {}) -> None:
    """Refuse a search that misses what it needs, before models are loaded.

    Args:
        config: what is asked for.
        judge: judges texts.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: says what is missing, or which name is unknown.
    """
    check_settings(with_models(config, searched_models(config, in_memory)), judge)


def check_settings(config: SearchConfig, judge: TextReward | None) -> None:
    """Refuse a search that misses what it needs, its models being named.

    Raises:
        UserError: says what is missing, or which name is unknown.
    """
    judged = judge is not None or config.reward_model is not None
    if judged and config.method == "mcts" and config.objective != SearchConfig.objective:
        raise UserError(
            f"--objective {config.objective} has no effect beside a reward model or a judge.",
            "A tree is searched for one thing: leave out one of the two.",
        )
    check_parts(config)
    aids = Aids(value=(lambda _: ()) if judged else None)
    if needs_reference(config, aids) and config.reference is None and not config.proxy:
        raise UserError(
            f"The method {config.method} ({aims_at(config, judged=judged)}) needs a reference.",
            "Name the model that the policy was trained from: --reference.",
        )
    if config.answer is not None:
        find_extractor(config.answer)
    elif config.method in ("majority", "weighted_vote"):
        raise UserError("A vote needs answers.", "Say how they are found: --answer last_number, boxed, math or regex:…")


def searched_models(config: SearchConfig, in_memory: Mapping[str, Loaded] = {}) -> RunModels:
    """Return the models that a configuration names: those of its run, and an adapter's base as its reference.

    Args:
        config: what is asked for.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: there is no policy, or no such run.
    """
    run = config.policy if config.run is None and "policy" not in in_memory and home_of(config.policy) else config.run
    made = None if run is None else models_of_run(run, model_spec(config, run))
    return named_models(config, made, in_memory)
