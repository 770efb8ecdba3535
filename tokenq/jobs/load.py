"""`tokenq.load`: a policy with its reference, or a reward model, ready to be read and searched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike

from transformers import PreTrainedTokenizerBase

from tokenq.data.conditioning.control import control_of
from tokenq.errors import UserError
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, Options, models_given, spec_of
from tokenq.jobs.reader import Reader
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_pair, open_reward_model
from tokenq.models.tokenizer import open_tokenizer, same_tokens
from tokenq.options import SegmentOptions
from tokenq.runs.places import models_of_run, run_folder
from tokenq.score.rewards import RewardReader

Say = Callable[[str], None]


def load(  # noqa: PLR0913 (one keyword a setting)
    policy: Name | Run | InMemory | None = None,
    reference: Name | InMemory | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward_model: Name | Run | InMemory | None = None,
    reward_weights: Mapping[str, str] = {},
    listener: Listener = SILENCE,
    beta: float | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    top_k: int = 5,
    levels: Sequence[str] = ("word", "sentence"),
    max_length: int | None = None,
    tokens_per_batch: int = 4096,
    base: str | None = None,
    condition: Mapping[str, float] = {},
) -> Reader:
    """Load a policy with its reference: `tokenq.load(policy, reference).score(prompt, response)`.

    What is returned reads responses (`score`, `score_all`) and writes answers (`decode`); nothing is loaded again.

    Args:
        policy: a run or its folder (reference and β are then the run's), a folder, a hub id, the folder of an adapter,
            a loaded model of `transformers`, or (model, tokenizer).
        reference: likewise; may be left out for a run, and for an adapter, which is then switched off.
        tokenizer: of a loaded model.
        reward_model: a sequence classifier, which reads alone or beside the policy: a folder, a hub id, a run that
            trained one, a loaded model, or (model, tokenizer).
        reward_weights: of its outputs by name, where it has several.
        listener: told what could not be done as asked.
        beta: KL temperature of implicit rewards. Default: the run's, else 0.1.
        dtype: type of the weights: "auto" for the checkpoint's own, "float32", "bfloat16" or "float16".
        device: where to compute: "auto", "cpu", "cuda", "cuda:1", "mps".
        attention: how batches go through a model: "auto", "flex", "segments", "plain" or "full".
        trust_remote_code: whether code that comes with a model may run.
        top_k: alternatives kept at every token, under each model.
        levels: levels of spans: "word", "sentence", "line", "paragraph", "step", "turn", "regex:PATTERN".
        max_length: maximum number of tokens in prompt and response together.
        tokens_per_batch: maximum number of tokens in one forward pass.
        base: base of an adapter, instead of the one that it names.
        condition: levels that a policy of `condition_on` is asked for: {"helpfulness": 4, "verbosity": 1}. Of an
            attribute that is not named, every row says its own.

    Raises:
        UserError: a model is missing, or there is nothing to read it against.
    """
    options = Options(
        beta or 0.1, dtype, device, attention, trust_remote_code, top_k, levels, max_length, tokens_per_batch, base
    )
    options = replace(options, condition=condition)

    def warn(text: str) -> None:
        listener.say(f"warning: {text}")

    with untouched():
        pair = None if policy is None else _given_pair(policy, reference, tokenizer, options, beta, warn)
        if reward_model is not None:
            return open_rewards(_rewards_given(reward_model, tokenizer, options), reward_weights, options, warn, pair)
    if pair is None:
        raise UserError("There is nothing to load.", "Give a policy, or a reward_model.")
    return pair


def _given_pair(
    policy: Name | Run | InMemory,
    reference: Name | InMemory | None,
    tokenizer: PreTrainedTokenizerBase | None,
    options: Options,
    beta: float | None,
    warn: Say,
) -> Reader:
    """Return a pair as Python names it: a run, or its folder, has a reference and a β of its own."""
    folder, parts = run_folder(policy), SegmentOptions()
    names, in_memory = models_given({"policy": None if folder else policy, "reference": reference}, tokenizer)
    specs = {
        role: None if name is None else replace(options.spec(name), loaded=in_memory.get(role))
        for role, name in names.items()
    }
    if folder is not None:
        made = models_of_run(str(folder), options.spec(str(folder)))
        specs = {"policy": made.policy, "reference": specs["reference"] or made.reference}
        options = replace(options, beta=beta or made.beta or 0.1)
        parts = made.parts_at(options.beta)
    own = specs["policy"]
    assert own is not None  # the caller has one
    return replace(open_reader(own, specs["reference"], options, warn), parts=parts)


def _rewards_given(
    model: Name | Run | InMemory, tokenizer: PreTrainedTokenizerBase | None, options: Options
) -> ModelSpec:
    """Return the specification of a reward model; one in memory without a tokenizer reads with the policy's."""
    named = model.reward_model if isinstance(model, Run) else model
    given = spec_of(named, None if isinstance(named, str | PathLike) else tokenizer)
    return replace(options.spec(given.path), loaded=given.loaded)


def open_reader(policy: ModelSpec, reference: ModelSpec | None, options: Options, say: Say) -> Reader:
    """Return two models ready to be read.

    Args:
        policy: the policy, or an adapter on its base.
        reference: the reference; None for an adapter, which is then switched off.
        options: how they are read.
        say: told what could not be done as asked.

    Raises:
        UserError: a model is missing, or there is nothing to read it against.
    """
    pair = open_pair(policy, reference, options.attention, options.max_length or 1024, say)
    return Reader(pair, pair.tokenizer, options, pair.limits, pair.files)


def open_rewards(
    spec: ModelSpec, weights: Mapping[str, str], options: Options, say: Say, beside: Reader | None = None
) -> Reader:
    """Return a reward model ready to read, alone or beside a policy.

    Args:
        spec: a sequence classifier.
        weights: of its outputs by name, where it has several.
        options: how it is loaded and read.
        say: told what could not be done as asked.
        beside: a policy with its reference that read the same texts.

    Raises:
        UserError: there is no such model, or it reads other tokens than the policy.
    """
    tokenizer = open_tokenizer(spec)
    if beside is not None and (beside.other_tokenizer is not None or not same_tokens(beside.tokenizer, tokenizer)):
        raise UserError(f"{spec.path} reads other tokens than the policy.", "Score it alone, without --policy.")
    rewards = open_reward_model(spec, weights, options.attention, options.max_length or 1024, say)
    lm, opened = rewards.lm, rewards.opened
    identity = opened.identity.to_dict()
    reader = RewardReader(lambda batch: lm(batch).rewards, tuple(lm.attributes), rewards.weights, identity)
    if beside is not None and control_of(beside.tokenizer) is not None:
        raise UserError(
            f"{spec.path} would read the prompts of {beside.title}, in which attributes are asked for.",
            "Score with the reward model alone, without --policy.",
        )
    if beside is not None:
        limits, files = (*beside.limits, opened.limits), beside.files + opened.files
        return replace(beside, rewards=reader, limits=limits, files=files)
    return Reader(None, tokenizer, options, (opened.limits,), opened.files, reader)
