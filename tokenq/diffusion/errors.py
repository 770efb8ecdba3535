"""Denoising errors as log-ratios: what a picture's likelihood owes to the policy, without a trajectory.

For the optimal denoisers of densities p and p_ref (Kong, Brekelmans, Ver Steeg 2302.03792; λ = log α²/σ²),

    log p(x)/p_ref(x) = ½ ∫ dλ E_ε (‖ε − ε̂_ref(x_λ)‖² − ‖ε − ε̂(x_λ)‖²).

So −½ |dλ| ‖ε − ε̂‖², summed over noise levels, is log p(x) up to what is the same in both models. Levels drawn
uniformly from 1..L weigh L |Δλ_l| each. Diffusion-DPO (2311.12908) and its released code put a constant in its place.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tokenq.diffusion.model import Conditioning, ImageModel
from tokenq.diffusion.schedule import PREDICTIONS, Schedule
from tokenq.errors import unknown_name


def _log_snr(schedule: Schedule) -> Tensor:
    """Return [L+1] L |Δλ_l| by the trapezoid rule for errors of ε; 0 at the ends where λ is infinite."""
    log_snr = schedule.log_snr
    finite = log_snr.isfinite()
    gaps = torch.where(finite[:-1] & finite[1:], log_snr[:-1] - log_snr[1:], 0.0)
    widths = torch.zeros_like(log_snr)
    widths[:-1] += gaps / 2
    widths[1:] += gaps / 2
    return schedule.levels * widths


def _noise_scale(schedule: Schedule) -> Tensor:
    """Return [L+1] (α/σ)², which turns squared errors of x̂_0 into those of ε̂."""
    return (schedule.alphas / schedule.sigmas) ** 2


def _own_scale(schedule: Schedule) -> Tensor:
    """Return [L+1] the factor that turns squared errors of x̂_0 into those of what the network predicts."""
    return PREDICTIONS[schedule.prediction].scale(schedule.alphas, schedule.sigmas) ** 2


WEIGHTS: dict[str, Callable[[Schedule], Tensor]] = {
    "log_snr": lambda schedule: _log_snr(schedule) * _noise_scale(schedule),
    "constant": _own_scale,
}
"""What a squared error of x̂_0 counts at each level [L+1]: "log_snr" makes nats of it; "constant" is 1 for errors of
what the network predicts, as released code has it, which is on no known scale."""


def level_weights(schedule: Schedule, weights: str = "log_snr") -> Tensor:
    """Return [L+1] what ‖x̂_0 − x_0‖² counts at each level; 0 where it counts nothing.

    Raises:
        UserError: no such weights.
    """
    if weights not in WEIGHTS:
        raise unknown_name("weighting of noise levels", weights, WEIGHTS)
    return WEIGHTS[weights](schedule).nan_to_num(0.0, 0.0, 0.0)


def error_logps(
    model: ImageModel,
    latents: Tensor,
    levels: Tensor,
    noise: Tensor,
    conditioning: Conditioning,
    weights: str = "log_snr",
) -> Tensor:
    """Return [n, draws] −½ w(l) ‖x_0 − x̂_0‖² / draws in nats, with gradient; its sum estimates log p up to a constant.

    The difference of two models with the same levels and noise estimates their log-ratio. No guidance: a guided network
    is no denoiser of any density. Share levels and noise between both models and inside a pair.

    Args:
        model: the policy or the reference.
        latents: [n, *shape] x_0.
        levels: [n, draws] from 1..L, each uniform (`draw_levels`).
        noise: [n, draws, *shape] standard normal.
        conditioning: of n prompts.
        weights: a key of `WEIGHTS`.
    """
    latents = latents.to(model.device)
    draws = levels.shape[1]
    flat, noise = levels.flatten(), noise.flatten(0, 1).to(latents)
    pictures = latents.repeat_interleave(draws, 0)
    rows = torch.arange(len(latents)).repeat_interleave(draws)
    noisy = model.schedule.noised(pictures, flat, noise)
    errors = (model.predict(noisy, flat.to(noisy.device), conditioning.select(rows)) - pictures) ** 2
    counted = level_weights(model.schedule, weights)[flat.cpu()].to(errors)
    return (-0.5 / draws * counted * errors.flatten(1).sum(1)).view(-1, draws)


def draw_levels(schedule: Schedule, count: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return [count, draws] levels from 1..L, each uniform, one from every `draws`-th part of them (stratified)."""
    places = (torch.arange(draws) + torch.rand(count, draws, generator=generator)) / draws
    return (1 + (places * schedule.levels).long()).clamp(max=schedule.levels)
