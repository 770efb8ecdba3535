"""The responses of a round in padded tensors, with all that credit is made of, as the models say it now.

An episode whose template wrote the past anew comes in parts, each a sequence of its own: together they are one row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenq.core.credit import Moments, denormalised
from tokenq.core.losses import LossSum
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.jobs.rollout.judges import each_rollout
from tokenq.jobs.rollout.lessons.lesson import Scoring
from tokenq.jobs.rollout.token_rewards import TokenRewards
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout
from tokenq.rollout.advantages import JudgedTokens
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.learning import RETURN
from tokenq.rundir import RunDir


class CreditInputs(NamedTuple):
    """What rounds are credited by.

    Attributes:
        config: the settings, none of them open.
        scoring: the models.
        loss: what is minimised.
        values: V before each target of a batch, by the value network as it is; None without one.
        token_rewards: dense rewards of responses; None without.
        exact: whether the log-probs that come with responses are the trainer's own, to rounding.
        run: the folder of the run, for what earlier rounds left.
    """

    config: OnlineConfig
    scoring: Scoring
    loss: LossSum
    values: TokenScorer | None
    token_rewards: TokenRewards | None
    exact: bool
    run: RunDir


def judged_tokens(inputs: CreditInputs, rollouts: Sequence[Rollout], moments: Moments) -> JudgedTokens:
    """Return responses in tensors, the policy's own tokens alone; the parts of an episode are one row.

    Args:
        inputs: the models and settings.
        rollouts: the responses.
        moments: of the returns that the value network has learnt.
    """
    config, scoring, every = inputs.config, inputs.scoring, episodes_of(rollouts)

    def read(scorer: TokenScorer) -> Tensor:
        return joined(each_rollout(rollouts, _by_response(scorer), config.tokens_per_batch, scoring.device))

    def joined(rows: Sequence[Sequence[float]]) -> Tensor:
        return _padded([[number for at in some for number in rows[at]] for some in every])

    def before_each(scorer: TokenScorer) -> Tensor:
        where, last = scoring.device, {some[-1] for some in every}  # in whose last state an episode may go on
        rows = each_rollout(rollouts, _by_response(scorer), config.tokens_per_batch, where, _with_last_state)
        return joined([row if at in last else row[:-1] for at, row in enumerate(rows)])

    names = {name: number for number, name in enumerate(names_of(rollouts))}
    given = joined([one.written(one.logps) for one in rollouts])
    lengths = torch.tensor([sum(rollouts[at].length for at in some) for some in every])
    cut = torch.tensor([rollouts[some[-1]].finish == "length" for some in every])
    nothing = cut if config.truncated == "zero" else torch.zeros_like(cut)
    rewards = torch.tensor([rollouts[some[0]].reward for some in every], dtype=torch.float64)
    earned = _earned(rollouts, every, nothing)
    states = None if inputs.values is None else denormalised(before_each(inputs.values), moments)
    bootstrap = None
    if states is not None and config.truncated == "bootstrap":
        bootstrap = torch.where(cut, states.gather(1, lengths[:, None])[:, 0], 0.0)
    return JudgedTokens(
        torch.where(nothing, 0.0, rewards),
        torch.tensor([names[rollouts[some[0]].id] for some in every]),
        torch.arange(given.shape[1]) < lengths[:, None],
        given if inputs.exact else read(scoring.policy),
        read(scoring.reference) if inputs.loss.reference or config.kl == "reward" else None,
        given if config.importance_correction != "none" else None,
        None if inputs.token_rewards is None else joined(inputs.token_rewards(rollouts)),
        None if states is None else states[:, :-1],
        bootstrap,
        None if earned is None else earned.turns,
        None if earned is None or config.judge != RETURN else earned.rewards,
    )


class _Earned(NamedTuple):
    """What an environment gave in each turn.

    Attributes:
        turns: [N, T] the turn of each of the policy's tokens.
        rewards: [N, T] of turns, at their last tokens.
    """

    turns: Tensor
    rewards: Tensor


def _earned(rollouts: Sequence[Rollout], every: Sequence[Sequence[int]], nothing: Tensor) -> _Earned | None:
    """Return what an environment gave, None where there is none; [N] True for episodes that are to get nothing."""
    spans = [[turn for at in some for turn in rollouts[at].turns] for some in every]
    if not any(spans):
        return None
    turns = [[float(k) for k, turn in enumerate(some) for _ in range(turn.start, turn.end)] for some in spans]
    ends = [[[0.0] * (turn.end - turn.start - 1) + [turn.reward] for turn in some] for some in spans]
    rewards = _padded([[number for one in some for number in one] for some in ends])
    return _Earned(_padded(turns).long(), torch.where(nothing[:, None], 0.0, rewards))


def episodes_of(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Return the places of the parts of each episode; a response without an environment is one of one part."""
    named = groupby(enumerate(rollouts), lambda item: (item[1].id, item[1].number))
    return [[at for at, _ in some] for _, some in named]


def names_of(rollouts: Sequence[Rollout]) -> list[str]:
    """Return the names of the prompts, in their order."""
    return list(dict.fromkeys(one.id for one in rollouts))


def _by_response(scorer: TokenScorer) -> Callable[[PackedBatch], Iterator[list[float]]]:
    """Return what reads a number for each token of a batch, by response."""

    def read(batch: PackedBatch) -> Iterator[list[float]]:
        sizes = torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist()
        with torch.no_grad():
            flat = scorer(batch).double().cpu()
        yield from (own.tolist() for own in torch.split(flat, sizes))

    return read


def _with_last_state(group: TokenGroup) -> TokenGroup:
    """Return a group with one more target behind each response, which is read in the state after its last token."""

    def longer(one: TokenResponse) -> TokenResponse:
        return replace(one, ids=np.append(one.ids, one.ids[-1:]), mask=np.append(one.mask, True))

    return group.map(longer)


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return rows of numbers as [N, T], 0 behind the end of each."""
    found = np.zeros((len(rows), max(map(len, rows))))
    for row, numbers in zip(found, rows, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(found)
