"""Advantages: rewards less a baseline, of responses in their group, of tokens against values, of turns."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.credit.groups import Groups, differ, mean_of_others, places, sums
from tokenq.core.credit.token_rewards import Mask, Numbers, returns_to_go
from tokenq.core.tensors import PrefixValues

_TINY = 1e-8
"""Added to a variance before its root is divided by."""

_SPREAD = 1e-4
"""Added to a group's standard deviation before it is divided by, as in TRL."""


def leave_one_out(rewards: Float[Tensor, " N"], groups: Groups) -> Float[Tensor, " N"]:
    """Return r_i − mean of the others of its group; 0 for the only one of a group."""
    return rewards - mean_of_others(rewards, groups)


def group_relative(rewards: Float[Tensor, " N"], groups: Groups, scaled: bool = True) -> Float[Tensor, " N"]:
    """Return r_i − mean of its group, by the group's standard deviation where scaled; 0 where all rewards are equal.

    The mean holds r_i itself, so that this is (K − 1)/K of `leave_one_out`. The standard deviation is that of a sample
    (K − 1), as in GRPO's implementations.

    Args:
        rewards: of responses.
        groups: the prompt of each.
        scaled: False for Dr. GRPO.
    """
    place, sizes = places(groups)
    centred = rewards - sums(rewards, place, sizes)[place] / sizes[place]
    if not scaled:
        return centred
    spread = (sums(centred.square(), place, sizes) / (sizes - 1).clamp(min=1)).sqrt()[place]
    return torch.where(differ(rewards, place, sizes)[place], centred / (spread + _SPREAD), 0.0)


def gae(
    rewards: Numbers,
    values: PrefixValues,
    gamma: float = 1.0,
    lam: float = 1.0,
    bootstrap: Float[Tensor, " N"] | None = None,
) -> tuple[Numbers, Numbers]:
    """Return (advantages, returns): Σ_i (γλ)^{i−t} δ_i with δ = r + γ V(next) − V, and advantages + V; 1506.02438.

    Args:
        rewards: of tokens.
        values: V before each own token.
        gamma: γ.
        lam: λ; 1 is the return-to-go less V, 0 the error of one step.
        bootstrap: V behind the last own token of each response, for those that were cut; 0 (None) for those that ended.
    """
    held, mask = values.values, values.mask
    following = torch.zeros_like(held)
    ahead = held.new_zeros(len(held)) if bootstrap is None else bootstrap
    for t in range(held.shape[1] - 1, -1, -1):
        following[:, t] = ahead
        ahead = torch.where(mask[:, t], held[:, t], ahead)
    advantages = returns_to_go(rewards + gamma * following - held, mask, gamma * lam)
    return advantages, (advantages + held) * mask


def implicit_baseline(
    returns: Numbers,
    dense: Numbers,
    rewards: Float[Tensor, " N"],
    groups: Groups,
    mask: Mask,
    offset: float | None = None,
) -> Numbers:
    """Return G_t − V*(s_t) − offset, V*(s_t) = V*(x) + Σ_{i<t} dense_i: advantages against a pair's values, no critic.

    For β log π_d/π_ref of a pair that is optimal for the reward at the end, R − Σ dense = V*(x) in every response
    (arXiv 2404.12358, Eq. 9). For any pair the mean of that over the *other* responses knows nothing of this one, and a
    prefix nothing of what follows: the gradient is unbiased whatever the pair is, and a good one takes its noise away.

    V* is of the optimum and G of the policy at hand, which is worth less; taken as it stands, V* adds noise while the
    two are far apart. So the mean of G − V* at the first token is taken off too, over the rest of the batch.

    Args:
        returns: G_t, to go.
        dense: token rewards of the pair.
        rewards: R of responses.
        groups: the prompt of each.
        mask: own tokens.
        offset: E[G − V*(x)] where it is known; None: the mean over all other responses of the batch.
    """
    own = dense * mask
    starts = rewards - own.sum(-1)
    whole = (returns * (mask & (mask.cumsum(-1) == 1))).sum(-1)
    short = mean_of_others(whole - starts, torch.zeros_like(groups)) if offset is None else whole.new_full((), offset)
    baseline = (mean_of_others(starts, groups) + short)[:, None] + own.cumsum(-1) - own
    return (returns - baseline) * mask


def prime_advantages(
    rewards: Float[Tensor, " N"], dense: Numbers, groups: Groups, mask: Mask, weight: float = 1.0
) -> Numbers:
    """Return [R_i − mean_{j≠i} R_j] + weight · Σ_{s≥t} [dense_s − mean_{j≠i} (mean of dense over y_j)]: PRIME.

    Eq. 5 of arXiv 2502.01456. Its baseline of token rewards is a number a token, so that what it takes off a response
    grows with the response's length.

    Args:
        rewards: R of responses.
        dense: token rewards of the implicit process reward model.
        groups: the prompt of each response.
        mask: own tokens.
        weight: of the token rewards.
    """
    means = (dense * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    process = returns_to_go(dense - mean_of_others(means, groups)[:, None], mask)
    return (leave_one_out(rewards, groups)[:, None] + weight * process) * mask


def whiten(advantages: Numbers, mask: Mask) -> Numbers:
    """Return the advantages with mean 0 and variance 1 over all own tokens; 0 where all are equal."""
    own = advantages[mask]
    if not len(own):
        return torch.zeros_like(advantages)
    centred = own - own.mean()
    spread = (centred.square().mean() + _TINY).sqrt()
    return torch.zeros_like(advantages).masked_scatter(mask, centred / spread)
