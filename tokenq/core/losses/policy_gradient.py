"""Losses of responses that the policy wrote, with an advantage for each token: policy gradients.

ρ_t = π(y_t|s_t)/π_old(y_t|s_t), A_t the advantage, which `tokenq/core/credit` makes; π_old wrote the response. Where
π = π_old the gradients are −Σ A ∇log π up to an average: over the tokens of a step (`ppo`, `dapo`, `cispo`: unit
"actions"), over each response and then over responses (`grpo`, `gspo`), or over responses alone (`reinforce`, `rloo`,
`dr_grpo`). Only the last is the gradient of the expected return: an average over tokens divides by a length that the
policy chooses.

KL terms and the loss of a value network are losses of their own, for sums such as `grpo+0.04*kl_k3`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.credit import kl_estimates
from tokenq.core.tensors import PrefixValues, TokenLogps

Numbers = Float[Tensor, "N T"]
Values = Float[Tensor, " N"]


def token_ratios(policy: TokenLogps, old_logps: Numbers) -> Numbers:
    """Return log π/π_old of every own token, 0 elsewhere."""
    return (policy.logps - old_logps) * policy.mask


def sequence_ratios(policy: TokenLogps, old_logps: Numbers) -> Float[Tensor, "N 1"]:
    """Return log π/π_old of every response."""
    return token_ratios(policy, old_logps).sum(-1, keepdim=True)


def mean_ratios(policy: TokenLogps, old_logps: Numbers) -> Numbers:
    """Return the mean log π/π_old of each response at all of its tokens, each with the gradient of its own.

    The value is that of the response, the gradient of token t that of log π(y_t|s_t): GSPO-token of arXiv 2507.18071,
    which is GSPO where all tokens have one advantage.
    """
    own = token_ratios(policy, old_logps)
    mean = own.sum(-1, keepdim=True) / policy.lengths().clamp(min=1)[:, None]
    return mean.detach() + own - own.detach()


def response_advantages(policy: TokenLogps, advantages: Numbers) -> Float[Tensor, "N 1"]:
    """Return the mean advantage of each response's tokens."""
    return _mean(advantages, policy)[:, None]


def _clipped(ratios: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Return −min(ρ A, clip(ρ, 1 − low, 1 + high) A)."""
    ratio = ratios.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def _sum(losses: Tensor, policy: TokenLogps) -> Tensor:
    return (losses * policy.mask).sum(-1)


def _mean(losses: Tensor, policy: TokenLogps) -> Tensor:
    return _sum(losses, policy) / policy.lengths().clamp(min=1)


def reinforce(policy: TokenLogps, advantages: Numbers) -> Values:
    """Return −Σ_t A_t log π(y_t|s_t): the policy gradient as it stands, for one update a rollout (Williams 1992).

    Args:
        policy: [N, T] log-probs under π.
        advantages: [N, T] A.
    """
    return -_sum(advantages * policy.logps, policy)


def ppo(
    policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Values:
    """Return −Σ_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t): PPO, Eq. 7 of arXiv 1707.06347.

    The training loop divides by the number of tokens in the step.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    return _sum(_clipped(token_ratios(policy, old_logps), advantages, clip_low, clip_high), policy)


