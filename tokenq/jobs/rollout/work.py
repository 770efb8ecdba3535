"""What writes the rounds of a run: its models as writers, its judge, and all that they are told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.data.conditioning.control import control_of
from tokenq.data.prompts import encode_prompts
from tokenq.errors import UserError
from tokenq.jobs.evaluation.judges import Bench, judge_of
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.evaluation import Evaluation, Judging
from tokenq.jobs.rollout.first_reference import FirstReference, written_in
from tokenq.jobs.rollout.judges import ImplicitReward, Scorers, implicit, recalls
from tokenq.jobs.rollout.lessons.advantages import learning_from_advantages
from tokenq.jobs.rollout.lessons.judged_tokens import CreditInputs
from tokenq.jobs.rollout.lessons.lesson import Learning, Scoring
from tokenq.jobs.rollout.lessons.pairs import learning_from_pairs
from tokenq.jobs.rollout.lessons.weights import learning_from_weights
from tokenq.jobs.rollout.prompts import AskedPrompts
from tokenq.jobs.rollout.rounds import COMPARISONS, RoundWork
from tokenq.jobs.rollout.sampled import token_logps
from tokenq.jobs.rollout.served import served_policy
from tokenq.jobs.rollout.token_rewards import Source, token_rewards
from tokenq.jobs.rollout.weights import keep_weights, recalled
from tokenq.jobs.rollout.writing.opened import Means, open_environment, open_prompts
from tokenq.jobs.training.opening import OpenRun
from tokenq.jobs.training.reference import Reference, compute_dtype
from tokenq.judge.kinds import Pairwise
from tokenq.judge.tasks import AnswerTask
from tokenq.models.forward.networks import NETWORKS, PolicyNetworks
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.models.forward.stepper import ModelStepper, remembering
from tokenq.models.limits import least_context
from tokenq.models.tokenizer import ends_of
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.rollouts import returns
from tokenq.rollout.methods import Learns, OnlineMethod
from tokenq.rollout.optimism import optimism_of
from tokenq.rollout.rounds import Plan
from tokenq.rollout.sync import LOCAL
from tokenq.rollout.writer import LocalWriter, StoredWriter, Writer, prompts_at_once
from tokenq.search.branches import Limits
from tokenq.training.stopping import Abandoned, Request


class Asked(NamedTuple):
    """What is asked for.

    Attributes:
        run: where it is done; those of the method are filled in among its settings.
        method: its row.
        plan: when each round begins.
        counts: prompts of each round.
        key: of all that rounds depend on.
        request: where a signal that asks the run to stop is noted.
    """

    run: OpenRun[OnlineConfig]
    method: OnlineMethod
    plan: Plan
    counts: Sequence[int]
    key: str
    request: Request


class Models(NamedTuple):
    """The models of a run.

    Attributes:
        policy: what is trained, and writes.
        tokenizer: goes with it.
        reference: the first reference.
        networks: the policy with what is trained beside it; None where nothing is.
        moving: a reference that moves between updates; None where none does.
    """

    policy: PackedLM
    tokenizer: Any
    reference: FirstReference
    networks: PolicyNetworks | None = None
    moving: Reference | None = None


class Material(NamedTuple):
    """What is written to, and what was there before.

    Attributes:
        asked: the prompts, with true answers.
        offline: pairs that were there before the first round.
        known: pairs that are held out of them, as responses to be judged.
    """

    asked: AskedPrompts
    offline: Sequence[TokenGroup]
    known: Sequence[tuple[Rollout, Rollout]]


def round_work(asked: Asked, models: Models, material: Material) -> RoundWork:
    """Return what writes rounds.

    Raises:
        UserError: a prompt cannot be written to, or the judge cannot be made.
    """
    config, method, policy, reference = asked.run.config, asked.method, models.policy, models.reference
    run, accelerator, listener, clock = asked.run.folder, asked.run.accelerator, asked.run.listener, Clock()
    prepared = partial(written_in, accelerator, policy)

    def scorer(batch: PackedBatch) -> Tensor:
        with prepared():
            return no_grad(policy)(batch)

    def heed() -> None:
        if asked.request.signum and accelerator.num_processes == 1:  # none of several may leave alone
            raise Abandoned

    context = least_context((policy.model, reference.lm.model))
    longest = config.max_length if context is None else min(context, config.max_length)
    limits = Limits(ends_of(policy, models.tokenizer, config.eos), config.tokens_of_response, context=longest)
    engine = f"tokenq {next(policy.parameters()).dtype}".replace("torch.", "")
    own = LocalWriter(lambda: ModelStepper(policy), limits, engine, prepared, partial(remembering, policy))
    first = LocalWriter(lambda: ModelStepper(reference.lm), limits, engine, reference.prepared)
    where = str(accelerator.device)
    scorers = Scorers(scorer, reference.scorer, partial(recalled, policy, run), models.tokenizer, where)
    opener = open_prompts if config.environment is None else open_environment
    means = Means(config, method, policy, models.tokenizer, limits, scorer, where, clock)
    opened, served = opener(means, material.asked), None
    if config.writer != LOCAL:
        ids = opened.beginnings
        served = served_policy(config, policy, models.tokenizer, limits, ids, accelerator, listener)
    writers: dict[str, Writer] = {
        "policy": own if served is None else served,
        "reference": first if method.reference_moves == "never" else own,
        "data": StoredWriter(_stored(material.offline), partial(token_logps, scorer, where)),
    }
    judge = judge_of(_bench(asked.run, material.asked.task, scorers, heed))
    scoring, source = _scoring(asked, models, scorers, clock), Source(config, scorers, judge)
    return RoundWork(
        config=config,
        method=method,
        writing=opened.writing(writers),
        judge=judge,
        policy=scorer,
        reference=reference.scorer,
        learning=LEARNING[method.learns](asked, models, material, scoring, source),
        side_by_side=_side_by_side(config, policy),
        refresh=(lambda version: None) if served is None else served.refresh,
        keep_weights=partial(keep_weights, policy, run) if recalls(config) else lambda number: None,
        run=run,
        key=asked.key,
        plan=asked.plan,
        counts=asked.counts,
        accelerator=accelerator,
        listener=listener,
        heed=heed,
        clock=clock,
    )


def _scoring(asked: Asked, models: Models, scorers: Scorers, clock: Clock) -> Scoring:
    """Return the models as a round's end reads them, its own reference among them."""
    reference = scorers.reference if models.moving is None else models.moving.online
    if asked.method.reference_moves == "round":
        reference = scorers.policy
    assert reference is not None  # one that moves is computed
    identity = models.reference.identity if asked.run.loss.reference else None
    return Scoring(scorers.policy, reference, identity, scorers.device, clock)


