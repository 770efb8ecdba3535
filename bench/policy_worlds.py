"""Many exact worlds as the prompts of one, and policies in them: for `bench.dpo_and_ppo` and `bench.credit_worlds`.

Worlds of one kind are prompts of a single `TokenMDP`, so one policy acts in all of them and one call of a loss serves
them all; nothing that is learnt at one prompt reaches another. All prompts have the same tree of responses.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenq.core.tensors import TokenLogps
from tokenq.worlds.draws import normal
from tokenq.worlds.mdp import NO_STATE, Sequences, TokenMDP, log_softmax
from tokenq.worlds.soft_q import evaluate, response_logps, softmax_policy, solve, token_logps


class Policy(nn.Module):
    """A policy whose states share rows of logits: the least that a network does.

    Args:
        world: where it acts.
        rows: [S] the row of each state.
        logits: [R, V] where it begins.
    """

    def __init__(self, world: TokenMDP, rows: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.world, self.rows = world, rows
        self.logits = nn.Parameter(logits.clone())

    def table(self) -> Tensor:
        """Return [S, V] log π of every state."""
        return softmax_policy(self.logits[self.rows], self.world)


def own_rows(world: TokenMDP) -> Tensor:
    """Return [S] rows that no two states share."""
    return torch.arange(world.n_states)


def bigram_rows(world: TokenMDP) -> Tensor:
    """Return [S] rows that states of a prompt share if they have the last token in common."""
    last = torch.zeros(world.n_states, dtype=torch.long)  # nothing is written yet
    before, token = torch.nonzero(world.next_states != NO_STATE, as_tuple=True)
    last[world.next_states[before, token]] = token + 1
    return world.prompts * (world.vocab_size + 1) + last


class Forest(NamedTuple):
    """Worlds of one kind.

    Attributes:
        world: all of them.
        sequences: their responses, W x N of them.
        rows: [S] of logits that the reference shares.
        logits: [R, V] of the reference.
    """

    world: TokenMDP
    sequences: Sequences
    rows: Tensor
    logits: Tensor

    @property
    def reference(self) -> Tensor:
        """[W, N] log π_ref of every response."""
        return self.responses(self.world.reference_logps)

    @property
    def rewards(self) -> Tensor:
        """[W, N] what every response is worth."""
        return self.sequences.taken(self.world.rewards).sum(-1).reshape(self.world.n_prompts, -1)

    def responses(self, table: Tensor) -> Tensor:
        """Return [W, N] log π of every response."""
        return response_logps(self.sequences, table).reshape(self.world.n_prompts, -1)

    def index(self, places: Tensor) -> Tensor:
        """Return places [W, ...] within the responses of each world as indices of `sequences`."""
        count = len(self.sequences) // self.world.n_prompts
        return places + count * torch.arange(len(places)).reshape(-1, *[1] * (places.dim() - 1))

    def policy(self) -> Policy:
        """Return a policy that begins as the reference and shares what that shares."""
        return Policy(self.world, self.rows, self.logits)

    def regret(self, table: Tensor) -> Tensor:
        """Return [W] V* − V^π."""
        count = self.world.n_prompts
        return solve(self.world).values[:count] - evaluate(self.world, table)[:count]


def forest(tree: TokenMDP, rows: Tensor, rewards: Callable[[Tensor], Tensor], dice: torch.Generator) -> Forest:
    """Return worlds with normal reference logits of these rows, and a reward at the end of each response.

    Args:
        tree: gives states, temperature and prompts.
        rows: of the reference.
        rewards: [W, N] log π_ref → [W, N] rewards.
        dice: of the reference.
    """
    sequences = tree.sequences()
    logits = normal((int(rows.max()) + 1, tree.vocab_size), dice)
    world = replace(tree, reference_logps=log_softmax(logits[rows], tree))
    made = Forest(world, sequences, rows, logits)
    return made._replace(world=replace(world, rewards=at_end(made, rewards(made.reference))))


def at_end(kind: Forest, rewards: Tensor) -> Tensor:
    """Return [S, V] rewards of whole responses [W, N], given at the last token."""
    rows, last = torch.arange(len(kind.sequences)), kind.sequences.valid.sum(-1) - 1
    table = torch.zeros_like(kind.world.rewards)
    table[kind.sequences.states[rows, last], kind.sequences.tokens[rows, last]] = rewards.flatten()
    return table


def draw(logps: Tensor, count: int, dice: torch.Generator) -> Tensor:
    """Return [W, count] places of responses drawn with these log-probs [W, N]."""
    return logps.exp().multinomial(count, replacement=True, generator=dice)


def draw_pairs(logps: Tensor, rewards: Tensor, count: int, dice: torch.Generator) -> Tensor:
    """Return [W, count, 2] places of (chosen, rejected): two different draws, labelled by Bradley-Terry.

    Args:
        logps: [W, N] of whoever writes both.
        rewards: [W, N] by which they are labelled.
        count: pairs a world.
        dice: of writing and labels.
    """
    one = draw(logps, count, dice)
    left = logps.exp()[:, None].repeat(1, count, 1).scatter(2, one[..., None], 0.0) + 1e-300
    other = left.flatten(0, 1).multinomial(1, generator=dice).reshape(one.shape)
    odds = torch.sigmoid(rewards.gather(1, one) - rewards.gather(1, other))
    wins = torch.rand(odds.shape, generator=dice, dtype=torch.float64) < odds
    return torch.stack((torch.where(wins, one, other), torch.where(wins, other, one)), -1)


def descend(module: nn.Module, losses: Iterable[Callable[[], Tensor]], rate: float) -> Iterator[None]:
    """Take a step of Adam down each of these functions of the parameters in turn, and pause after each."""
    search = torch.optim.Adam(module.parameters(), lr=rate)
    for loss in losses:
        search.zero_grad()
        loss().backward()
        search.step()
        yield


class Rollouts(NamedTuple):
    """What a policy wrote, K responses in each world.

    Attributes:
        rows: [W K] the responses, as indices of `sequences`.
        groups: [W K] the world of each.
        written: their log-probs under the policy that wrote them.
        reference: the same under π_ref.
    """

    rows: Tensor
    groups: Tensor
    written: TokenLogps
    reference: TokenLogps


def roll_out(kind: Forest, table: Tensor, count: int, dice: torch.Generator) -> Rollouts:
    """Return responses that a policy [S, V] writes, so many in each world."""
    places = draw(kind.responses(table), count, dice)
    rows = kind.index(places).flatten()
    groups = torch.arange(len(places)).repeat_interleave(count)
    sequences = kind.sequences
    sides = [token_logps(sequences, logps).select(rows) for logps in (table, kind.world.reference_logps)]
    return Rollouts(rows, groups, *sides)
