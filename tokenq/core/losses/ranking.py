"""Losses of several responses at once: a prompt's ranking, or its responses with weights; AOT over a batch's pairs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.losses.anchored import both_log_ratios
from tokenq.core.losses.pairs import log_ratios
from tokenq.core.losses.policy_gradient import Numbers, response_advantages, sequence_ratios
from tokenq.core.steerlm import distance
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


WEIGHED = ("old_logps", "target_weights", "candidates")
"""What weighted responses have beside their log-probs."""


def candidate_ratios(policy: TokenLogps, old_logps: Numbers, candidates: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Return log π/π_old of the responses to each prompt; −∞ behind the last, so that nothing weighs nothing.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        candidates: [B, K] indices of the responses to a prompt, −1 behind the last.
    """
    ratios = sequence_ratios(policy, old_logps)[:, 0][candidates.clamp(min=0)]
    return ratios.masked_fill(candidates < 0, -torch.inf)


def steerlm(
    policy: TokenLogps, old_logps: Numbers, target_weights: Numbers, candidates: Int[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Return Σ_i w_i log(w_i/b_i) of the responses to a prompt, b ∝ π/π_old: SteerLM 2.0, arXiv 2406.08673.

    The gradient is −Σ_i (w_i − b_i) ∇log π(y_i|x): that of KL(P‖π) with sums over all responses replaced by weighted
    ones over those that π_old wrote. Where they sum to 1, the w_i may come from any wanted distribution P, as
    P(y_i|x)/π_old(y_i|x).

    Args:
        policy: [N, T] log-probs under π of all responses.
        old_logps: [N, T] log-probs under the policy that wrote them.
        target_weights: [N, T] w of each response, at every token of it.
        candidates: [B, K] indices of the responses to a prompt, −1 behind the last.
    """
    weights = response_advantages(policy, target_weights)[:, 0][candidates.clamp(min=0)]
    return distance(candidate_ratios(policy, old_logps, candidates), weights.masked_fill(candidates < 0, 0.0))


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
