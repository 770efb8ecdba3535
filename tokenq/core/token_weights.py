"""Weights of tokens in losses of pairs: numbers of the data, or what the policy of the moment says of them.

A weight is a factor of the token's log-probs under both models, so that a loss of log-ratios sees Σ_t w_t log π/π_ref.
A token of weight 0 is not there for the loss: it is no part of a length, and a mean is one over the others.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import TokenLogps

COLUMN = "token_weights"
"""The token column of weights that the data give."""


def least_confident(policy: TokenLogps) -> Float[Tensor, "S C"]:
    """Return 1 for tokens whose probability is at most the mean of their response, 0 for others: ConfPO, 2506.08712.

    Args:
        policy: [S, C] log π.
    """
    chances = policy.logps.exp() * policy.mask
    means = chances.sum(-1, keepdim=True) / policy.lengths().clamp(min=1)[:, None]
    return ((chances <= means) & policy.mask).to(policy.logps)


LIVE: dict[str, Callable[[TokenLogps], Tensor]] = {"confidence": least_confident}
"""Weights that are found anew in every step, by the name that `readout:NAME` has for them."""


def live_weights(name: str, policy: TokenLogps, responses: Tensor, places: Tensor) -> Float[Tensor, " N"]:
    """Return the weight of each action, without gradient.

    Args:
        name: a key of `LIVE`.
        policy: [S, C] log π of all responses.
        responses: [N] the response of each action.
        places: [N] its place there.
    """
    with torch.no_grad():
        return LIVE[name](policy)[responses, places]
