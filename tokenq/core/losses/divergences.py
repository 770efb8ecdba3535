"""f-DPO: the KL penalty of DPO replaced by another f-divergence, arXiv 2309.16240.

The optimum of E[r] − β D_f(π‖π_ref) has r = β f'(π/π_ref) + const wherever f' is infinite at 0, so that the loss is
−log σ(β f'(u_w) − β f'(u_l)) with u = π(y)/π_ref(y), ratios of whole responses. Token by token the sum of log-ratios
no longer is the reward: f' is taken of the whole, so the reading of tokens as a Q-function holds for log u alone.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.losses.anchored import both_log_ratios
from tokenq.core.tensors import PairLogps


def fdpo_forward_kl(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return f-DPO's loss with KL(π_ref‖π): f(u) = −log u, f'(u) = −1/u.

    It keeps every response of the reference alive. 1/u overflows where the policy has all but given a response up.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: temperature of the divergence.
    """
    chosen, rejected = both_log_ratios(policy, reference)
    return -F.logsigmoid(beta * (_power(rejected, -1.0) - _power(chosen, -1.0)))


def fdpo_js(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return f-DPO's loss with the Jensen-Shannon divergence: f'(u) = log(2u/(1 + u)), at most log 2.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: temperature of the divergence.
    """
    chosen, rejected = (math.log(2) + F.logsigmoid(ratio) for ratio in both_log_ratios(policy, reference))
    return -F.logsigmoid(beta * (chosen - rejected))


def fdpo_alpha(
    policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, alpha: float = 0.5
) -> Float[Tensor, " B"]:
    """Return f-DPO's loss with the α-divergence: f'(u) = (1 − u^−α)/α.

    Towards α = 0 it is DPO, towards α = 1 `fdpo_forward_kl`. TRL's coefficient is 1 − α.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: temperature of the divergence.
        alpha: α, in (0, 1).
    """
    chosen, rejected = both_log_ratios(policy, reference)
    return -F.logsigmoid(beta * (_power(rejected, -alpha) - _power(chosen, -alpha)) / alpha)


def _power(ratio: Tensor, exponent: float) -> Tensor:
    """Return u^exponent of log u, capped where it would overflow."""
    return torch.exp((exponent * ratio).clamp(max=80.0))
