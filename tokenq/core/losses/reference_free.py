"""Losses of pairs without a reference: SimPO, ORPO and CPO.

They need one model less, and what they learn is no implicit reward: nothing says how likely a token was before. β log π
of a token is then a log-prob, high for what any model would write, and neither an advantage nor shaped by a value.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import PairLogps, TokenLogps


def mean_logps(policy: TokenLogps) -> Float[Tensor, " N"]:
    """Return log π(y)/|y| of each response: the mean over its own tokens."""
    return policy.sums() / policy.lengths().clamp(min=1)


def simpo(policy: PairLogps, *, beta: float = 2.0, gamma: float = 1.0) -> Float[Tensor, " B"]:
    """Return −log σ(β (log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ): SimPO, Eq. 6 of arXiv 2405.14734.

    Args:
        policy: [B, T] log-probs under π.
        beta: scale of the mean log-prob; 2 to 10, not DPO's 0.1.
        gamma: margin, in units of the reward. The authors' code takes γ/β instead.
    """
    return -F.logsigmoid(beta * (mean_logps(policy.chosen) - mean_logps(policy.rejected)) - gamma)


def orpo(policy: PairLogps, *, odds_weight: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log π(y_w)/|y_w| − λ log σ(log odds(y_w) − log odds(y_l)): ORPO, Eq. 6 of arXiv 2403.07691.

    odds = p/(1 − p) with p = π(y)^(1/|y|). The likelihood of the chosen response is meant, without its prompt.

    Args:
        policy: [B, T] log-probs under π.
        odds_weight: λ; TRL calls it beta.
    """
    chosen, rejected = mean_logps(policy.chosen), mean_logps(policy.rejected)
    return -chosen - odds_weight * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def cpo(policy: PairLogps, *, beta: float = 0.1, sft_weight: float = 1.0) -> Float[Tensor, " B"]:
    """Return −log σ(β (log π(y_w) − log π(y_l))) − w log π(y_w)/|y_w|: CPO, arXiv 2401.08417.

    The reference of DPO taken to be uniform. The second term keeps the chosen response likely, averaged over its
    tokens.

    Args:
        policy: [B, T] log-probs under π.
        beta: scale of the summed log-probs.
        sft_weight: w.
    """
    preference = -F.logsigmoid(beta * (policy.chosen.sums() - policy.rejected.sums()))
    return preference - sft_weight * mean_logps(policy.chosen)


def _log_odds(logp: Tensor) -> Tensor:
    """Return log p − log(1 − p) of log p, finite also where p rounds to 1."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).tiny)
    small = torch.log(-torch.expm1(logp))  # near 0, where 1 − p would cancel
    large = torch.log1p(-torch.exp(logp.clamp(max=-0.5)))
    return logp - torch.where(logp > -0.5, small, large)
