"""Rounds that end in advantages: one for every token of every response, with all that a policy gradient reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenq.core.losses import LossSum
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.jobs.rollout.judges import each_rollout
from tokenq.jobs.rollout.lessons.lesson import Learning, Lesson, Scoring, usable
from tokenq.jobs.rollout.token_rewards import TokenRewards
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout, advantage_row, read_advantages
from tokenq.rollout.advantages import Credited, JudgedTokens, credited, without_signal
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import is_grouped
from tokenq.rollout.episodes.learning import RETURN

ADVANTAGES = "advantages.jsonl"

OUTCOMES = "outcomes"
"""The rewards of responses as a process reward model learns from them."""

_CUT = {"drop": "dropped", "mask": "masked", "zero": "zeroed", "bootstrap": "bootstrapped"}
"""What became of responses that were cut, in the numbers of a round."""


def learning_from_advantages(
    config: OnlineConfig,
    scoring: Scoring,
    loss: LossSum,
    values: TokenScorer | None,
    token_rewards: TokenRewards | None,
    *,
    exact: bool,
) -> Learning:
    """Return how rounds end in advantages.

    Args:
        config: the settings, none of them open.
        scoring: the models.
        loss: what is minimised.
        values: V before each target of a batch, by the value network as it is; None without one.
        token_rewards: dense rewards of responses; None without.
        exact: whether the log-probs that come with responses are the trainer's own, to rounding.
    """
    means = _Means(config, scoring, loss.reference or config.kl == "reward", values, token_rewards, exact)

    def lesson(number: int, rollouts: Sequence[Rollout]) -> Lesson:
        own, names = usable(rollouts, config), _names(rollouts)
        if not own:
            return Lesson([], {ADVANTAGES: []}, [0 for _ in names], {})
        with scoring.clock.of("trainer"):
            tokens = _judged(own, means)
            found = credited(tokens, config, config.beta or 0.0)
        grouped = is_grouped(config) and config.credit_span == "token"
        idle = dict(zip(_names(own), without_signal(tokens, found.advantages, grouped=grouped), strict=True))
        cut = {at for some in _episodes(own) for at in some if own[some[-1]].finish == "length"}
        masked = [config.truncated == "mask" and at in cut for at in range(len(own))]
        learnt = [at for at, is_masked in enumerate(masked) if not is_masked]
        counts = {name: 0 for name in names}
        for one in (own[at] for at in learnt):
            counts[one.id] += not idle[one.id]
        if not any(counts.values()):
            learnt = []
        columns = _of_parts(_columns(tokens, found, loss), own)
        responses = [_response(own[at], columns[at], loss) for at in learnt]
        rows = list(zip((own[at] for at in learnt), responses, strict=True))
        lines = [advantage_row(one, number, _where(number, one), response) for one, response in rows]
        numbers = found.numbers | _of_cut(config.truncated, rollouts)
        return Lesson(_groups(number, rows), {ADVANTAGES: lines}, list(counts.values()), numbers)

    def read(place: Path) -> list[TokenGroup]:
        return read_advantages(place / ADVANTAGES)

    return Learning("responses", lesson, read, takes_all=True)


class _Means(NamedTuple):
    """What responses are read with: see `learning_from_advantages`."""

    config: OnlineConfig
    scoring: Scoring
    reads_reference: bool
    values: TokenScorer | None
    token_rewards: TokenRewards | None
    exact: bool


def _judged(rollouts: Sequence[Rollout], means: _Means) -> JudgedTokens:
    """Return responses in tensors, the policy's own tokens alone; the parts of an episode are one row."""
    config, every = means.config, _episodes(rollouts)

    def read(scorer: TokenScorer) -> Tensor:
        return joined(each_rollout(rollouts, _by_response(scorer), config.tokens_per_batch, means.scoring.device))

    def joined(rows: Sequence[Sequence[float]]) -> Tensor:
        return _padded([[number for at in some for number in rows[at]] for some in every])

    def before_each(scorer: TokenScorer) -> Tensor:
        where, last = means.scoring.device, {some[-1] for some in every}  # in whose last state an episode may go on
        rows = each_rollout(rollouts, _by_response(scorer), config.tokens_per_batch, where, _with_last_state)
        return joined([row if at in last else row[:-1] for at, row in enumerate(rows)])

    names = {name: number for number, name in enumerate(_names(rollouts))}
    given = joined([one.written(one.logps) for one in rollouts])
    lengths = torch.tensor([sum(rollouts[at].length for at in some) for some in every])
    cut = torch.tensor([rollouts[some[-1]].finish == "length" for some in every])
    nothing = cut if config.truncated == "zero" else torch.zeros_like(cut)
    rewards = torch.tensor([rollouts[some[0]].reward for some in every], dtype=torch.float64)
    earned = _earned(rollouts, every, nothing)
    states, bootstrap = None if means.values is None else before_each(means.values), None
    if states is not None and config.truncated == "bootstrap":
        bootstrap = torch.where(cut, states.gather(1, lengths[:, None])[:, 0], 0.0)
    return JudgedTokens(
        torch.where(nothing, 0.0, rewards),
        torch.tensor([names[rollouts[some[0]].id] for some in every]),
        torch.arange(given.shape[1]) < lengths[:, None],
        given if means.exact else read(means.scoring.policy),
        read(means.scoring.reference) if means.reads_reference else None,
        given if config.importance_correction != "none" else None,
        None if means.token_rewards is None else joined(means.token_rewards(rollouts)),
        None if states is None else states[:, :-1],
        bootstrap,
        None if earned is None else earned.turns,
        None if earned is None or config.judge != RETURN else earned.rewards,
    )


