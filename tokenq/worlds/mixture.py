"""Pictures of one number from a mixture of Gaussians: the errors of best denoisers, level by level.

The mixture times the exponential of a linear and quadratic reward is a mixture again, so policy and reference are both
known, and with them what their denoisers get wrong at each noise level. Levels preserve variance: a noisy picture is
α x + σ ε with α² + σ² = 1, and λ = log α²/σ² is the log-SNR.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Mixture(NamedTuple):
    """Pictures of one number, a mixture of k Gaussians.

    Attributes:
        logits: [k] log weights.
        means: [k].
        sds: [k].
    """

    logits: Float[Tensor, " k"]
    means: Float[Tensor, " k"]
    sds: Float[Tensor, " k"]


def tilted(mixture: Mixture, slope: float, curvature: float) -> tuple[Mixture, Float[Tensor, ""]]:
    """Return the mixture times exp(slope x − curvature x²/2), normalised, and the log of what it was divided by."""
    precision = mixture.sds**-2 + curvature
    means = (mixture.means * mixture.sds**-2 + slope) / precision
    gains = (means**2 * precision - (mixture.means / mixture.sds) ** 2) / 2 - (mixture.sds**2 * precision).log() / 2
    logits = mixture.logits.log_softmax(0) + gains
    total = logits.logsumexp(0)
    return Mixture(logits - total, means, precision.rsqrt()), total


def predicted_noise(
    mixture: Mixture, noisy: Float[Tensor, " ..."], signal: Tensor, noise: Tensor
) -> Float[Tensor, " ..."]:
    """Return E[ε | α x + σ ε] of pictures from a mixture: what its best denoiser says."""
    signal, noise = signal[..., None], noise[..., None]
    variance = (signal * mixture.sds) ** 2 + noise**2
    off = noisy[..., None] - signal * mixture.means
    which = (mixture.logits - variance.log() / 2 - off**2 / variance / 2).softmax(-1)
    return (which * off / variance * noise).sum(-1)


def error_gains(
    policy: Mixture, reference: Mixture, pictures: Float[Tensor, " n"], log_snrs: Float[Tensor, " L"]
) -> Float[Tensor, "L n"]:
    """Return E_ε ‖ε − ε_ref‖² − ‖ε − ε_policy‖² of each picture at each level, by Gauss-Hermite quadrature."""
    nodes, shares = (torch.from_numpy(column) for column in np.polynomial.hermite_e.hermegauss(40))
    signal, noise = (torch.sigmoid(sign * log_snrs).sqrt()[:, None, None] for sign in (1, -1))
    noisy = signal * pictures[:, None] + noise * nodes
    errors = [(nodes - predicted_noise(one, noisy, signal, noise)) ** 2 for one in (reference, policy)]
    return (errors[0] - errors[1]) @ shares / math.sqrt(2 * math.pi)


def cosine(times: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """Return the log-SNR λ(t) = −2 log tan(πt/2) of the cosine schedule (arXiv 2102.09672, without its offset)."""
    return -2 * torch.tan(math.pi / 2 * times).log()


def linear(times: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """Return λ(t) of the linear schedule: log α² = −(t/10 + 9.95 t²) (arXiv 2006.11239, as in 2011.13456)."""
    decay = times / 10 + 9.95 * times**2
    return -decay - (-torch.expm1(-decay)).log()


SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": cosine, "linear": linear}
"""Log-SNR of a time in (0, 1), 0 being the picture."""
