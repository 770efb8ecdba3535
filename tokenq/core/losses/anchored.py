"""Losses of pairs that see both log-ratios and not only their difference: they say where the log-probs go.

Notation: d_w and d_l are the summed log-ratios log π/π_ref of the chosen and the rejected response, r = β d.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.losses.pairs import log_ratios
from tokenq.core.tensors import PairLogps


def both_log_ratios(policy: PairLogps, reference: PairLogps) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return (d_w, d_l) of each pair."""
    return log_ratios(policy.chosen, reference.chosen), log_ratios(policy.rejected, reference.rejected)


def dpop(policy: PairLogps, reference: PairLogps, *, beta: float = 0.3, penalty: float = 50.0) -> Float[Tensor, " B"]:
    """Return −log σ(β (h − λ max(0, −d_w))): DPO-positive of Smaug, arXiv 2402.13228.

    A chosen response that is less likely than under the reference costs λ of its own loss, which DPO allows wherever
    the rejected one falls faster (pairs that differ in a few tokens).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        penalty: λ.
    """
    chosen, rejected = both_log_ratios(policy, reference)
    return -F.logsigmoid(beta * (chosen - rejected - penalty * torch.relu(-chosen)))


def cal_dpo(policy: PairLogps, reference: PairLogps, *, beta: float = 1e-3) -> Float[Tensor, " B"]:
    """Return −log σ(h) + (d_w − 1/(2β))² + (d_l + 1/(2β))²: Cal-DPO, arXiv 2412.14516.

    It pins the scale of both implicit rewards, β d_w to 1/2 and β d_l to −1/2, instead of their difference alone. The
    β stands in the targets only: the squares are `sppo`, the rest is `dpo` at β = 1. A pair that comes in this order p
    of the time has β d_w ≈ p − ½ at the optimum for small β. (Targets and signs as in the authors' code, which halves
    the squares.)

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = both_log_ratios(policy, reference)
    calibration = (chosen - 1 / (2 * beta)).square() + (rejected + 1 / (2 * beta)).square()
    return -F.logsigmoid(chosen - rejected) + calibration


def nca(policy: PairLogps, reference: PairLogps, *, beta: float = 0.01) -> Float[Tensor, " B"]:
    """Return −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l): noise-contrastive alignment of pairs, arXiv 2402.05369.

    A pair that comes in this order p of the time has exp(r) = 2p and 2(1 − p) at the optimum: the absolute rewards are
    fixed, and their difference is the one that Bradley-Terry asks for.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = (beta * ratio for ratio in both_log_ratios(policy, reference))
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def sppo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.001) -> Float[Tensor, " B"]:
    """Return (d_w − 1/(2β))² + (d_l + 1/(2β))²: SPPO with hard labels, Eq. 4.7 of arXiv 2405.00675, η = 1/β.

    The probability that the chosen response wins is taken to be 1. A pair that comes in this order p of the time has
    d_w = (p − ½)/β at the optimum: one step of multiplicative weights.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref: the policy of the iteration before.
        beta: 1/η.
    """
    chosen, rejected = both_log_ratios(policy, reference)
    return (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()


def apo_zero(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return 1 − σ(r_w) + σ(r_l): APO-zero, Eq. 7 of arXiv 2408.06266.

    For chosen responses that are better than what the model writes: raises them, lowers the rejected ones.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = (beta * ratio for ratio in both_log_ratios(policy, reference))
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


def apo_down(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return σ(r_w) + 1 − σ(r_w − r_l): APO-down, Eq. 8 of arXiv 2408.06266.

    For chosen responses that are worse than what the model writes: lowers both, the rejected one more. Where policy and
    reference are equal the chosen log-probs have no slope at all.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = (beta * ratio for ratio in both_log_ratios(policy, reference))
    return torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen)


def bco_pair(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log σ(r_w) − log σ(−r_l): the binary classifier of BCO on pairs, without its reward shift.

    After arXiv 2404.04656, in the form of TRL's code, with δ = 0 (TRL's documentation prints DPO's formula for it). A
    pair that comes in this order p of the time has r_w = logit p and r_l = −logit p at the optimum: twice the margin
    of Bradley-Terry. `bco` has the shift.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    chosen, rejected = (beta * ratio for ratio in both_log_ratios(policy, reference))
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)
