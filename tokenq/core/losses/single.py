"""Losses of single responses: imitation, and labels that say desirable or not."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tokenq.core.losses.pairs import log_ratios
from tokenq.core.tensors import TokenLogps


def sft(policy: TokenLogps) -> Float[Tensor, " N"]:
    """Return −log π(y|x) of each response, summed over its tokens.

    The training loop divides by the number of tokens in the step, which gives the usual mean token cross-entropy.

    Args:
        policy: [N, T] log-probs of the responses.
    """
    return -policy.sums()


def kto(
    policy: TokenLogps,
    reference: TokenLogps,
    labels: Bool[Tensor, " N"],
    mismatched: Float[Tensor, " M"],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " N"]:
    """Return λ_D (1 − σ(β (d − z₀))) of desirable and λ_U (1 − σ(β (z₀ − d))) of undesirable responses: KTO.

    Eq. 8 of arXiv 2402.01306, less its constant. z₀ = max(0, mean d of responses beside the prompts of others)
    estimates KL(π‖π_ref) over the step's batch, without gradient. Both gains are bounded, so the optimum is an order: d
    rises without end where a response is mostly desirable, and falls where it is not.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        labels: [N] True = desirable.
        mismatched: [M] log π/π_ref of mismatched responses; none of them: z₀ = 0.
        beta: KL temperature.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """
    ratios = log_ratios(policy, reference)
    baseline = mismatched.detach().mean().clamp(min=0) if len(mismatched) else ratios.new_zeros(())
    gain = beta * (ratios - baseline)
    return torch.where(labels, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


def bco(
    policy: TokenLogps, reference: TokenLogps, labels: Bool[Tensor, " N"], *, beta: float = 0.01
) -> Float[Tensor, " N"]:
    """Return −log σ(r − δ) of desirable and −log σ(δ − r) of undesirable responses, r = β d: BCO, arXiv 2404.04656.

    δ is the mean of the mean rewards of both kinds in the step's batch, without gradient. (The paper takes a moving
    average over steps: a state that a resumed run would have to carry, and that evaluation would change.)

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        labels: [N] True = desirable.
        beta: KL temperature.
    """
    rewards = beta * log_ratios(policy, reference)
    kinds = [rewards.detach()[kind].mean() for kind in (labels, ~labels) if bool(kind.any())]
    shift = torch.stack(kinds).mean() if kinds else rewards.new_zeros(())
    return -F.logsigmoid(torch.where(labels, rewards - shift, shift - rewards))


def implicit_prm(
    policy: TokenLogps, reference: TokenLogps, outcomes: Float[Tensor, " N"], *, beta: float = 0.05
) -> Float[Tensor, " N"]:
    """Return −o log σ(r) − (1 − o) log σ(−r), r = β d: cross-entropy with outcomes o in [0, 1], arXiv 2412.01981.

    Trains φ as an implicit process reward model from what whole responses came to: β log φ/π_ref of a token is then its
    reward. Beside a policy, φ is a network of its own, as PRIME (arXiv 2502.01456) has it; alone, the policy itself.

    Args:
        policy: [N, T] log-probs under φ.
        reference: [N, T] log-probs under π_ref.
        outcomes: [N] 1 = right, 0 = wrong.
        beta: KL temperature.
    """
    rewards = beta * log_ratios(policy, reference)
    return -outcomes * F.logsigmoid(rewards) - (1 - outcomes) * F.logsigmoid(-rewards)


def ce(
    policy: TokenLogps, reference: TokenLogps, labels: Bool[Tensor, " N"], *, beta: float = 0.05
) -> Float[Tensor, " N"]:
    """Return −log σ(r) of right and −log σ(−r) of wrong responses, r = β d: cross-entropy, arXiv 2412.01981.

    Trains an implicit process reward model from labels of whole responses. Its reward has no free constant: a response
    with r = 0 is right half of the time, for every prompt.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        labels: [N] True = right.
        beta: KL temperature.
    """
    return implicit_prm(policy, reference, labels.to(policy.logps), beta=beta)