def _of_cut(how: str, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return what became of how many responses that were cut."""
    count = sum(one.compared and one.finish == "length" for one in rollouts)
    return {f"truncated_{_CUT[how]}": float(count)} if how in _CUT else {}


def _columns(tokens: JudgedTokens, found: Credited, loss: LossSum) -> dict[str, Tensor]:
    """Return what the loss reads beside tokens, and what its metrics do: [N, T] by name."""
    every = {"old_logps": tokens.logps, "advantages": found.advantages}
    if found.returns is not None and tokens.values is not None:
        every |= {"returns": found.returns, "old_values": tokens.values}
    if loss.reference and tokens.ref_logps is not None:
        every["ref_logps"] = tokens.ref_logps
    return every


def _of_parts(columns: Mapping[str, Tensor], rollouts: Sequence[Rollout]) -> list[dict[str, list[float]]]:
    """Return the numbers of each response's own tokens, by name, of columns of whole episodes."""
    found = []
    for row, some in enumerate(_episodes(rollouts)):
        start = 0
        for size in (rollouts[at].length for at in some):
            found.append({name: column[row, start : start + size].tolist() for name, column in columns.items()})
            start += size
    return found


def _response(one: Rollout, columns: Mapping[str, Sequence[float]], loss: LossSum) -> TokenResponse:
    """Return a response with its columns: those of its tokens, and its outcome where the loss reads that.

    Args:
        one: the response.
        columns: numbers of its own tokens, by name.
        loss: says what it reads.

    Raises:
        UserError: the outcome is none.
    """
    own = {name: np.array(one.spread(column), np.float32) for name, column in columns.items()}
    found = replace(one.tokens("plain"), token_columns=own)
    if OUTCOMES not in loss.inputs:
        return found
    if one.reward is None or not 0 <= one.reward <= 1:
        raise UserError(
            f"The judge gives {one.reward} to response {one.number} of prompt {one.id}, and a process reward model "
            "learns from outcomes between 0 and 1.",
            "Judge by true answers (--answer, --gold), or by a function that returns such numbers.",
        )
    return found.with_response_column(OUTCOMES, one.reward)


def _groups(number: int, rows: Sequence[tuple[Rollout, TokenResponse]]) -> list[TokenGroup]:
    """Return the responses to each prompt as a group."""
    prompts: dict[str, NDArray[np.int32]] = {}
    found: dict[str, list[TokenResponse]] = {}
    for one, response in rows:
        where = _where(number, one)
        prompts[where] = np.array(one.prompt_ids, np.int32)
        found.setdefault(where, []).append(response)
    return [TokenGroup(prompts[where], tuple(some), False, where) for where, some in found.items()]


def _where(number: int, one: Rollout) -> str:
    part = f", response {one.number}, part {one.part}" if one.part else ""
    return f"round {number}, prompt {one.id}{part}"


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


def _episodes(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Return the places of the parts of each episode; a response without an environment is one of one part."""
    named = groupby(enumerate(rollouts), lambda item: (item[1].id, item[1].number))
    return [[at for at, _ in some] for _, some in named]


def _names(rollouts: Sequence[Rollout]) -> list[str]:
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
