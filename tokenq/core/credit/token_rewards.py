"""Rewards of tokens: of an outcome, of KL, dense ones in two forms, by step; and what follows from a token on."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Numbers = Float[Tensor, "N T"]
Mask = Bool[Tensor, "N T"]


def outcome_rewards(rewards: Float[Tensor, " N"], mask: Mask) -> Numbers:
    """Return token rewards with the reward of each response at its last own token."""
    behind = mask.flip(-1).cumsum(-1).flip(-1)
    return torch.where(mask & (behind == 1), rewards[:, None], 0.0)


def _k1(ratios: Tensor) -> Tensor:
    return ratios


def _k2(ratios: Tensor) -> Tensor:
    return ratios.square() / 2


def _k3(ratios: Tensor) -> Tensor:
    return torch.expm1(-ratios) + ratios


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}
"""Estimates of KL(π‖π_ref) from d = log π/π_ref of a token that π wrote: d, d²/2 and e^−d − 1 + d.

http://joschu.net/blog/kl-approx.html. k1 and k3 have the expectation KL, k2 has not. As losses, differentiated as they
stand, k2 alone has the gradient of the KL in expectation: k1 has 0, and k3 that of KL(π_ref‖π).
"""


def kl_estimates(logps: Numbers, ref_logps: Numbers, estimator: str) -> Numbers:
    """Return an estimate of KL(π‖π_ref) for every token that π wrote.

    Args:
        logps: log π.
        ref_logps: log π_ref.
        estimator: a key of `KL_ESTIMATORS`.
    """
    return KL_ESTIMATORS[estimator](logps - ref_logps)


def returns_to_go(rewards: Numbers, mask: Mask, gamma: float = 1.0) -> Numbers:
    """Return Σ_{i≥t} γ^{i−t} r_i over own tokens.

    Args:
        rewards: of tokens.
        mask: own tokens; rewards elsewhere count nothing.
        gamma: γ, the discount of one own token.
    """
    found, ahead = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        ahead = torch.where(mask[:, t], rewards[:, t] + gamma * ahead, ahead)
        found[:, t] = ahead
    return found * mask


def scaled(outcome: Numbers, dense: Numbers, weight: float) -> Numbers:
    """Return outcome + weight · dense.

    With dense = β_d log π_d/π_ref of a pair that is optimal for R, Σ dense = R − V*(x): the sum of a response's rewards
    is (1 + weight) R up to a number of the prompt. So this is no shaping; the optimum moves as if the KL were cheaper.
    """
    return outcome + weight * dense


def potential(outcome: Numbers, dense: Numbers, mask: Mask, weight: float) -> Numbers:
    """Return outcome + Φ(s_{t+1}) − Φ(s_t), Φ(s_t) = weight · Σ_{i<t} dense_i and 0 at the end; Ng et al. 1999.

    The dense rewards of a response are taken back at its last own token, so that every response has the sum of its
    outcome rewards, whatever `dense` is, and the optimum stays.
    """
    own = weight * dense * mask
    return outcome + own - outcome_rewards(own.sum(-1), mask)
