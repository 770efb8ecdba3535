"""What learns in the worlds of `bench.policy_worlds`: policies by DPO, SFT and PPO, reward models by Bradley-Terry.

Each learner pauses after each update, so that whoever runs it can look. The losses are the package's own.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat

import torch
from torch import Tensor, nn

from bench.policy_worlds import Forest, Policy, Rollouts, at_end, descend, roll_out
from tokenq.core.credit import kl_estimates, leave_one_out
from tokenq.core.losses import find_loss
from tokenq.worlds.draws import generator
from tokenq.worlds.soft_q import solve, token_logps

RATE, SAMPLES = 0.05, 32
"""Adam's rate; responses that PPO has written in each world for two updates."""


def by_dpo(policy: Policy, kind: Forest, pairs: Tensor, updates: int, beta: float, reference: Tensor) -> Iterator[None]:
    """Train a policy by DPO on all pairs [W, P, 2] at once."""
    rows = kind.index(pairs).flatten(0, 1)
    loss = find_loss("dpo", {"beta": beta}).function
    before = token_logps(kind.sequences, reference).pairs(rows)

    def value() -> Tensor:
        return loss(token_logps(kind.sequences, policy.table()).pairs(rows), before).sum()

    return descend(policy, repeat(value, updates), RATE)


def by_sft(policy: Policy, kind: Forest, pairs: Tensor, updates: int) -> Iterator[None]:
    """Train a policy to write the chosen responses."""
    rows, loss = kind.index(pairs).flatten(0, 1)[:, 0], find_loss("sft").function

    def value() -> Tensor:
        return loss(token_logps(kind.sequences, policy.table()).select(rows)).sum()

    return descend(policy, repeat(value, updates), RATE)


class RewardModel(nn.Module):
    """A number for every response, or a sum over its tokens of one for each (row, token), 0 to begin with.

    Args:
        kind: where.
        rows: [S] of numbers for tokens; None: a number for each response.
    """

    def __init__(self, kind: Forest, rows: Tensor | None) -> None:
        super().__init__()
        self.kind, self.rows = kind, rows
        shape = (len(kind.sequences),) if rows is None else (int(rows.max()) + 1, kind.world.vocab_size)
        self.weights = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return [W, N] rewards."""
        if self.rows is None:
            return self.weights.reshape(self.kind.world.n_prompts, -1)
        return self.kind.sequences.taken(self.weights[self.rows]).sum(-1).reshape(self.kind.world.n_prompts, -1)


def by_bradley_terry(model: RewardModel, kind: Forest, pairs: Tensor, updates: int) -> Iterator[None]:
    """Train a reward model on all pairs at once."""
    rows, loss = kind.index(pairs).flatten(0, 1), find_loss("bradley_terry").function
    return descend(model, repeat(lambda: loss(*model().flatten()[rows].unbind(1)).sum(), updates), RATE)


def by_ppo(policy: Policy, kind: Forest, rewards: Tensor, updates: int, beta: float, seed: int = 3) -> Iterator[None]:
    """Train a policy by PPO on rewards [W, N] less β KL, leave-one-out, two updates for each 32 responses a world."""
    dice, loss = generator(seed), find_loss("ppo").function

    def values() -> Iterator[Callable[[], Tensor]]:
        for _ in range(updates // 2):
            wrote = roll_out(kind, policy.table().detach(), SAMPLES, dice)
            paid = beta * kl_estimates(wrote.written.logps, wrote.reference.logps, "k1").sum(-1)
            gains = leave_one_out(rewards.flatten()[wrote.rows] - paid, wrote.groups)
            advantages = gains[:, None] * wrote.written.mask

            def value(wrote: Rollouts = wrote, advantages: Tensor = advantages) -> Tensor:
                logps = token_logps(kind.sequences, policy.table()).select(wrote.rows)
                return loss(logps, wrote.written.logps, advantages).sum() / SAMPLES

            yield from repeat(value, 2)

    return descend(policy, values(), RATE)


def optimum(kind: Forest, rewards: Tensor, beta: float) -> Tensor:
    """Return [S, V] the policy that is best for these rewards [W, N] less β KL."""
    return solve(replace(kind.world, beta=beta, rewards=at_end(kind, rewards))).logps
