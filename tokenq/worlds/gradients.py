"""Exact policy gradients in a tabular world: of the objective, and mean and noise of estimators, without a draw.

An estimator gives every token of a response an advantage that may depend on the other responses of its group; its
gradient is the mean of Σ_t A_t ∇log π(y_t|s_t) over the group. Where the others count by a mean over them, as a
baseline does, a group of K is a U-statistic of pairs: both moments for every K follow from all pairs of responses.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.worlds.mdp import Sequences, TokenMDP
from tokenq.worlds.soft_q import evaluate, response_logps, softmax_policy

Credit = Callable[[Int[Tensor, " N"], Int[Tensor, " N"]], Float[Tensor, "N T"]]
"""(responses, their groups) → the advantage of each token."""


class Moments(NamedTuple):
    """Mean and noise of an estimator.

    Attributes:
        mean: [S, V] its expectation, by the logits of each state.
        noise: the root of its summed variances.
    """

    mean: Float[Tensor, "S V"]
    noise: float


def exact_gradient(world: TokenMDP, logps: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
    """Return the gradient of V^π of the first prompt, KL included, by the logits of each state."""
    logits = torch.where(torch.isinf(logps), 0.0, logps).requires_grad_()
    return torch.autograd.grad(evaluate(world, softmax_policy(logits, world))[0], logits)[0]


def moments(sequences: Sequences, logps: Float[Tensor, "S V"], credit: Credit, group: int = 4) -> Moments:
    """Return the exact mean and noise of an estimator over groups of i.i.d. responses to the first prompt.

    With k(i, j) the gradient that response i gives beside j, and h its symmetric part, Var = 2/(K(K−1)) · (2(K−2) ζ₁ +
    ζ₂), ζ₁ = Var E[h|i] and ζ₂ = Var h (Hoeffding 1948).

    Args:
        sequences: all responses.
        logps: [S, V] log π, which writes them.
        credit: the estimator.
        group: K.
    """
    rows = sequences.of_prompt(0)
    chances, count = response_logps(sequences, logps)[rows].exp(), len(rows)
    pairs = torch.cartesian_prod(rows, rows)
    beside = credit(pairs.flatten(), torch.arange(count**2).repeat_interleave(2))[::2].reshape(count, count, -1)
    mean, first, square, crossed = torch.zeros_like(logps), 0.0, 0.0, 0.0
    for t in range(sequences.states.shape[1]):
        own, states = sequences.mask[rows, t], sequences.states[rows, t]
        taken = torch.nn.functional.one_hot(sequences.tokens[rows, t], logps.shape[1])
        scores = torch.where(own[:, None], taken - logps[states].exp(), 0.0)
        known, place = torch.unique(states, return_inverse=True)
        wide = scores.new_zeros(count, len(known), logps.shape[1])
        wide[torch.arange(count), place] = scores
        wide = wide.flatten(1)
        advantages = beside[:, :, t]
        seen = ((advantages @ chances)[:, None] * wide + (chances[:, None] * advantages).T @ wide) / 2
        mean[known] += (chances @ seen).reshape(len(known), -1)
        first += float(chances @ seen.square().sum(-1))
        square += float(chances @ ((advantages.square() @ chances) * scores.square().sum(-1)))
        gram = (wide @ wide.T) * chances[:, None] * chances
        crossed += float((gram * advantages * advantages.T).sum())
    centre = float(mean.square().sum())
    one, both = first - centre, (square + crossed) / 2 - centre
    return Moments(mean, max(0.0, 2 / (group * (group - 1)) * (2 * (group - 2) * one + both)) ** 0.5)
