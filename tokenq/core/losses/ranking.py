"""Losses of several responses at once: Plackett-Luce over a prompt's ranking, AOT over the pairs of a batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.losses.anchored import both_log_ratios
from tokenq.core.losses.pairs import log_ratios
from tokenq.core.tensors import PairLogps, TokenLogps


def plackett_luce(
    policy: TokenLogps, reference: TokenLogps, rankings: Int[Tensor, "B K"], *, beta: float = 0.1
) -> Float[Tensor, " B"]:
    """Return −Σ_k [r_k − log Σ_{j≥k} exp r_j] with r = β d, best first: DPO for rankings, App. A.3 of arXiv 2305.18290.

    With two responses it is DPO.

    Args:
        policy: [N, T] log-probs under π of all responses.
        reference: [N, T] log-probs under π_ref.
        rankings: [B, K] indices of the responses to a prompt, best first, −1 behind the last.
        beta: KL temperature.
    """
    present = rankings >= 0
    rewards = (beta * log_ratios(policy, reference))[rankings.clamp(min=0)]
    least = torch.finfo(rewards.dtype).min
    rest = rewards.masked_fill(~present, least).flip(-1).logcumsumexp(-1).flip(-1)
    return (rest - rewards).masked_fill(~present, 0.0).sum(-1)


def aot(policy: PairLogps, reference: PairLogps, *, beta: float = 0.01) -> Float[Tensor, " B"]:
    """Return −log σ(β (m₍ᵢ₎ − m_ref₍ᵢ₎)) of margins sorted over the batch: AOT on pairs, arXiv 2406.05882.

    m = log π(y_w) − log π(y_l). The policy's margins are asked to be larger in distribution (first-order stochastic
    dominance) and not pair by pair: each is compared with the reference's of the same rank. Depends on the batch.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    own, other = (two.chosen.sums() - two.rejected.sums() for two in (policy, reference))
    return -F.logsigmoid(beta * (own - _of_same_rank(other, own)))


def aot_unpaired(policy: PairLogps, reference: PairLogps, *, beta: float = 0.01) -> Float[Tensor, " B"]:
    """Return −log σ(β (d_w₍ᵢ₎ − d_l₍ᵢ₎)) of log-ratios sorted over the batch: AOT without pairs, arXiv 2406.05882.

    Chosen and rejected responses are sorted apart, so it does not matter which belonged together.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = both_log_ratios(policy, reference)
    return -F.logsigmoid(beta * (chosen - _of_same_rank(rejected, chosen)))


def _of_same_rank(values: Tensor, among: Tensor) -> Tensor:
    """Return, for each entry of `among`, the entry of `values` that has its rank."""
    return values.sort().values[among.argsort().argsort()]
