"""A Gaussian world: pictures of a few real numbers, drawn in steps, whose best denoiser is known in closed form.

Each step is a Gaussian around an affine function of the state, and the reward is linear and quadratic in the picture.
So soft values stay quadratic and the best steps affine, and the soft Bellman equation is solved by recursion.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.errors import UserError
from tokenq.worlds.tabular import descend


class Quadratic(NamedTuple):
    """A function of a state x: constant + slope · x − ½ xᵀ curvature x.

    Attributes:
        curvature: [D, D], symmetric.
        slope: [D].
        constant: a number.
    """

    curvature: Float[Tensor, "D D"]
    slope: Float[Tensor, " D"]
    constant: Float[Tensor, ""]

    def at(self, states: Float[Tensor, "... D"]) -> Float[Tensor, " ..."]:
        """Return the value at each state."""
        bent = (states @ self.curvature * states).sum(-1)
        return self.constant + states @ self.slope - bent / 2


class Step(NamedTuple):
    """A denoising step: y ~ N(weight x + bias, covariance).

    Attributes:
        weight: [D, D].
        bias: [D].
        covariance: [D, D].
    """

    weight: Float[Tensor, "D D"]
    bias: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]

    def after(self, states: Float[Tensor, "... D"]) -> MultivariateNormal:
        """Return the distribution of what follows each state."""
        return MultivariateNormal(states @ self.weight.mT + self.bias, self.covariance)


def exact_denoiser(
    mean: Float[Tensor, " D"],
    covariance: Float[Tensor, "D D"],
    log_snrs: Sequence[float],
    eta: float,
) -> tuple[Step, ...]:
    """Return the DDIM steps (arXiv 2010.02502 Eq. 12 and 16) of the exact denoiser of Gaussian pictures.

    The levels preserve variance: a state is α x_0 + σ ε with α² + σ² = 1 and log α²/σ² the log-SNR.

    Args:
        mean: of the pictures.
        covariance: of the pictures.
        log_snrs: log-SNR of each state, the noise first and growing; the last is what counts as the picture.
        eta: η, the share of DDPM's noise that a step adds; 1 is DDPM.

    Raises:
        UserError: η outside (0, 1], fewer than two levels, levels that do not grow.
    """
    if not eta > 0:
        raise UserError(
            f"eta = {eta}: a step without noise has one outcome, so nothing is decided here.",
            "Take eta above 0 (1 is DDPM): a deterministic sampler has no log-density, and no step to prefer.",
        )
    if eta > 1:
        raise UserError(f"eta = {eta}: a step would add more noise than its level holds.", "Take eta up to 1 (DDPM).")
    if len(log_snrs) < 2 or any(one >= other for one, other in itertools.pairwise(log_snrs)):
        raise UserError(f"The levels {list(log_snrs)} are no way from noise to a picture.", "Give log-SNRs that grow.")
    eye = torch.eye(len(mean), dtype=mean.dtype)
    steps = []
    for before, after in itertools.pairwise(log_snrs):
        (signal, noise), (next_signal, next_noise) = _amplitudes(before), _amplitudes(after)
        added = eta * next_noise / noise * math.sqrt(1 - (signal / next_signal) ** 2)
        gain = signal * covariance @ torch.linalg.inv(signal**2 * covariance + noise**2 * eye)
        kept = math.sqrt(next_noise**2 - added**2) / noise
        weight = next_signal * gain + kept * (eye - signal * gain)  # signal back in, and what is left of the noise
        bias = (next_signal - kept * signal) * (mean - signal * gain @ mean)
        steps.append(Step(weight, bias, added**2 * eye))
    return tuple(steps)


def _amplitudes(log_snr: float) -> tuple[float, float]:
    """Return α and σ of a level that preserves variance."""
    return math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr)))


class GaussianOptimum(NamedTuple):
    """The solution of max E r(x_0) − γ KL(p‖p_ref) from every noise.

    Attributes:
        steps: T best steps.
        values: T + 1 soft values, before each step and of the picture (its reward).
    """

    steps: tuple[Step, ...]
    values: tuple[Quadratic, ...]


def solve(steps: Sequence[Step], reward: Quadratic, gamma: float) -> GaussianOptimum:
    """Return the soft optimum of a chain by the recursion V(x) = γ log E_ref[exp(V(y)/γ) | x].

    With precision Λ of a step at μ(x), the best next state is Gaussian with precision H = Λ + curvature/γ around
    H⁻¹ (Λ μ + slope/γ): its mean moves, and where the reward is curved its spread changes with it.

    Args:
        steps: the reference's, first step of drawing first.
        reward: of the picture.
        gamma: KL temperature.

    Raises:
        UserError: γ that is not above 0; a reward that grows faster than the reference's density falls.
    """
    if not gamma > 0:
        raise UserError(f"gamma = {gamma}: a temperature of 0 or below has no soft optimum.", "Take gamma above 0.")
    value, best = reward, list[Step]()
    values = [reward]
    for step in reversed(steps):
        precision = torch.linalg.inv(step.covariance)
        sharpened = precision + value.curvature / gamma
        if not (torch.linalg.eigvalsh(sharpened) > 0).all():
            raise UserError(
                f"With gamma = {gamma} this reward grows faster than the reference's density falls: no optimum exists.",
                "Take a larger gamma, or a reward that bends down.",
            )
        spread = torch.linalg.inv(sharpened)
        pull, still = precision @ step.bias + value.slope / gamma, precision @ step.bias
        best.insert(0, Step(spread @ precision @ step.weight, spread @ pull, spread))
        widened = torch.logdet(sharpened @ step.covariance)
        value = Quadratic(
            gamma * step.weight.mT @ (precision - precision @ spread @ precision) @ step.weight,
            gamma * step.weight.mT @ (precision @ spread @ pull - still),
            value.constant + gamma / 2 * (pull @ spread @ pull - step.bias @ still - widened),
        )
        values.insert(0, value)
    return GaussianOptimum(tuple(best), tuple(values))


def step_logps(steps: Sequence[Step], path: Float[Tensor, "n T+1 D"]) -> Float[Tensor, "n T"]:
    """Return the log-density of every step of some trajectories, summed over dimensions.

    Args:
        steps: T steps.
        path: x_T, …, x_0.
    """
    after = [step.after(path[:, t]) for t, step in enumerate(steps)]
    return torch.stack([one.log_prob(path[:, t]) for t, one in enumerate(after, 1)], 1)  # type: ignore[no-untyped-call]  # torch's


def draw(steps: Sequence[Step], noise: Float[Tensor, "n D"], dice: torch.Generator) -> Float[Tensor, "n T+1 D"]:
    """Return trajectories that are drawn from these noises."""
    path = [noise]
    for step in steps:
        spread = torch.randn(noise.shape, generator=dice, dtype=noise.dtype)
        path.append(step.after(path[-1]).loc + spread @ torch.linalg.cholesky(step.covariance).mT)
    return torch.stack(path, 1)


def nodes(steps: Sequence[Step], counts: Sequence[int]) -> tuple[Float[Tensor, "n T+1 1"], Float[Tensor, " n"]]:
    """Return trajectories of one number and their chances, which stand for all: Gauss-Hermite nodes of every step.

    Args:
        steps: T steps of one dimension.
        counts: how many noises (drawn from N(0, 1)), and how many outcomes of each step.
    """
    path, chances = torch.zeros(1, 0, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for step, count in enumerate(counts):
        places, shares = (torch.from_numpy(column) for column in np.polynomial.hermite_e.hermegauss(count))
        shares = shares / shares.sum()
        if step:
            after = steps[step - 1].after(path[:, -1])
            outcomes = after.loc[:, None] + after.stddev[:, None] * places[:, None]
        else:
            outcomes = places[None, :, None]
        path = torch.cat((path[:, None].expand(-1, count, -1, -1), outcomes[:, :, None]), 2).flatten(0, 1)
        chances = (chances[:, None] * shares).flatten()
    return path, chances


def fit(
    steps: Sequence[Step],
    path: Float[Tensor, "n T+1 D"],
    pairs: Tensor,
    weights: Float[Tensor, " P"],
    gamma: float,
) -> tuple[Step, ...]:
    """Minimise DPO's Σ_p w_p loss_p over weighted pairs of trajectories to the last digits; return the steps.

    Args:
        steps: the reference's, where training begins.
        path: trajectories.
        pairs: [P, 2] (chosen, rejected) as rows of them.
        weights: how much each pair counts.
        gamma: KL temperature.
    """
    raw = [(step.weight.clone(), step.bias.clone(), _root(step.covariance)) for step in steps]
    parameters = [part.requires_grad_() for parts in raw for part in parts]
    dpo = find_loss("dpo", {"beta": gamma}).function

    def trained() -> tuple[Step, ...]:
        roots = [(weight, bias, root.tril(-1) + torch.diag_embed(root.diag().exp())) for weight, bias, root in raw]
        return tuple(Step(weight, bias, root @ root.mT) for weight, bias, root in roots)

    def paired(logps: Tensor) -> PairLogps:
        return TokenLogps(logps, torch.ones_like(logps, dtype=torch.bool)).pairs(pairs)

    reference = paired(step_logps(steps, path))
    descend(parameters, lambda: (dpo(paired(step_logps(trained(), path)), reference) * weights).sum())
    return tuple(Step(*(part.detach() for part in step)) for step in trained())


def _root(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Return the Cholesky factor with the logarithm of its diagonal."""
    root: Tensor = torch.linalg.cholesky(covariance)
    return root.tril(-1) + torch.diag_embed(root.diag().log())
