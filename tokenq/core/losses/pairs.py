"""Losses of a pair's margin: DPO and its relatives, which see nothing of a pair but h.

Notation: d(y) = log π(y) − log π_ref(y) summed over the policy's own tokens, and h = d(y_w) − d(y_l) with y_w the
chosen and y_l the rejected response. What the two responses gain alike cancels, so none of these losses says where the
log-probs themselves go; `anchored` has those that do.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import PairLogps, TokenLogps


def log_ratios(policy: TokenLogps, reference: TokenLogps) -> Float[Tensor, " N"]:
    """Return d = log π(y)/π_ref(y) of each response, summed over its own tokens."""
    return policy.sums() - reference.sums()


def margins(policy: PairLogps, reference: PairLogps) -> Float[Tensor, " B"]:
    """Return h = Σ_t log π/π_ref of the chosen minus that of the rejected response (without β)."""
    return log_ratios(policy.chosen, reference.chosen) - log_ratios(policy.rejected, reference.rejected)


def mean_margins(policy: PairLogps, reference: PairLogps) -> Float[Tensor, " B"]:
    """Return h̄, the same of log-ratios that are averaged over the tokens of their response."""
    chosen = log_ratios(policy.chosen, reference.chosen) / policy.chosen.lengths().clamp(min=1)
    return chosen - log_ratios(policy.rejected, reference.rejected) / policy.rejected.lengths().clamp(min=1)


def dpo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log σ(β h): DPO, Eq. 7 of arXiv 2305.18290 and Eq. 9 of arXiv 2404.12358.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    return -F.logsigmoid(beta * margins(policy, reference))


def sigmoid_norm(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log σ(β h̄), with log-ratios averaged per token: length-normalised DPO, arXiv 2411.15124 (Tülu 3).

    On exact preferences β d(y)/|y| = R(y) + const at the optimum: what a response is worth is an average over its
    tokens, so that a long one moves further from the reference for the same reward. β is therefore larger than DPO's
    by about the length of a response (5 in the paper).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature of a token.
    """
    return -F.logsigmoid(beta * mean_margins(policy, reference))


def cdpo(
    policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> Float[Tensor, " B"]:
    """Return −(1−ε) log σ(β h) − ε log σ(−β h): conservative DPO.

    From Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3 there. The minimum lies at σ(β h) = 1 − ε, so the
    margin stays bounded.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        label_smoothing: ε, the assumed probability that a label is flipped, in [0, 0.5].
    """
    h = beta * margins(policy, reference)
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


def robust(
    policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> Float[Tensor, " B"]:
    """Return [−(1−ε) log σ(β h) + ε log σ(−β h)] / (1 − 2ε): robust DPO, arXiv 2403.00409.

    Its mean over labels that are flipped with probability ε is the DPO loss on the true ones, so the optimum is that
    of clean labels. A single value may be negative, and it falls without bound as h grows.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        label_smoothing: ε, the probability that a label is flipped, in [0, 0.5).
    """
    h = beta * margins(policy, reference)
    clean, flipped = -F.logsigmoid(h), -F.logsigmoid(-h)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def ipo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return (h̄ − 1/(2β))², with log-ratios averaged per token: IPO as TRL, HALOs and LLaMA-Factory compute it.

    Eq. 17 of arXiv 2310.12036 with τ = β. The authors' own results used this per-token form (as reported by TRL);
    `ipo_sum` is the form written in the paper, which the original DPO code and OpenRLHF use.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the paper's τ.
    """
    return (mean_margins(policy, reference) - 1 / (2 * beta)).square()


def ipo_sum(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return (h − 1/(2β))², with summed log-ratios: IPO as written, Eq. 17 of arXiv 2310.12036 with τ = β.

    With all pairs of responses drawn from μ, d(y) − d(y') = [p(y ≻ μ) − p(y' ≻ μ)] / β at the optimum (Eq. 10 there).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the paper's τ.
    """
    return (margins(policy, reference) - 1 / (2 * beta)).square()


def hinge(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return max(0, 1 − β h): the hinge loss of SLiC (arXiv 2305.10425) on log-ratios, as in RSO (arXiv 2309.06657).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the inverse of the margin that is asked for.
    """
    return torch.relu(1 - beta * margins(policy, reference))


def exo(
    policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, label_smoothing: float = 1e-3
) -> Float[Tensor, " B"]:
    """Return KL((q, 1−q) ‖ (1−ε, ε)) with q = σ(β h): EXO on pairs, Eq. 16 of arXiv 2402.00856.

    The reverse of DPO's direction, so that it seeks a mode. Where the pair comes with its label p of the time and
    flipped otherwise, β h = (2p − 1) log((1−ε)/ε) at the optimum: a win rate, as IPO's, and not logit p.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        label_smoothing: ε, what the target leaves to the rejected response, in (0, 0.5]; at 0 the loss is infinite.
    """
    h = beta * margins(policy, reference)
    target = h.new_tensor([1 - label_smoothing, label_smoothing]).log()
    chosen, rejected = F.logsigmoid(h), F.logsigmoid(-h)
    return chosen.exp() * (chosen - target[0]) + rejected.exp() * (rejected - target[1])


def discopop(policy: PairLogps, reference: PairLogps, *, beta: float = 0.05, tau: float = 0.05) -> Float[Tensor, " B"]:
    """Return −(1 − m) log σ(x) + m exp(−x) with x = β h and m = σ(x/τ): DiscoPOP, Eq. 5 of arXiv 2406.08414.

    A loss found by a language model that searched for one: logistic where the order is wrong, exponential where it is
    right. It is not convex, and at x = 0 its slope is that of the mixture and not of its parts.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        tau: width of the change from one to the other.
    """
    x = beta * margins(policy, reference)
    share = torch.sigmoid(x / tau)
    return -(1 - share) * F.logsigmoid(x) + share * torch.exp(-x)
