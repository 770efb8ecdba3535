"""What the judge of a run makes of a round: a number for each compared response, and how many judgements that took."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.data.prompts import LoadedPrompts
from tokenq.errors import UserError
from tokenq.jobs.evaluation.judges import Scores
from tokenq.jobs.run import models_of_run
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.kinds import Judge, Pointwise, won
from tokenq.judge.tasks import AnswerTask, with_answers
from tokenq.models.forward.policy import no_grad
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.models.run_models import against_base
from tokenq.models.tokenizer import check_tokenizers, open_tokenizer
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import by_prompt, group_of


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
    spec = ModelSpec(str(config.judge_run), device=scorers.device, trust_remote_code=config.trust_remote_code)
    models = against_base(models_of_run(str(config.judge_run), spec))
    pair = [one for one in (models.policy, models.reference) if one is not None]
    for one in pair:
        check_tokenizers(scorers.tokenizer, open_tokenizer(one))
    readers = [no_grad(open_model(one, config.attention, config.max_length).lm) for one in pair]
    beta = 0.1 if models.beta is None else models.beta

    def score(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        policy, reference = (
            response_logps(rollouts, scorer, config.tokens_per_batch, scorers.device) for scorer in readers
        )
        return [beta * (one - other) for one, other in zip(policy, reference, strict=True)]

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


def judged(judge: Judge, number: int, rollouts: Sequence[Rollout]) -> list[float | None]:
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


def response_logps(rollouts: Sequence[Rollout], scorer: TokenScorer, budget: int, device: str) -> list[float]:
    """Return Σ log π of each response.

    Args:
        rollouts: the responses, those of a prompt together.
        scorer: gives log π.
        budget: most tokens of a forward.
        device: where it computes.
    """
    groups = [group_of(some) for some in by_prompt(rollouts)]
    found: dict[int, list[float]] = {}
    for places in plan_pass([group.n_tokens for group in groups], budget):
        batch = pack([groups[place] for place in places]).to(device)
        sums = iter(batch.actions.pad(scorer(batch).float()).sums().tolist())
        found |= {place: [next(sums) for _ in groups[place].responses] for place in places}
    return [value for place in range(len(groups)) for value in found[place]]
