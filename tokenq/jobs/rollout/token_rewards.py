"""Dense rewards by name, in one table: what a source says that each token of a response adds.

A source reads the ids that were sampled, EOS included, so that every number belongs to one action. Its numbers are
what credit is made of (`tokenq/core/credit`); the judge's reward of the whole response stands beside them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch

from tokenq.core.packing import at_own_state, every_token
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.data.encoding import pieces_of
from tokenq.errors import UserError, unknown_name
from tokenq.jobs.rollout.judges import ImplicitReward, Scorers, each_rollout, judged, reward_of_run
from tokenq.judge.kinds import Judge, Pointwise, Response
from tokenq.models.forward.pair_ranker import is_ranker
from tokenq.models.limits import refuse_positions
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_reward_model
from tokenq.models.tokenizer import check_tokenizers, open_tokenizer
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig

TokenRewards = Callable[[Sequence[Rollout]], list[list[float]]]
"""(responses, those of a prompt together) → for each response a number for each token that the policy wrote."""


class Source(NamedTuple):
    """What token rewards may be made of.

    Attributes:
        config: the settings of the run.
        scorers: its models, in whose tokens responses are.
        judge: says what a whole response is worth.
        prm: the implicit reward of the PRM that is trained beside the policy; None where there is none.
    """

    config: OnlineConfig
    scorers: Scorers
    judge: Judge
    prm: ImplicitReward | None = None


def implicit(source: Source) -> TokenRewards:
    """Return β (log π − log π_ref) of the policy and the reference of --credit-run, a finished run of DPO.

    The sum over a response is its r̂(x, y) = β log π(y|x)/π_ref(y|x): that is the reward that the pair is optimal for,
    less a constant of the prompt (Eq. 10 of arXiv 2404.12358).

    Raises:
        UserError: no run is named, or its models read other tokens.
    """
    run = source.config.credit_run
    if run is None:
        raise UserError(
            "Implicit token rewards are read off a policy and its reference, and no run is named.",
            "Name a finished run of DPO: --credit-run runs/dpo.",
        )
    return _of_pair(reward_of_run(run, source.config, source.scorers), source)


def prime(source: Source) -> TokenRewards:
    """Return β (log φ − log π_ref) of the implicit PRM φ as it is now: PRIME, arXiv 2502.01456.

    Raises:
        UserError: no PRM is trained.
    """
    if source.prm is None:
        raise UserError(
            "There is no process reward model beside the policy to read token rewards off.",
            "Add its loss to the policy's: --loss grpo+implicit_prm, as --method prime has it.",
        )
    return _of_pair(source.prm, source)


def reward_model(source: Source) -> TokenRewards:
    """Return what each token adds to the number that --reward-model gives to the response so far.

    Its head is read behind the prompt and behind every token, and the differences are taken: their sum is the reward
    of the whole response less that of the prompt alone.

    Raises:
        UserError: none is named, it says something of whole responses or of two at once, or it reads other tokens.
    """
    config, scorers = source.config, source.scorers
    if config.reward_model is None:
        raise UserError("Token rewards of a reward model need one.", "Name it: --reward-model RM.")
    spec = ModelSpec(config.reward_model, device=scorers.device, trust_remote_code=config.trust_remote_code)
    if is_ranker(spec):
        raise UserError(f"{spec.path} compares two responses: no token has a reward.", "Name a sequence classifier.")
    try:
        check_tokenizers(scorers.tokenizer, open_tokenizer(spec))
    except UserError as error:
        hint = "Take a reward model that was trained with the policy's tokenizer."
        raise UserError(f"{spec.path} reads other tokens than the policy: {error.message}", hint) from None
    rewards = open_reward_model(spec, config.reward_weights, config.attention, config.max_length)
    weights = torch.tensor(rewards.weights, dtype=torch.float64)

    def read(batch: PackedBatch) -> Iterator[list[float]]:
        refuse_positions(rewards.opened.limits, batch)
        with torch.no_grad():
            values = rewards.lm(batch).rewards.double().cpu() @ weights
        for own in _by_response(batch, values):
            yield own.diff().tolist()

    def of_tokens(rollouts: Sequence[Rollout]) -> list[list[float]]:
        found = each_rollout(rollouts, read, config.tokens_per_batch, scorers.device, _at_every_prefix)
        return [list(one.written(rewards)) for one, rewards in zip(rollouts, found, strict=True)]

    return of_tokens


def judge(source: Source) -> TokenRewards:
    """Return what each token adds to the judge's own number of the response so far.

    The text in front of every token is judged, and the differences are taken: their sum is the reward of the whole
    response less that of the empty one. A response of T tokens is T texts more to judge; what several responses to a
    prompt begin with is judged once.

    Raises:
        UserError: the judge compares responses, or reads no texts.
    """
    said = source.judge
    if not isinstance(said, Pointwise):
        raise UserError(
            "--token-rewards judge reads the judge's number of every beginning of a response, and this judge compares "
            "two responses.",
            "Take one that gives a response a number: FILE.py:FUNCTION, true answers, or a sequence classifier.",
        )
    if said.reads == "tokens":
        hint = "Take --token-rewards implicit --credit-run RUN, which reads them in one pass."
        raise UserError("The implicit judge has a number for every token itself.", hint)

    def read(rollouts: Sequence[Rollout]) -> list[list[float]]:
        begun = [_beginnings(one, source.scorers.tokenizer) for one in rollouts]
        asked = list(dict.fromkeys(part for some in begun for part in some))
        worth: dict[Response, float] = {}
        for start in range(0, len(asked), _JUDGED_AT_ONCE):
            some = asked[start : start + _JUDGED_AT_ONCE]
            found = judged(said, 0, some)
            worth |= {part: math.nan if one is None else one for part, one in zip(some, found, strict=True)}
        return [
            np.diff([*(worth[part] for part in some), math.nan if one.reward is None else one.reward]).tolist()
            for one, some in zip(rollouts, begun, strict=True)
        ]

    return read


_JUDGED_AT_ONCE = 512
"""Texts that a judge is given together."""


def _beginnings(one: Rollout, tokenizer: Any) -> list[Response]:
    """Return what stood before each token of a response, as texts that go on."""
    pieces = pieces_of(tokenizer, one.prompt_ids, one.token_ids)
    return [Response(one.id, one.prompt, text, "length") for text in accumulate(pieces[:-1], initial="")]


TOKEN_REWARDS: Mapping[str, Callable[[Source], TokenRewards]] = {
    "implicit": implicit,
    "prime": prime,
    "reward_model": reward_model,
    "judge": judge,
}
"""Every source of token rewards by its name."""


def token_rewards(name: str, source: Source, clip: float | None = None) -> TokenRewards:
    """Return a source of token rewards by its name.

    Args:
        name: a key of `TOKEN_REWARDS`.
        source: what it may be made of.
        clip: the largest reward of a token, and its negative the smallest. RTO's code (arXiv 2404.18922) holds each
            log-ratio within one nat: clip = β. What is cut off is lost, so that the sum is no longer the reward of the
            response (with clip = β, a token that the pair makes e³ times as likely counts a third of what it is worth).

    Raises:
        UserError: there is no such source, or it lacks what it is made of.
    """
    if name not in TOKEN_REWARDS:
        raise unknown_name("source of token rewards", name, TOKEN_REWARDS)
    read, most = TOKEN_REWARDS[name](source), math.inf if clip is None else clip

    def clipped(rollouts: Sequence[Rollout]) -> list[list[float]]:
        found = read(rollouts)
        for one, rewards in zip(rollouts, found, strict=True):
            if not all(map(math.isfinite, rewards)):
                raise UserError(
                    f"Prompt {one.id}, response {one.number}: the {name} reward of a token is not finite.",
                    "Look at what it is read off; a model may be computed in float32.",
                )
        return [[max(-most, min(most, reward)) for reward in rewards] for rewards in found]

    return clipped


def _of_pair(reward: ImplicitReward, source: Source) -> TokenRewards:
    def read(batch: PackedBatch) -> Iterator[list[float]]:
        ratios = _logps(reward.policy, batch) - _logps(reward.reference, batch)
        for own in _by_response(batch, reward.beta * ratios):
            yield own.tolist()

    config, device = source.config, source.scorers.device
    return lambda rollouts: each_rollout(rollouts, read, config.tokens_per_batch, device)


def _logps(scorer: TokenScorer, batch: PackedBatch) -> torch.Tensor:
    return scorer(batch).double().cpu()


def _by_response(batch: PackedBatch, flat: torch.Tensor) -> Sequence[torch.Tensor]:
    sizes: list[int] = torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist()
    return torch.split(flat, sizes)


def _at_every_prefix(group: TokenGroup) -> TokenGroup:
    """Return a group that is read behind its prompt, and behind every token of each response."""
    shifted = at_own_state(group, every_token)  # whose first target has the state of the prompt's last token
    return shifted.map(lambda one: replace(one, mask=np.ones(len(one.ids), np.bool_)))
