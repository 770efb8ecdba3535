"""Exact worlds for `bench.optimism_worlds`: good responses in the reference's bulk, in its tail, or one alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenq.worlds.draws import generator, normal
from tokenq.worlds.mdp import Sequences, TokenMDP, build, log_softmax
from tokenq.worlds.soft_q import response_logps


@dataclass(frozen=True)
class Kind:
    """A kind of worlds, all of one tree.

    Attributes:
        worlds: one for each seed.
        sequences: all responses, the same in each.
        rounds: of labels.
        labels: a round.
    """

    worlds: Sequence[TokenMDP]
    sequences: Sequences
    rounds: int
    labels: int

    @property
    def reference(self) -> Tensor:
        """[W, N] log π_ref of every response."""
        return torch.stack([response_logps(self.sequences, world.reference_logps) for world in self.worlds])

    @property
    def rewards(self) -> Tensor:
        """[W, N] what every response is worth."""
        return torch.stack([self.sequences.taken(world.rewards).sum(-1) for world in self.worlds])


def graded(sign: float, count: int, labels: int) -> Kind:
    """Return worlds of 341 responses with rewards in [0, 4] that go with log π_ref (sign 1) or against it (−1).

    The reward is half a standard deviation of log π_ref, and one of noise; β = 0.3, 8 rounds of so many labels.
    """
    tree = build(vocab_size=5, horizon=4, beta=0.3)
    sequences, worlds = tree.sequences(), []
    for seed in range(count):
        dice = generator(seed)
        reference = log_softmax(normal(tuple(tree.next_states.shape), dice), tree)
        logps = response_logps(sequences, reference)
        scores = normal((len(sequences),), dice) + sign * 0.5 * (logps - logps.mean()) / logps.std()
        rewards = 4 * (scores - scores.min()) / (scores.max() - scores.min())
        worlds.append(with_rewards(replace(tree, reference_logps=reference), sequences, rewards))
    return Kind(worlds, sequences, 8, labels)


def needle(count: int, *, chance: float, worth: float, spread: float, rounds: int) -> Kind:
    """Return worlds of 40 responses of which one is good, and hardly ever written by the reference; β = 0.5.

    Args:
        count: worlds.
        chance: π_ref of the good response.
        worth: its reward.
        spread: standard deviation of what the others are worth, around 0.
        rounds: of 16 labels.
    """
    tree = build(vocab_size=40, horizon=1, beta=0.5)
    sequences, worlds = tree.sequences(), []
    for seed in range(count):
        dice = generator(seed)
        good = int(torch.randint(len(sequences), (1,), generator=dice))
        rewards = spread * normal((len(sequences),), dice)
        rewards[good] = worth
        logits = normal(tuple(tree.next_states.shape), dice)
        token = int(sequences.tokens[good, 0])
        others = torch.arange(tree.vocab_size) != token
        logits[0, token] = logits[0, others].logsumexp(0) + torch.tensor(chance / (1 - chance)).log()
        world = replace(tree, reference_logps=log_softmax(logits, tree))
        worlds.append(with_rewards(world, sequences, rewards))
    return Kind(worlds, sequences, rounds, 16)


def with_rewards(world: TokenMDP, sequences: Sequences, rewards: Tensor) -> TokenMDP:
    """Return the world with these rewards of whole responses, given at their last token."""
    last = sequences.valid.sum(-1) - 1
    rows = torch.arange(len(sequences))
    table = torch.zeros_like(world.rewards)
    table[sequences.states[rows, last], sequences.tokens[rows, last]] = rewards
    return replace(world, rewards=table)
