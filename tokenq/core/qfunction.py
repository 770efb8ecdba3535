"""The reading of a language model as a Q-function: implicit rewards, prefix values, and the identities they obey.

For a policy π that is soft-optimal for a reward r under a reference π_ref and temperature β (Eq. 10 of arXiv
2404.12358): β log π(a|s)/π_ref(a|s) = r(s, a) + V*(s') − V*(s).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import TokenLogps


def implicit_rewards(policy: TokenLogps, reference: TokenLogps, beta: float) -> Float[Tensor, "N T"]:
    """Return β (log π − log π_ref) of every token taken, zero where the mask is False.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        beta: KL temperature.
    """
    return beta * (policy.logps - reference.logps) * policy.mask


def sequence_rewards(policy: TokenLogps, reference: TokenLogps, beta: float) -> Float[Tensor, " N"]:
    """Return Σ_t β log π/π_ref = Σ_t r − V*(s_1) for each response (telescoping, Eq. 10 of arXiv 2404.12358)."""
    return implicit_rewards(policy, reference, beta).sum(-1)


def prefix_values(rewards: Float[Tensor, "N T"]) -> Float[Tensor, "N T+1"]:
    """Return the running sum q_t = Σ_{k≤t} of implicit rewards, starting at 0.

    With terminal-only reward this is V*(s_{t+1}) − V*(s_1), a value curve (arXiv 2412.01981).

    Args:
        rewards: [N, T] implicit rewards.
    """
    return torch.nn.functional.pad(rewards.cumsum(-1), (1, 0))


def logit_q_values(logits: Float[Tensor, "*B V"], beta: float) -> Float[Tensor, "*B V"]:
    """Return Q(s, a) = β z(s, a): the logits read as a Q-function (Section 4.1 of arXiv 2404.12358).

    Gauge-dependent: z + c(s) is the same policy, and another Q.

    Args:
        logits: [..., V] z of every token, in the policy's own softmax.
        beta: KL temperature.
    """
    return beta * logits


def logit_values(logits: Float[Tensor, "*B V"], beta: float) -> Float[Tensor, "*B"]:
    """Return V(s) = β log Σ_a exp z(s, a), the value that belongs to `logit_q_values`; gauge-dependent as that is.

    Args:
        logits: [..., V] z of every token.
        beta: KL temperature.
    """
    return beta * torch.logsumexp(logits, -1)


def advantages(logits: Float[Tensor, "*B V"], beta: float) -> Float[Tensor, "*B V"]:
    """Return A(s, a) = Q − V = β log π(a|s) of every token: free of the gauge.

    Not the implicit reward, which is β log π/π_ref: Q holds the reference's part (Eq. 7 of arXiv 2404.12358).

    Args:
        logits: [..., V] z of every token, or log-probs.
        beta: KL temperature.
    """
    return beta * torch.log_softmax(logits, -1)