def _from_pairs(asked: Asked, models: Models, material: Material, scoring: Scoring, source: Source) -> Learning:
    run = asked.run
    return learning_from_pairs(run.config, scoring, run.folder, material.offline, optimism_of(run.loss))


def _from_advantages(asked: Asked, models: Models, material: Material, scoring: Scoring, source: Source) -> Learning:
    config, loss = asked.run.config, asked.run.loss

    def beside(name: str) -> TokenScorer | None:
        """Return a network beside the policy as a scorer of tokens, None where it is not trained."""
        networks = models.networks
        if networks is None or name not in loss.networks:
            return None
        network, read = networks.beside()[name], NETWORKS[name].read

        def scorer(batch: PackedBatch) -> Tensor:
            with written_in(asked.run.accelerator, networks):
                return read(network, batch)

        return scorer

    dense = None
    if config.token_rewards != "none":
        prm, beta = beside("prm"), loss.parameters().get("implicit_prm.beta")
        reward = None if prm is None else ImplicitReward(prm, scoring.reference, float(beta or 0.0))
        dense = token_rewards(config.token_rewards, source._replace(prm=reward), config.token_reward_clip)
    exact = config.writer == LOCAL and compute_dtype(models.policy, config) in (torch.float32, torch.float64)
    return learning_from_advantages(
        CreditInputs(config, scoring, loss, beside("values"), dense, exact, asked.run.folder)
    )


def _from_weights(asked: Asked, models: Models, material: Material, scoring: Scoring, source: Source) -> Learning:
    prompts = [replace(prompt, condition={}) for prompt in (*material.asked.prompts, *material.asked.held_out)]
    ids = encode_prompts(prompts, models.tokenizer)
    bare = {prompt.id: own for prompt, own in zip(prompts, ids, strict=True)}
    return learning_from_weights(asked.run.config, scoring, bare)


LEARNING: dict[Learns, Callable[..., Learning]] = {
    "pairs": _from_pairs,
    "advantages": _from_advantages,
    "weights": _from_weights,
}
"""What rounds end in, by what a method learns from."""


def evaluation_of(work: RoundWork, material: Material) -> Evaluation:
    """Return what evaluates the policy between rounds."""
    asked = material.asked
    judging = Judging(work.judge, isinstance(work.judge, Pairwise), recalls(work.config), asked.answers)
    return Evaluation(work, len(asked.held_out), judging, material.known)


def _side_by_side(config: OnlineConfig, policy: PackedLM) -> int:
    """Return how many prompts are written to and judged side by side."""
    if config.prompts_per_batch is not None:
        return config.prompts_per_batch
    size = next(policy.parameters()).itemsize
    if config.environment is not None:
        return max(1, EPISODES_AT_ONCE // config.samples_of_prompt)
    return prompts_at_once(policy.model.config, config.samples_of_prompt, config.tokens_of_response, size)


EPISODES_AT_ONCE = 64
"""Environments side by side, where nobody says how many."""


def _bench(opened: OpenRun[OnlineConfig], task: AnswerTask | None, scorers: Scorers, heed: Callable[[], None]) -> Bench:
    """Return what the judge may be made of.

    Raises:
        UserError: a person is asked, and several processes would wait for each other.
    """
    config, run = opened.config, opened.folder
    index, count = opened.accelerator.process_index, opened.accelerator.num_processes
    if config.judge == "ask" and count > 1:
        raise UserError("--judge ask waits longer than processes wait for each other.", "Start a single process.")
    return Bench(
        config,
        answers=run.round(0).with_name(f"answers-{index}-of-{count}.jsonl"),
        comparisons=lambda number: (
            run.round(min(number, config.rounds)) / COMPARISONS
        ),  # there is an evaluation after the last
        correct=None if task is None else task.correct,
        implicit=partial(implicit, config, scorers),
        returns=None if config.environment is None else returns,
        control=control_of(scorers.tokenizer),
        device=scorers.device,
        trust_remote_code=config.trust_remote_code,
        tokens_per_batch=config.tokens_per_batch,
        seed=config.seed,
        listener=opened.listener,
        heed=heed,
    )


def _stored(groups: Sequence[TokenGroup]) -> dict[tuple[int, ...], list[TokenResponse]]:
    """Return the responses of pairs by their prompts, those that are the policy's from end to end."""
    found: dict[tuple[int, ...], list[TokenResponse]] = {}
    for group in groups:
        sides = [one for one in group.responses if one.role in ("chosen", "rejected") and one.mask.all()]
        found.setdefault(tuple(group.prompt_ids.tolist()), []).extend(sides)
    return found
