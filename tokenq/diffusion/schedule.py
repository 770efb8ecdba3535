"""Noise schedules: how much of a picture and how much noise is in x_t at every level, and what a network says of it.

x_l = α_l x_0 + σ_l ε with ε ~ N(0, I), at levels l = 0..L. Level 0 is the picture itself (α = 1, σ = 0), level L
(almost) noise alone. λ_l = log(α_l² / σ_l²) is the log signal-to-noise ratio. A diffusers timestep t is level t + 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenq.errors import UserError, unknown_name


@dataclass(frozen=True)
class Schedule:
    """A noise schedule and what the network predicts under it.

    Attributes:
        alphas: [L+1] α of signal, float64.
        sigmas: [L+1] σ of noise, float64.
        kind: "variance_preserving" (α² + σ² = 1) or "flow" (α + σ = 1).
        prediction: a key of `PREDICTIONS`.
        clip: predicted pictures are clamped to ±clip before a step; None for never.
    """

    alphas: Tensor
    sigmas: Tensor
    kind: str
    prediction: str
    clip: float | None = None

    @property
    def levels(self) -> int:
        """L, the number of levels above the picture itself."""
        return len(self.alphas) - 1

    @property
    def log_snr(self) -> Tensor:
        """[L+1] λ = 2 log(α/σ); +inf at level 0, −inf where nothing of the picture is left."""
        return 2 * (self.alphas.log() - self.sigmas.log())

    def at(self, levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (α, σ) of levels [n], shaped to multiply `like` [n, ...], in its type and on its device."""
        shape = (-1, *(1 for _ in like.shape[1:]))
        index = levels.to(self.alphas.device)
        alphas, sigmas = (table[index].view(shape).to(like) for table in (self.alphas, self.sigmas))
        return alphas, sigmas

    def noised(self, pictures: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """Return x_l = α_l x_0 + σ_l ε, [n, ...]."""
        alphas, sigmas = self.at(levels, pictures)
        return alphas * pictures + sigmas * noise

    def to_x0(self, output: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
        """Return the predicted picture x̂_0 [n, ...] from the network's output at x_l."""
        alphas, sigmas = self.at(levels, noisy)
        return PREDICTIONS[self.prediction].picture(output, noisy, alphas, sigmas)

    def to_noise(self, x0: Tensor, noisy: Tensor, levels: Tensor) -> Tensor:
        """Return the noise ε̂ = (x_l − α x̂_0) / σ [n, ...] that goes with a predicted picture; levels ≥ 1."""
        alphas, sigmas = self.at(levels, noisy)
        return (noisy - alphas * x0) / sigmas

    def target(self, pictures: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """Return what a network with this prediction should say at x_l, [n, ...]."""
        alphas, sigmas = self.at(levels, pictures)
        return PREDICTIONS[self.prediction].target(pictures, noise, alphas, sigmas)


@dataclass(frozen=True)
class Prediction:
    """What a network predicts.

    Attributes:
        picture: (output, x, α, σ) → x̂_0.
        target: (x_0, ε, α, σ) → the output that is right.
        scale: (α, σ) → s with ‖output − target‖² = s² ‖x̂_0 − x_0‖².
    """

    picture: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    scale: Callable[[Tensor, Tensor], Tensor]


# v of Salimans and Ho (2202.00512) is α ε − σ x_0, the velocity of a straight path ε − x_0. An error e of x̂_0 is an
# error −(α/σ) e of ε̂; put into either, with α² + σ² = 1 or α + σ = 1, it is −e/σ.
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(
        lambda output, x, alpha, sigma: (x - sigma * output) / alpha,
        lambda x0, noise, alpha, sigma: noise,
        lambda alpha, sigma: alpha / sigma,
    ),
    "x0": Prediction(
        lambda output, x, alpha, sigma: output,
        lambda x0, noise, alpha, sigma: x0,
        lambda alpha, sigma: torch.ones_like(alpha),
    ),
    "v": Prediction(
        lambda output, x, alpha, sigma: alpha * x - sigma * output,
        lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
        lambda alpha, sigma: 1 / sigma,
    ),
    "velocity": Prediction(
        lambda output, x, alpha, sigma: x - sigma * output,
        lambda x0, noise, alpha, sigma: noise - x0,
        lambda alpha, sigma: 1 / sigma,
    ),
}

_NAMES = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}
"""The names of predictions in diffusers' configurations."""


def schedule_of(config: Mapping[str, Any], shape: tuple[int, ...] = ()) -> Schedule:
    """Return the noise schedule of a diffusers scheduler's configuration, whatever sampler it is for.

    Args:
        config: `scheduler_config.json`.
        shape: of a latent; flow schedules with dynamic shifting depend on its height and width.

    Raises:
        UserError: the configuration has no schedule that is known here.
    """
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return _flow(config, shape)
    if "beta_schedule" not in config:
        raise UserError(
            f"The scheduler {name!r} has no noise schedule that is known here.",
            "Schedulers with betas (DDPM, DDIM, PNDM, DPM-Solver, Euler, …) and FlowMatch ones are.",
        )
    if config.get("thresholding"):
        raise UserError(
            f"The scheduler {name!r} thresholds pictures by their own quantiles, which is not supported.",
            'Set "thresholding": false in scheduler_config.json.',
        )
    return _variance_preserving(config)


def _variance_preserving(config: Mapping[str, Any]) -> Schedule:
    asked = config.get("prediction_type", "epsilon")
    if asked not in _NAMES:
        raise unknown_name("prediction_type", str(asked), _NAMES)
    products = torch.cumprod(1 - _betas(config), 0)
    if config.get("rescale_betas_zero_snr"):
        products = _without_signal_at_the_end(products)
        if asked == "epsilon":
            raise UserError(
                "A schedule that ends in noise alone cannot be predicted as epsilon: nothing of the picture is left.",
                'Set "prediction_type": "v_prediction" in scheduler_config.json, if the model predicts v.',
            )
    products = torch.cat([products.new_ones(1), products])
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
    return Schedule(products.sqrt(), (1 - products).sqrt(), "variance_preserving", _NAMES[asked], clip)


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Return [L] β_l = 1 − α_l²/α_{l−1}², float64."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    name = config["beta_schedule"]
    if name not in BETAS:
        raise unknown_name("beta_schedule", str(name), BETAS)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    return BETAS[name](start, end, int(config.get("num_train_timesteps", 1000)))


def _cosine(_start: float, _end: float, levels: int) -> Tensor:
    """Return the cosine schedule of Nichol and Dhariwal (2102.09672, eq. 17), β at most .999."""
    times = torch.arange(levels + 1, dtype=torch.float64) / levels
    products = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - products[1:] / products[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": lambda start, end, levels: torch.linspace(start, end, levels, dtype=torch.float64),
    "scaled_linear": lambda start, end, levels: (
        torch.linspace(math.sqrt(start), math.sqrt(end), levels, dtype=torch.float64) ** 2
    ),
    "squaredcos_cap_v2": _cosine,
}


def _without_signal_at_the_end(products: Tensor) -> Tensor:
    """Shift and stretch √ᾱ so that it ends at 0 and begins where it did (2305.08891, algorithm 1)."""
    roots = products.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def _flow(config: Mapping[str, Any], shape: tuple[int, ...]) -> Schedule:
    count = int(config.get("num_train_timesteps", 1000))
    times = torch.arange(count + 1, dtype=torch.float64) / count
    if config.get("use_dynamic_shifting"):
        shift = math.exp(_dynamic_shift(config, shape))
    else:
        shift = float(config.get("shift", config.get("flow_shift", 1.0)))
    sigmas = shift * times / (1 + (shift - 1) * times)
    return Schedule(1 - sigmas, sigmas, "flow", "velocity")


def _dynamic_shift(config: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """Return μ, linear in the number of patches of 2 × 2 latents (2403.03206, section 5.3.2, as Flux has it)."""
    if len(shape) != 3:
        raise UserError("This flow schedule depends on the size of the latents, which is not known.", "")
    patches = shape[1] * shape[2] / 4
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(base + (top - base) * (patches - low) / (high - low))
