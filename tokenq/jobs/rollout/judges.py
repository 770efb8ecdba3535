"""What the judge of a run makes of a round: a number for each compared response, and how many judgements that took."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.data.prompts import LoadedPrompts
from tokenq.errors import UserError
from tokenq.jobs.evaluation.judges import Scores
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.kinds import Judge, Pointwise, won
from tokenq.judge.tasks import AnswerTask, with_answers
from tokenq.models.forward.policy import no_grad
from tokenq.models.limits import refuse_positions
from tokenq.models.load import ModelSpec
from tokenq.models.open import OpenedModel, open_model
from tokenq.models.run_models import against_base
from tokenq.models.tokenizer import check_tokenizers, open_tokenizer
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import by_prefix, by_prompt, group_of
from tokenq.runs.places import models_of_run

T = TypeVar("T")


class Scorers(NamedTuple):
    """The models of a run as scorers of tokens.

    Attributes:
        policy: log π of the policy as it is.
        reference: log π_ref of the first reference.
        recalled: (round) → a block in which the policy has the weights that it had at the start of that round.
        tokenizer: the policy's.
        device: where they compute.
    """

    policy: TokenScorer
    reference: TokenScorer
    recalled: Callable[[int], AbstractContextManager[None]]
    tokenizer: Any
    device: str


class ImplicitReward(NamedTuple):
    """β (log π − log π_ref) of tokens.

    Attributes:
        policy: gives log π.
        reference: gives log π_ref.
        beta: KL temperature.
    """

    policy: TokenScorer
    reference: TokenScorer
    beta: float


def recalls(config: OnlineConfig) -> bool:
    """Return whether the judge reads the weights of the round before, which are then kept."""
    return config.judge == "implicit" and config.judge_run is None


def implicit(config: OnlineConfig, scorers: Scorers) -> Scores:
    """Return the function that gives β Σ log π/π_ref of what was sampled, token by token: nothing is tokenised again.

    Of the policy and the reference of --judge-run; without one, of the policy at the start of this round and the
    policy at the start of the round before, in the first round the first reference (DICE).

    Raises:
        UserError: there is no such run, or its models read other tokens.
    """
    beta = 0.1 if config.beta is None else config.beta

    def own(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        budget = config.tokens_per_batch
        now = response_logps(rollouts, scorers.policy, budget, scorers.device)
        if number == 1:
            before = response_logps(rollouts, scorers.reference, budget, scorers.device)
        else:
            with scorers.recalled(number - 1):
                before = response_logps(rollouts, scorers.policy, budget, scorers.device)
        return [beta * (one - other) for one, other in zip(now, before, strict=True)]

    return own if config.judge_run is None else _of_run(config, scorers)


def _of_run(config: OnlineConfig, scorers: Scorers) -> Scores:
    pair = reward_of_run(str(config.judge_run), config, scorers)

    def score(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        policy, reference = (
            response_logps(rollouts, scorer, config.tokens_per_batch, scorers.device)
            for scorer in (pair.policy, pair.reference)
        )
        return [pair.beta * (one - other) for one, other in zip(policy, reference, strict=True)]

    return score


def reward_of_run(run: str, config: OnlineConfig, scorers: Scorers) -> ImplicitReward:
    """Return the implicit reward of a finished run: its policy, its reference and its β.

    Args:
        run: its folder, or that of one of its checkpoints.
        config: how models are read.
        scorers: where, and in whose tokens.

    Raises:
        UserError: there is no such run, its models read other tokens than the policy writes, or it has no one β.
    """
    spec = ModelSpec(run, device=scorers.device, trust_remote_code=config.trust_remote_code)
    made = models_of_run(run, spec)
    if made.parts.segments:
        raise UserError(f"{run} has strengths by segment, and a judge has one β.", "Take a run without --segments.")
    models = against_base(made)
    pair = [one for one in (models.policy, models.reference) if one is not None]
    for one in pair:
        try:
            check_tokenizers(scorers.tokenizer, open_tokenizer(one))
        except UserError as error:
            raise UserError(f"{run} reads other tokens than the policy: {error.message}", error.hint) from None
    policy, reference = (_within(open_model(one, config.attention, config.max_length)) for one in pair)
    return ImplicitReward(policy, reference, 0.1 if models.beta is None else models.beta)


def _within(opened: OpenedModel) -> TokenScorer:
    """Return an open model as a scorer that refuses rows which it has no positions for."""
    scorer, limits = no_grad(opened.lm), opened.limits

    def score(batch: PackedBatch) -> Tensor:
        refuse_positions(limits, batch)
        return scorer(batch)

    return score


def verified_task(config: OnlineConfig, loaded: LoadedPrompts) -> tuple[AnswerTask, LoadedPrompts]:
    """Return the task of true answers, and the prompts that have one.

    Raises:
        UserError: a prompt has none and is not to be left out.
    """
    answer = str(config.answer)
    task = AnswerTask(loaded.prompts, str(config.gold), find_extractor(answer), find_equality(answer))
    kept = with_answers(loaded, task, config.bad_rows)
    return AnswerTask(kept.prompts, task.column, task.extract, task.same), kept


def judged(judge: Judge, number: int, rollouts: Sequence[Any]) -> list[float | None]:
    """Return what each response is worth; None where the judge gives no finite number.

    Raises:
        UserError: it gives another number of rewards than it was given responses.
    """
    if isinstance(judge, Pointwise):
        rewards = [float(reward) for reward in judge.score(number, rollouts)]
    else:
        rewards = [share for some in won(judge, number, by_prompt(rollouts)) for share in some]
    if len(rewards) != len(rollouts):
        raise UserError(
            f"The judge gave {len(rewards)} rewards for {len(rollouts)} responses.",
            "It must return one number for each response, in their order.",
        )
    return [reward if math.isfinite(reward) else None for reward in rewards]


def refuse_not_finite(rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> None:
    """Refuse rewards of which one is missing: without its response, the others' gradient would be another's.

    Raises:
        UserError: names the first such response.
    """
    for one, reward in zip(rollouts, rewards, strict=True):
        if reward is None:
            raise UserError(
                f"The judge gives no finite number to response {one.number} of prompt {one.id}, and this method needs "
                "one for each.",
                "Mend the judge and start the same command again: what was written is kept.",
            )


def response_logps(rollouts: Sequence[Rollout], scorer: TokenScorer, budget: int, device: str) -> list[float]:
    """Return Σ log π of each response.

    Args:
        rollouts: the responses, those of a prompt together.
        scorer: gives log π.
        budget: most tokens of a forward.
        device: where it computes.
    """
    return each_rollout(
        rollouts, lambda batch: batch.actions.pad(scorer(batch).float()).sums().tolist(), budget, device
    )


def each_rollout(
    rollouts: Sequence[Rollout],
    read: Callable[[PackedBatch], Iterable[T]],
    budget: int,
    device: str,
    laid_out: Callable[[TokenGroup], TokenGroup] = lambda group: group,
) -> list[T]:
    """Return what is read of each response, in their order.

    Args:
        rollouts: the responses, those of a prompt together.
        read: (batch) → an item for each response in it.
        budget: most tokens of a forward.
        device: where that computes.
        laid_out: (a prompt with its responses) → the same as they are read.
    """
    groups = [laid_out(group_of(some)) for some in by_prefix(rollouts)]
    found: dict[int, list[T]] = {}
    for places in plan_pass([group.n_tokens for group in groups], budget):
        items = iter(read(pack([groups[place] for place in places]).to(device)))
        found |= {place: [next(items) for _ in groups[place].responses] for place in places}
    return [value for place in range(len(groups)) for value in found[place]]