def rloo(
    policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Values:
    """Return −min(ρ A, clip(ρ) A) with ρ = π(y|x)/π_old(y|x) of the whole response: RLOO, arXiv 2402.14740, TRL.

    A response is one action, so that its tokens' advantages count as their mean.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    whole = response_advantages(policy, advantages)
    return _clipped(sequence_ratios(policy, old_logps), whole, clip_low, clip_high).squeeze(-1)


def grpo(
    policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Values:
    """Return PPO's loss averaged over each response: GRPO, Eq. 3 of arXiv 2402.03300 without its KL (`+0.04*kl_k3`).

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    return _mean(_clipped(token_ratios(policy, old_logps), advantages, clip_low, clip_high), policy)


def dr_grpo(
    policy: TokenLogps,
    old_logps: Numbers,
    advantages: Numbers,
    *,
    length: float = 1024.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Values:
    """Return PPO's loss summed over each response and divided by one length for all: Dr. GRPO, arXiv 2503.20783.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A, not scaled by a standard deviation in the paper.
        length: what every response is divided by: the most tokens that one may have.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    return ppo(policy, old_logps, advantages, clip_low=clip_low, clip_high=clip_high) / length


def dapo(
    policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, clip_low: float = 0.2, clip_high: float = 0.28
) -> Values:
    """Return PPO's loss with more room above 1 than below, averaged over tokens: DAPO, Eq. 8 of arXiv 2503.14476.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    return ppo(policy, old_logps, advantages, clip_low=clip_low, clip_high=clip_high)


def gspo(
    policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Values:
    """Return −min(s A, clip(s) A) with s = (π(y|x)/π_old(y|x))^(1/|y|): GSPO, Eq. 5 of arXiv 2507.18071.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A; where a response's tokens differ in it, this is the paper's GSPO-token.
        clip_low: ε below 1.
        clip_high: ε above 1.
    """
    return _mean(_clipped(mean_ratios(policy, old_logps), advantages, clip_low, clip_high), policy)


def cispo(policy: TokenLogps, old_logps: Numbers, advantages: Numbers, *, cap: float = 5.0) -> Values:
    """Return −Σ_t min(ρ_t, cap) A_t log π(y_t|s_t), no gradient through the weight: CISPO, Eq. 4 of arXiv 2506.13585.

    No token's gradient is cut off, its weight is.

    Args:
        policy: [N, T] log-probs under π.
        old_logps: [N, T] log-probs under the policy that wrote the responses.
        advantages: [N, T] A.
        cap: largest weight.
    """
    weights = token_ratios(policy, old_logps).detach().exp().clamp(max=cap)
    return -_sum(weights * advantages * policy.logps, policy)


def value(policy: TokenLogps, values: PrefixValues, returns: Numbers) -> Values:
    """Return Σ_t ½ (V(s_t) − G_t)², for the value network beside the policy.

    Args:
        policy: [N, T] log-probs under π, which have no gradient here.
        values: [N, T] V before each token.
        returns: [N, T] G.
    """
    return ((values.values - returns).square() * values.mask).sum(-1) / 2


def clipped_value(
    policy: TokenLogps, values: PrefixValues, returns: Numbers, old_values: Numbers, *, clip: float = 0.2
) -> Values:
    """Return Σ_t ½ max((V − G)², (V_old + clip(V − V_old, ±ε) − G)²): PPO's value loss with its own clip.

    Args:
        policy: [N, T] log-probs under π, which have no gradient here.
        values: [N, T] V before each token.
        returns: [N, T] G.
        old_values: [N, T] V when the response was written.
        clip: ε.
    """
    near = old_values + (values.values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values.values - returns).square(), (near - returns).square())
    return (worse * values.mask).sum(-1) / 2


def kl_k1(policy: TokenLogps, reference: TokenLogps) -> Values:
    """Return Σ_t d_t, d = log π/π_ref: KL's value without bias, and as a loss the gradient 0 in expectation.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
    """
    return _sum(kl_estimates(policy.logps, reference.logps, "k1"), policy)


def kl_k2(policy: TokenLogps, reference: TokenLogps) -> Values:
    """Return Σ_t d_t²/2: the gradient of KL(π‖π_ref) without bias where π itself wrote, though not its value.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
    """
    return _sum(kl_estimates(policy.logps, reference.logps, "k2"), policy)


def kl_k3(policy: TokenLogps, reference: TokenLogps) -> Values:
    """Return Σ_t (e^−d − 1 + d): KL's value without bias, with the gradient of KL(π_ref‖π) a token; GRPO's.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
    """
    return _sum(kl_estimates(policy.logps, reference.logps, "k3"), policy)
