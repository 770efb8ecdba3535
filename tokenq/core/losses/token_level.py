"""Losses of pairs that look at single tokens, turns or steps, or at the vocabulary.

TDPO, Step-DPO, DMPO, D3PO, WPO.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tokenq.core.losses.pairs import margins
from tokenq.core.tensors import PairLogps, PairValues, TokenLogps


def tdpo1(policy: PairLogps, reference: PairLogps, ref_kls: PairValues, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log σ(β h − β (K_l − K_w)): TDPO1, Eq. 13 of arXiv 2404.11999.

    K = Σ_t KL(π_ref(·|s_t)‖π(·|s_t)) along a response. Both have a gradient.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        ref_kls: [B, T] KL(π_ref‖π) at every position.
        beta: KL temperature.
    """
    chosen, rejected = _sums(ref_kls, policy)
    return -F.logsigmoid(beta * (margins(policy, reference) - (rejected - chosen)))


def tdpo2(
    policy: PairLogps, reference: PairLogps, ref_kls: PairValues, *, beta: float = 0.1, alpha: float = 0.5
) -> Float[Tensor, " B"]:
    """Return −log σ(β h − α β (K_l − sg K_w)): TDPO2, Eq. 15 of arXiv 2404.11999.

    As `tdpo1`, with the divergence weighted and no gradient (sg) through that of the chosen response.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        ref_kls: [B, T] KL(π_ref‖π) at every position.
        beta: KL temperature.
        alpha: weight of the divergence.
    """
    chosen, rejected = _sums(ref_kls, policy)
    return -F.logsigmoid(beta * (margins(policy, reference) - alpha * (rejected - chosen.detach())))


def step_dpo(policy: PairLogps, reference: PairLogps, steps: PairValues, *, beta: float = 0.5) -> Float[Tensor, " B"]:
    """Return DPO's loss on one step of each response: Step-DPO, arXiv 2406.18629.

    The step is the first in which the two differ; before it both are in the same states, and what follows it is left
    out. So preferences compare two continuations of one prefix, as the token MDP asks.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        steps: [B, T] 1 for the tokens of that step, 0 for others.
        beta: KL temperature.
    """
    return -F.logsigmoid(beta * margins(*(_weighted(two, steps.chosen, steps.rejected) for two in (policy, reference))))


def turn_weights(mask: Bool[Tensor, "B T"], gamma: float) -> Float[Tensor, "B T"]:
    """Return γ^j (1 − γ^(n−j)) / (1 − γ^n) at the tokens of turn j = 0, 1, … of n, 0 where the policy wrote nothing.

    A turn is a run of the policy's own tokens: what others said stands between two of them.

    Args:
        mask: own tokens.
        gamma: γ.
    """
    first = mask.clone()
    first[:, 1:] &= ~mask[:, :-1]
    turn, count = first.cumsum(-1) - 1, first.sum(-1, keepdim=True)
    discount = torch.tensor(gamma, dtype=torch.float64, device=mask.device)
    weights = (discount**turn - discount**count) / (1 - discount**count)
    return torch.where(mask, weights, 0.0)


def dmpo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, gamma: float = 0.7) -> Float[Tensor, " B"]:
    """Return −log σ(β Σ_j φ_j ρ_j(y_w) − β Σ_j φ_j ρ_j(y_l)): DMPO, arXiv 2406.14868.

    ρ_j is the log-ratio of turn j, φ = `turn_weights` by each side's own number of turns: early turns count most. A
    sum weighted so is no difference of rewards, so that even exact preferences do not lead to π*; of one turn it is
    DPO.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        gamma: γ, what a turn weighs less than the one before it.
    """
    sides = (turn_weights(side.mask, gamma).to(side.logps) for side in (policy.chosen, policy.rejected))
    up, down = sides
    return -F.logsigmoid(beta * margins(*(_weighted(two, up, down) for two in (policy, reference))))


def d3po(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, clip: float = math.inf) -> Float[Tensor, " B"]:
    """Return mean_t −log σ(β [ρ_t(y_w) − ρ_t(y_l)]): D3PO, arXiv 2311.13231, for the denoising steps of pictures.

    ρ_t = log π/π_ref of step t. It is a comparison for each step, as if every step of the chosen one were preferred to
    the same step of the other. The likelihood of a preference between trajectories is one comparison of sums, which is
    `dpo`. Steps that only one side has are left out. The authors average log-densities over pixels, which makes their β
    that of a mean; here they are sums, in nats.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature of a step.
        clip: ε of the limits 1 ± ε of each ratio π/π_ref, beyond which it has no gradient; infinite for none. (The
            authors' code has 0.1.)
    """
    own, other = policy.chosen, policy.rejected
    size = min(own.logps.shape[1], other.logps.shape[1])
    up, down = (two.logps[:, :size] - ref.logps[:, :size] for two, ref in _sides(policy, reference))
    if clip < 1:
        up, down = (ratios.clamp(math.log1p(-clip), math.log1p(clip)) for ratios in (up, down))
    both = own.mask[:, :size] & other.mask[:, :size]
    values = -F.logsigmoid(beta * (up - down)) * both
    return values.sum(1) / both.sum(1).clamp(min=1)


def _sides(policy: PairLogps, reference: PairLogps) -> tuple[tuple[TokenLogps, TokenLogps], ...]:
    return (policy.chosen, reference.chosen), (policy.rejected, reference.rejected)


def wpo(policy: PairLogps, reference: PairLogps, overlaps: PairValues, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −w(y_w) w(y_l) log σ(β h): WPO, Eq. 2 of arXiv 2406.11827.

    w(y) = exp(mean_t [log π(y_t|s_t) − log Σ_v π(v|s_t)²]): how likely the policy is to write the pair, relative to
    what it expects of its own samples ("sampled alignment"). No gradient flows through weights. They have no upper
    limit, as in TRL; the authors' code cuts the product at 1.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        overlaps: [B, T] log Σ_v π(v|s)² at every position.
        beta: KL temperature.
    """

    def weight(side: TokenLogps, overlap: Tensor) -> Tensor:
        mean = ((side.logps - overlap) * side.mask).sum(-1) / side.lengths().clamp(min=1)
        return mean.detach().exp()

    weights = weight(policy.chosen, overlaps.chosen) * weight(policy.rejected, overlaps.rejected)
    return -weights * F.logsigmoid(beta * margins(policy, reference))


def _sums(values: PairValues, policy: PairLogps) -> tuple[Tensor, Tensor]:
    """Return the values summed over the policy's own tokens of chosen and rejected responses."""
    return (values.chosen * policy.chosen.mask).sum(-1), (values.rejected * policy.rejected.mask).sum(-1)


def _weighted(pairs: PairLogps, chosen: Tensor, rejected: Tensor) -> PairLogps:
    return PairLogps(
        TokenLogps(pairs.chosen.logps * chosen, pairs.chosen.mask),
        TokenLogps(pairs.rejected.logps * rejected, pairs.rejected.mask),
    )
