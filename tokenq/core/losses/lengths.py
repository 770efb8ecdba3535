"""Losses of pairs that take lengths into account: R-DPO pays for them, LD-DPO discounts the longer tail."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.losses.pairs import margins
from tokenq.core.tensors import PairLogps, TokenLogps


def r_dpo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, alpha: float = 0.01) -> Float[Tensor, " B"]:
    """Return −log σ(β h + α (|y_w| − |y_l|)): length-regularised DPO, arXiv 2403.19159.

    The optimum of reward r − α |y| has r = β d + α |y| + const, hence the plus: a chosen response that is longer by
    itself explains a part of the preference, and h needs to explain the rest. On exact preferences for r it finds the
    optimum of r − α |y|.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        alpha: price of a token, in nats of reward.
    """
    longer = policy.chosen.lengths() - policy.rejected.lengths()
    return -F.logsigmoid(beta * margins(policy, reference) + alpha * longer)


def ld_dpo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, alpha: float = 0.5) -> Float[Tensor, " B"]:
    """Return DPO's loss with the tokens behind the shorter response's length weighted by α: LD-DPO, arXiv 2409.06411.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        alpha: weight of the tail, in [0, 1]; 1 is DPO.
    """
    shared = policy.chosen.lengths().minimum(policy.rejected.lengths())[:, None]

    def discounted(side: TokenLogps) -> TokenLogps:
        tail = side.mask & (side.mask.cumsum(-1) > shared)
        return TokenLogps(side.logps.where(~tail, alpha * side.logps), side.mask)

    own, other = (PairLogps(discounted(two.chosen), discounted(two.rejected)) for two in (policy, reference))
    return -F.logsigmoid(beta * margins(own, other))
