"""What policy and reference say of the actions of episodes: implicit rewards, token by token."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import PackedBatch
from tokenq.records.episodes import Episode, Segment, Turn
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.rollout.episodes.game import Worth

LogpsReader = Callable[[PackedBatch], tuple[Tensor, Tensor]]
"""Reads log π and log π_ref at every target of a batch."""


def with_implicit(episodes: Sequence[Episode], read: LogpsReader, beta: float, budget: int) -> list[Episode]:
    """Return episodes with β log π/π_ref of every token of their actions.

    Args:
        episodes: what was played.
        read: reads both models.
        beta: KL temperature.
        budget: most tokens in one forward.
    """
    segments = [segment for one in episodes for segment in one.segments()]
    rewards = _rewards([_group(segment) for segment in segments], read, beta, budget)
    flat = iter([number for own in rewards for number in own])
    return [replace(one, turns=tuple(_read(one, flat))) for one in episodes]


def worth_of(read: LogpsReader, beta: float, budget: int) -> Worth:
    """Return what reads single actions: Σ β log π/π_ref over their tokens.

    Args:
        read: reads both models.
        beta: KL temperature.
        budget: most tokens in one forward.
    """

    def worth(actions: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
        groups = []
        for before, ids in actions:
            tokens = TokenResponse(np.array(ids, np.int32), np.ones(len(ids), np.bool_), True)
            groups.append(TokenGroup(np.array(before, np.int32), (tokens,), False, "an action"))
        return [sum(own) for own in _rewards(groups, read, beta, budget)]

    return worth


def _rewards(groups: Sequence[TokenGroup], read: LogpsReader, beta: float, budget: int) -> list[list[float]]:
    """Return β log π/π_ref of every token of each group's response that the policy wrote."""
    found: dict[int, list[float]] = {}
    for places in plan_pass([group.n_tokens for group in groups], budget):
        logps, ref_logps = read(pack([groups[place] for place in places], places))
        rewards = beta * (logps - ref_logps).double().cpu().numpy()
        sizes = [int(groups[place].responses[0].mask.sum()) for place in places]
        for place, own in zip(places, np.split(rewards, np.cumsum(sizes)[:-1]), strict=True):
            found[place] = own.tolist()
    return [found[place] for place in range(len(groups))]


def _group(segment: Segment) -> TokenGroup:
    tokens = TokenResponse(np.array(segment.token_ids, np.int32), np.array(segment.own), segment.finish == "stop")
    return TokenGroup(np.array(segment.prompt_ids, np.int32), (tokens,), False, "an episode")


def _read(episode: Episode, rewards: Iterator[float]) -> Iterator[Turn]:
    for turn in episode.turns:
        yield replace(turn, implicit=tuple(next(rewards) for _ in turn.action_ids))
