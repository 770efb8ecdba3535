"""Learning in a hybrid world: its episodes as the actions of a loss, exact preferences among them, DPO's minimiser."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.worlds.hybrid import Drawings, HybridWorld
from tokenq.worlds.soft_q import bradley_terry, softmax_policy, token_logps
from tokenq.worlds.tabular import descend


def episode_logps(
    world: HybridWorld, drawings: Drawings, word_logps: Float[Tensor, "S V"], step_logps: Float[Tensor, "N T K K"]
) -> Float[Tensor, " D"]:
    """Return the log-probability of each episode under two models, noise included: they sum to 1 over a prompt's."""
    words = token_logps(world.sequences, word_logps).sums()[drawings.responses]
    return words + world.noise_logps[drawings.path[:, 0]] + drawings.taken(step_logps).sum(-1)


class Block(NamedTuple):
    """Infinitely many exact preferences among n episodes.

    Attributes:
        rows: [n] the episodes.
        weights: [n, n] the share of all preferences in which one is chosen and the other rejected; 0 on the diagonal.
    """

    rows: Int[Tensor, " n"]
    weights: Float[Tensor, "n n"]


def preferences(
    world: HybridWorld, drawings: Drawings, scores: Float[Tensor, " D"], groups: Int[Tensor, " D"]
) -> list[Block]:
    """Return the preferences of each group: two episodes are drawn by the references, and Bradley-Terry labels them.

    Args:
        world: the world.
        drawings: episodes.
        scores: [D] by which they are preferred.
        groups: [D] number of the group, of one prompt each: what the two episodes of a pair have in common.
    """
    written = episode_logps(world, drawings, world.words.reference_logps, world.step_logps)
    chances, blocks = written.exp() / world.words.n_prompts, []
    for group in sorted(set(groups.tolist())):
        rows = torch.nonzero(groups == group).squeeze(-1)
        drawn = chances[rows]
        weights = drawn[:, None] * drawn / drawn.sum() * bradley_terry(scores[rows])
        blocks.append(Block(rows, weights.fill_diagonal_(0.0)))
    return blocks


def action_logps(
    world: HybridWorld, drawings: Drawings, word_logps: Float[Tensor, "S V"], step_logps: Float[Tensor, "N T K K"]
) -> TokenLogps:
    """Return [D, C] the log-probs of words, then those of steps times γ/β.

    So β times a log-ratio is β Σ log π/π_ref + γ Σ log p/p_ref, and any loss of the table at β has both temperatures:
    Eq. 18 of arXiv 2404.12358 is `dpo` on these.
    """
    words = token_logps(world.sequences, word_logps).select(drawings.responses)
    steps = drawings.taken(step_logps) * (world.gamma / world.words.beta)
    mask = torch.cat((words.mask, torch.ones_like(steps, dtype=torch.bool)), 1)
    return TokenLogps(torch.cat((words.logps, steps), 1), mask)


def fit(
    world: HybridWorld,
    drawings: Drawings,
    blocks: Sequence[Block],
    kept: Bool[Tensor, " C"],
    iterations: int = 2_000,
) -> tuple[Float[Tensor, "S V"], Float[Tensor, "N T K K"]]:
    """Minimise DPO's loss over preferences (L-BFGS); return log π and log p.

    Args:
        world: the world; both models begin at its references.
        drawings: episodes.
        blocks: preferences among them.
        kept: [C] which actions the loss sees, words first; a model none of whose actions is seen stays as it is.
        iterations: the most.
    """
    words, possible = world.words, torch.isfinite(world.step_logps)
    logits = [
        torch.where(torch.isinf(start), 0.0, start).requires_grad_()
        for start in (words.reference_logps, world.step_logps)
    ]
    dpo = find_loss("dpo", {"beta": words.beta}).function

    def tables() -> tuple[Tensor, Tensor]:
        return softmax_policy(logits[0], words), logits[1].masked_fill(~possible, -torch.inf).log_softmax(-1)

    def seen(word_logps: Tensor, step_logps: Tensor) -> list[PairLogps]:
        actions = action_logps(world, drawings, word_logps, step_logps)
        sums = (actions.logps * kept).sum(-1)
        return [_every_pair(sums[block.rows]) for block in blocks]

    reference = seen(words.reference_logps, world.step_logps)

    def value() -> Tensor:
        losses = zip(seen(*tables()), reference, blocks, strict=True)
        return torch.stack([(dpo(one, other) * block.weights.flatten()).sum() for one, other, block in losses]).sum()

    descend(logits, value, iterations)
    word_logps, step_logps = tables()
    return word_logps.detach(), step_logps.detach()


def _every_pair(sums: Float[Tensor, " n"]) -> PairLogps:
    """Return (chosen, rejected) for every ordered pair, with the log-prob of a whole episode as its only token."""
    square = (len(sums), len(sums))
    columns = sums[:, None].expand(square).reshape(-1, 1), sums.expand(square).reshape(-1, 1)
    every = torch.ones_like(columns[0], dtype=torch.bool)
    return PairLogps(*(TokenLogps(column, every) for column in columns))
