"""Judges of rounds, in one table: what the compared responses of a round are worth, each a number.

A judge of an online run is the judge of evaluations: the same tasks, the same reward models. To add one, write a
function that makes it and a row of `JUDGES`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.data.prompts import LoadedPrompts
from tokenq.errors import UserError
from tokenq.jobs.run import models_of_run
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.chat import ChatJudge
from tokenq.judge.endpoint import Endpoint
from tokenq.judge.judging import Comparison, shares
from tokenq.judge.tasks import AnswerTask, with_answers
from tokenq.models.forward.policy import no_grad
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.models.reward_model import RewardModel
from tokenq.models.run_models import against_base
from tokenq.models.tokenizer import check_tokenizers, open_tokenizer
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import by_prompt, group_of

Judge = Callable[[int, Sequence[Rollout]], Sequence[float]]
"""(round, responses) → what each is worth."""


@dataclass(frozen=True)
class Bench:
    """What a judge may be made of.

    Attributes:
        config: the settings.
        task: the true answers, None without a column of them.
        tokenizer: the policy's.
        device: where models compute.
        scorer: log π of the policy as it is.
        reference: log π_ref of the first reference.
        answers: file that keeps what a model that is asked in words has said.
        recalled: (round) → a block in which the policy has the weights that it had at the start of that round.
    """

    config: OnlineConfig
    task: AnswerTask | None
    tokenizer: Any
    device: str
    scorer: TokenScorer
    reference: TokenScorer
    answers: Path
    recalled: Callable[[int], AbstractContextManager[None]]


class JudgeRow(NamedTuple):
    """A row of the table.

    Attributes:
        make: makes the judge.
        recalls: whether it reads the weights of the round before, which are then kept.
        relative: whether it only says how the responses to one prompt compare.
    """

    make: Callable[[Bench], Judge]
    recalls: bool = False
    relative: bool = False


def verifier(bench: Bench) -> Judge:
    """Return the judge that compares the answer of a response with the true one: 1 for the same, else 0."""
    task = bench.task
    if task is None:
        raise UserError("There are no true answers to judge by.", "Name their column: --gold answer.")
    return lambda number, rollouts: [task.correct(one.id, one.response) for one in rollouts]


def reward_model(bench: Bench) -> Judge:
    """Return the judge that is a reward model."""
    config = bench.config
    spec = ModelSpec(str(config.reward_model), device=bench.device, trust_remote_code=config.trust_remote_code)
    model = RewardModel(spec, config.reward_weights, config.tokens_per_batch)

    def judge(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        ended = [one.finish == "stop" for one in rollouts]
        return model.score([one.prompt for one in rollouts], [one.response for one in rollouts], ended)

    return judge


def trained_pair(bench: Bench) -> Judge:
    """Return the judge that is β Σ log π/π_ref of the policy and the reference of a finished run.

    Raises:
        UserError: there is no such run, or its models read other tokens.
    """
    config = bench.config
    spec = ModelSpec(str(config.judge_run), device=bench.device, trust_remote_code=config.trust_remote_code)
    models = against_base(models_of_run(str(config.judge_run), spec))
    pair = [one for one in (models.policy, models.reference) if one is not None]
    for one in pair:
        check_tokenizers(bench.tokenizer, open_tokenizer(one))
    scorers = [no_grad(open_model(one, config.attention, config.max_length).lm) for one in pair]
    beta = 0.1 if models.beta is None else models.beta

    def judge(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        policy, reference = (
            response_logps(rollouts, scorer, config.tokens_per_batch, bench.device) for scorer in scorers
        )
        return [beta * (one - other) for one, other in zip(policy, reference, strict=True)]

    return judge


def chat(bench: Bench) -> Judge:
    """Return the judge that asks a model in words: the share of the other responses to a prompt that one beats."""
    endpoint = Endpoint(str(bench.config.judge_model), bench.config.base_url)
    asked = ChatJudge(endpoint, bench.answers)

    def judge(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        matches = [pair for some in by_prompt(rollouts) for pair in combinations(some, 2)]
        names = [f"round {number}, prompt {one.id}, responses {one.number} and {two.number}" for one, two in matches]
        made = [(name, one.prompt, one.response, two.response) for name, (one, two) in zip(names, matches, strict=True)]
        won: dict[tuple[str, int], list[float]] = {(one.id, one.number): [] for one in rollouts}
        said = shares(asked([Comparison(*each) for each in made])).tolist()
        for (one, two), share in zip(matches, said, strict=True):
            if math.isfinite(share):
                won[one.id, one.number].append(share)
                won[two.id, two.number].append(1 - share)
        return [sum(found) / len(found) if found else math.nan for found in won.values()]

    return judge


def implicit(bench: Bench) -> Judge:
    """Return the judge that is β Σ log π/π_before, π_before the policy at the start of the round before (DICE).

    In the first round π_before is the first reference.
    """
    beta = 0.1 if bench.config.beta is None else bench.config.beta

    def judge(number: int, rollouts: Sequence[Rollout]) -> Sequence[float]:
        budget = bench.config.tokens_per_batch
        now = response_logps(rollouts, bench.scorer, budget, bench.device)
        if number == 1:
            before = response_logps(rollouts, bench.reference, budget, bench.device)
        else:
            with bench.recalled(number - 1):
                before = response_logps(rollouts, bench.scorer, budget, bench.device)
        return [beta * (one - other) for one, other in zip(now, before, strict=True)]

    return judge


JUDGES: dict[str, JudgeRow] = {
    "verifier": JudgeRow(verifier),
    "reward_model": JudgeRow(reward_model),
    "run": JudgeRow(trained_pair),
    "chat": JudgeRow(chat, relative=True),
    "implicit": JudgeRow(implicit, recalls=True),
}
"""Every judge by its name."""


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
    rewards = [float(reward) for reward in judge(number, rollouts)]
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
