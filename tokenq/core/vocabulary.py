"""Numbers that a loss reads off the whole vocabulary at every position: KL(π_ref‖π) with its gradient, and log Σ π².

Positions are taken in rows of bounded size. What the gradient needs is computed twice instead of kept, so that memory
stays that of one row of logits; the price is the time of the product with the vocabulary, once more each way.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokenq.core.logits import Logits
from tokenq.errors import UserError

ROW_BYTES = 2**26
"""Maximum number of bytes of one row of logits of one model."""


def reference_kls(policy: Logits, reference: Logits | None) -> Float[Tensor, " N"]:
    """Return KL(π_ref(·|s)‖π(·|s)) at every position, with a gradient for π.

    Args:
        policy: logits of π.
        reference: logits of π_ref over the same vocabulary.

    Raises:
        UserError: there is no reference, or its vocabulary is another.
    """
    if reference is None or reference.shape != policy.shape:
        raise UserError(
            "The divergence from the reference needs its logits over the same vocabulary.",
            "Take a reference with as many tokens as the policy.",
        )

    def divergence(rows: slice) -> Tensor:
        own = policy.row(rows).log_softmax(0)
        with torch.no_grad():
            other = reference.row(rows).log_softmax(0)
        # What the reference never says costs nothing, whatever the policy says of it, and has no gradient.
        never = other.isneginf()
        return (other.exp() * (other.masked_fill(never, 0.0) - own.masked_fill(never, 0.0))).sum(0)

    return _by_rows(policy, divergence)


def overlaps(policy: Logits) -> Float[Tensor, " N"]:
    """Return log Σ_v π(v|s)² at every position, without gradient: what π expects of the likelihood of its own token."""

    def overlap(rows: slice) -> Tensor:
        return (2 * policy.row(rows).log_softmax(0)).logsumexp(0)

    with torch.no_grad():
        return _by_rows(policy, overlap)


def _by_rows(policy: Logits, function: Callable[[slice], Tensor]) -> Tensor:
    n, vocabulary = policy.shape
    size = max(1, ROW_BYTES // (8 * vocabulary))
    rows = [slice(start, min(start + size, n)) for start in range(0, n, size)] or [slice(0, 0)]
    if not torch.is_grad_enabled():
        return torch.cat([function(part) for part in rows])
    return torch.cat([checkpoint(function, part, use_reentrant=False) for part in rows])
