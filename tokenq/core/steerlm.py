"""SteerLM 2.0's targets: how likely a response has the attributes asked for, and how much it counts for that.

The policy Q_θ(y|a, x) is to write what P(y|a, x) ∝ P(a|x, y) P(y|x) would, for a prompt x and wanted attributes a
(helpfulness 4, verbosity 2, …). A reward model that predicts ratings gives P(a|x, y) through a Beta distribution, a
model without attributes gives P(y|x), and responses drawn from a first policy Q' stand for all others (arXiv
2406.08673; the weights also as in NeMo-Aligner). These are functions of numbers that others compute: the judge
`attributes` asks a reward model for P(a|x, y), rounds of `tokenq online --method steerlm` draw responses and weigh
them, and the loss `steerlm` learns from the weights.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc
from torch import Tensor

CONCENTRATION = 24.0
"""α + β of the Beta distribution; the paper's."""

_LEAST = 1e-6
"""Least α and β: at the ends of the scale, where the distribution is a point, an other level keeps a finite log."""


def level_logps(
    ratings: Float[Tensor, "*n"], levels: int = 5, concentration: float = CONCENTRATION
) -> Float[Tensor, "*n levels"]:
    """Return log P(a = k|x, y) of every level k of an attribute, given the rating that a reward model predicts.

    With r the rating on [0, 1], the attribute is Beta(α = 24 r, β = 24 − α), whose mean is r, and a level is one of the
    equal parts of [0, 1]: P(a = k) = F((k + 1)/5) − F(k/5). In float64, without a gradient.

    Args:
        ratings: from 0 to `levels` − 1; what lies beyond counts as the end of the scale.
        levels: how many levels the attribute has.
        concentration: α + β; the larger, the surer.
    """
    scaled = ratings.detach().double().clamp(0, levels - 1) / (levels - 1)
    mean = scaled.cpu().numpy()[..., None]
    alpha = np.maximum(concentration * mean, _LEAST)
    beta = np.maximum(concentration - concentration * mean, _LEAST)
    low, high = np.arange(levels) / levels, (np.arange(levels) + 1) / levels
    # A difference of two numbers near 1 has no digits left: below the mean take the left tail, above it the right one.
    left = betainc(alpha, beta, high) - betainc(alpha, beta, low)
    right = betaincc(alpha, beta, low) - betaincc(alpha, beta, high)
    chances = np.where((low + high) / 2 < mean, left, right)
    return torch.from_numpy(np.log(np.maximum(chances, np.finfo(np.float64).tiny))).to(ratings.device)


def attribute_logps(
    ratings: Float[Tensor, "*n A"],
    wanted: Int[Tensor, "*n A"],
    levels: int = 5,
    concentration: float = CONCENTRATION,
) -> Float[Tensor, "*n"]:
    """Return log P(a|x, y) = Σ log P(a_j|x, y) of the levels asked for, the attributes taken as independent.

    Args:
        ratings: what a reward model predicts of each attribute of each response.
        wanted: the level asked for of each, from 0 to `levels` − 1.
        levels: how many levels an attribute has.
        concentration: α + β.
    """
    every = level_logps(ratings, levels, concentration)
    return every.gather(-1, wanted[..., None]).squeeze(-1).sum(-1)


def target_weights(
    attribute_logps: Float[Tensor, "*b n"], prior_logps: Float[Tensor, "*b n"], proposal_logps: Float[Tensor, "*b n"]
) -> Float[Tensor, "*b n"]:
    """Return w_i ∝ P(a|x, y_i) P(y_i|x)/Q'(y_i|a, x), which sum to 1: how much a drawn response counts.

    Self-normalised importance weights; with few responses they are biased, and one response may hold all weight.

    Args:
        attribute_logps: log P(a|x, y_i) of n responses that were drawn from Q' for one prompt.
        prior_logps: log P(y_i|x).
        proposal_logps: log Q'(y_i|a, x).
    """
    return torch.softmax(attribute_logps + prior_logps - proposal_logps, -1)


def policy_weights(log_ratios: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Return b_i ∝ Q_θ(y_i|a, x)/Q'(y_i|a, x), which sum to 1: the baseline; 1/n each while Q_θ is Q'.

    Args:
        log_ratios: log Q_θ(y_i|a, x) − log Q'(y_i|a, x); −∞ for a response that is not there.
    """
    return torch.softmax(log_ratios, -1)


def distance(log_ratios: Float[Tensor, "*b n"], targets: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Return Σ_i w_i log(w_i/b_i), an estimate of KL(P(y|a, x)‖Q_θ): what SteerLM 2.0 makes small.

    Its gradient is −Σ_i (w_i − b_i) ∇log Q_θ(y_i|a, x), the paper's.

    Args:
        log_ratios: log Q_θ(y_i|a, x) − log Q'(y_i|a, x), with a graph; −∞ for a response that is not there.
        targets: w_i, from `target_weights`; 0 for a response that is not there.
    """
    own = torch.log_softmax(log_ratios, -1)
    kept = own.masked_fill(log_ratios == -torch.inf, 0.0)  # 0 · −∞ is no number
    return (torch.xlogy(targets, targets) - targets * kept).sum(-1)


def effective_samples(weights: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Return 1/Σ w², how many of n drawn responses the weights speak for (Kish): n of equal ones, 1 of a single one.

    Args:
        weights: which sum to 1.
    """
    return 1 / weights.square().sum(-1)
