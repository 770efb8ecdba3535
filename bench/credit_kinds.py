"""Worlds of eight tokens with a reward at the end alone, for `bench.credit_worlds`."""

from dataclasses import replace
from typing import NamedTuple

import torch

from bench.policy_worlds import Forest
from tokenq.worlds.draws import generator, normal
from tokenq.worlds.mdp import EOS, NO_STATE, build, log_softmax, prune

RIGHT, HORIZON, BETA = 1, 8, 0.3


class Kind(NamedTuple):
    """A kind of worlds.

    Attributes:
        decisive: tokens of eight that count, at places of their own in each world.
        all_or_nothing: whether the reward comes for all of them alone, or for each.
        odds: mean log-odds of π_ref for the right token at a place that counts; even elsewhere.
    """

    decisive: int
    all_or_nothing: bool
    odds: float


KINDS = {
    "lock": Kind(8, True, 0.4),
    "key": Kind(4, True, 0.2),
    "sum": Kind(8, False, 0.0),
}
"""Lock: all eight tokens must be right. Key: four of them. Sum: each right one counts."""

MOST = 3.0
"""Reward of a response that has everything right, in units of the labellers' temperature; β is a tenth of it."""


def worlds(kind: Kind, count: int, seeds: int, first: int = 0) -> Forest:
    """Return so many worlds, each standing there once for every seed of the dice that are thrown in it.

    The second token of a state is wrong. States share a row by place and progress, which is how many decisive tokens
    were right, or in a world of all or nothing whether all were.
    """
    tree = build(vocab_size=3, horizon=HORIZON, n_prompts=count * seeds, beta=BETA)
    world = prune(tree, (tree.next_states != NO_STATE) & (torch.arange(3) != EOS))
    dice = generator(first)
    places = torch.rand(count, HORIZON, generator=dice).argsort(1).argsort(1) < kind.decisive
    odds = torch.where(places, kind.odds + 0.5 * normal((count, HORIZON), dice), 0.0)
    places, odds = places.repeat_interleave(seeds, 0), odds.repeat_interleave(seeds, 0)
    progress = torch.full((world.n_states,), 1 if kind.all_or_nothing else 0)
    for layer in reversed(list(world.layers())):
        counts = places[world.prompts[layer], world.depths[layer]]
        for token in (1, 2):
            right = torch.tensor(token == RIGHT)
            before, after = progress[layer], world.next_states[layer, token]
            progress[after] = before * (right | ~counts) if kind.all_or_nothing else before + (right & counts)
    width = kind.decisive + 1
    rows = (world.prompts * HORIZON + world.depths.clamp(max=HORIZON - 1)) * width + progress
    logits = torch.zeros(count * seeds * HORIZON * width, 3, dtype=torch.float64)
    logits[:, RIGHT] = odds.flatten().repeat_interleave(width)
    worth = MOST * progress / (1 if kind.all_or_nothing else kind.decisive)
    rewards = torch.where(world.terminal, worth, 0.0)
    rewards = torch.where(world.next_states == NO_STATE, 0.0, rewards[world.next_states])
    world = replace(world, rewards=rewards.double(), reference_logps=log_softmax(logits[rows], world))
    return Forest(world, world.sequences(), rows, logits)
