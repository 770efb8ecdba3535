"""Denoising as decisions: a step draws x_s from a Gaussian around what the network says of x_t, with its log-density.

A step from level t to a lower level s, with x̂_0 the guided prediction at x_t and ε̂ = (x_t − α_t x̂_0)/σ_t:

    mean = α_s x̂_0 + √(σ_s² − sd²) ε̂,    sd = η (σ_s/σ_t) √(σ_t² − (α_t/α_s)² σ_s²)

which is DDIM (2010.02502, eq. 12 and 16), DDPM's posterior at η = 1, for any α and σ. Given x_0 it keeps x_s at
N(α_s x_0, σ_s² I) whatever η is: √(σ_s² − sd²) ε and the new noise have variance σ_s² together. On a flow's schedule
small steps are the stochastic equation of Flow-GRPO (2505.05470): sd²/(t − s) → η² · 2t/(1 − t), its
σ_t = a √(t/(1 − t)) with a = η√2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenq.diffusion.model import Conditioning, ImageModel, Say, silent
from tokenq.diffusion.schedule import Schedule
from tokenq.errors import UserError, unknown_name

LAST = 0.03
"""The least sd of the last step's Gaussian at η = 1: σ of Stable Diffusion's lowest level, 4 of 256 grey levels."""


@dataclass(frozen=True)
class Steps:
    """How a picture is drawn.

    Attributes:
        levels: T+1 noise levels, descending to 0.
        eta: how much of the noise of a step is drawn anew, in (0, 1]; 1 is DDPM.
        guidance: scale of classifier-free guidance; 1 for none. The guided network is the policy.
        sampler: a key of `SAMPLERS`.
    """

    levels: tuple[int, ...]
    eta: float = 1.0
    guidance: float = 1.0
    sampler: str = "ancestral"

    def __post_init__(self) -> None:
        """Refuse what has no density.

        Raises:
            UserError: a deterministic sampler, an η outside (0, 1], or levels that do not descend to 0.
        """
        if self.sampler not in SAMPLERS:
            raise _refused(self.sampler)
        if not 0 < self.eta <= 1:
            raise UserError(
                f"--eta {self.eta}: " + (_UNDECIDED if self.eta == 0 else "the share of new noise is in (0, 1]."),
                "Take an eta above 0 and at most 1; 1 is DDPM.",
            )
        falls = all(high > low for high, low in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or self.levels[-1] != 0 or not falls:
            raise UserError(f"The levels {self.levels} of denoising do not descend to 0.", "Give such as (100, 50, 0).")

    @property
    def count(self) -> int:
        """T, the number of steps."""
        return len(self.levels) - 1


_UNDECIDED = (
    "a deterministic sampler draws nothing after the first noise, so nothing is decided here and no density exists."
)

_DETERMINISTIC = ("ddim", "pndm", "plms", "dpm_solver", "dpm_solver++", "unipc", "deis", "heun", "euler", "lms")


def _refused(sampler: str) -> UserError:
    """Return why a sampler is not taken."""
    if sampler.lower().replace("-", "_") in _DETERMINISTIC:
        return UserError(
            f"Sampler {sampler!r}: {_UNDECIDED}", f"Take one of {', '.join(SAMPLERS)} with an eta above 0."
        )
    return unknown_name("sampler", sampler, SAMPLERS)


def spaced_steps(
    schedule: Schedule, count: int, *, eta: float = 1.0, guidance: float = 1.0, sampler: str = "ancestral"
) -> Steps:
    """Return `count` steps at levels evenly spaced from L to 0 (diffusers' "trailing").

    Raises:
        UserError: more steps than the schedule has levels, or what `Steps` refuses.
    """
    if not 1 <= count <= schedule.levels:
        raise UserError(f"{count} denoising steps, of a schedule with {schedule.levels} levels.", "Ask for fewer.")
    levels = torch.linspace(schedule.levels, 0, count + 1, dtype=torch.float64).round().long()
    return Steps(tuple(levels.tolist()), eta, guidance, sampler)


@dataclass(frozen=True)
class Trajectories:
    """Pictures with the way to them.

    Attributes:
        latents: [n, T+1, *shape] from the initial noise x_T (place 0) to the latent of the picture (place T).
        logps: [n, T] log-density of every step in nats, summed over dimensions, under the model that drew it.
        steps: how they were drawn.
    """

    latents: Tensor
    logps: Tensor
    steps: Steps


def _ancestral(x: Tensor, x0: Tensor, place: Tensor, steps: Steps, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return (mean, sd) of the step above, in any schedule."""
    here, there = _ends(place, steps)
    (alpha, sigma), (alpha_s, sigma_s) = schedule.at(here, x), schedule.at(there, x)
    fresh = (sigma**2 - (alpha / alpha_s * sigma_s) ** 2).clamp(min=0).sqrt()
    sd = steps.eta * sigma_s / sigma * fresh
    mean = alpha_s * x0 + (sigma_s**2 - sd**2).clamp(min=0).sqrt() * (x - alpha * x0) / sigma
    least = steps.eta * max(LAST, float(schedule.sigmas[1]))
    return mean, torch.where(sigma_s == 0, least, sd)


def _flow_sde(x: Tensor, x0: Tensor, place: Tensor, steps: Steps, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return (mean, sd) of Flow-GRPO's Euler step, with a = η√2.

    dx = v dt keeps densities p_t; so does dx = [v − ½ g² ∇log p_t] dt + g dw run backwards, for any g, since the terms
    with g cancel in the Fokker-Planck equation. ∇log p_t = −ε̂/t. With g² = a² t/(1 − t):
    mean = x − Δ (v + a²/(2(1 − t)) ε̂), sd = g √Δ. From t = 1, where g is infinite, 1 − t is that of the step's end.
    """
    here, there = _ends(place, steps)
    (_, sigma), (_, sigma_s) = schedule.at(here, x), schedule.at(there, x)
    noise = (x - (1 - sigma) * x0) / sigma
    diffusion = 2 * steps.eta**2 * sigma / (1 - torch.where(sigma == 1, sigma_s, sigma))
    step = sigma - sigma_s
    mean = x - step * (noise - x0 + diffusion / (2 * sigma) * noise)
    return mean, (diffusion * step).sqrt()


@dataclass(frozen=True)
class Sampler:
    """A way to draw.

    Attributes:
        distribution: (x_t, x̂_0, place, steps, schedule) → (mean, sd) of the step.
        kinds: of schedules that it is for.
    """

    distribution: Callable[[Tensor, Tensor, Tensor, Steps, Schedule], tuple[Tensor, Tensor]]
    kinds: tuple[str, ...]


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(_ancestral, ("variance_preserving", "flow")),
    "flow_sde": Sampler(_flow_sde, ("flow",)),
}


def check_sampler(model: ImageModel, sampler: str) -> None:
    """Refuse a sampler that is not for the schedule of a model.

    Raises:
        UserError: names the sampler that is.
    """
    kinds = SAMPLERS[sampler].kinds
    if model.schedule.kind not in kinds:
        kind = model.schedule.kind.replace("_", " ")
        raise UserError(
            f"The sampler {sampler!r} is for {' and '.join(kinds)} schedules; that of {model.name} is {kind}.",
            "Take the sampler 'ancestral', which is for all.",
        )


def _ends(place: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(steps.levels)
    return levels[place], levels[place + 1]


def step_distribution(
    model: ImageModel, noisy: Tensor, places: Tensor | int, conditioning: Conditioning, steps: Steps
) -> tuple[Tensor, Tensor]:
    """Return the mean [n, *shape] and the sd [n, 1, …] of the Gaussian that the next latent is drawn from.

    Args:
        model: the policy.
        noisy: [n, *shape] the latents before the step.
        places: [n] which step, 0 for the one from the initial noise; or one for all.
        conditioning: of n prompts.
        steps: how pictures are drawn.

    Raises:
        UserError: the sampler is not for this model's schedule.
    """
    schedule = model.schedule
    check_sampler(model, steps.sampler)
    if steps.levels[0] > schedule.levels:
        raise UserError(f"Level {steps.levels[0]}: {model.name} has levels up to {schedule.levels}.", "")
    place = torch.as_tensor(places).expand(len(noisy)).cpu()
    noisy = noisy if noisy.dtype == torch.float64 else noisy.float()
    x0 = model.predict(noisy, _ends(place, steps)[0].to(noisy.device), conditioning, steps.guidance)
    if schedule.clip is not None:
        x0 = x0.clamp(-schedule.clip, schedule.clip)
    mean, sd = SAMPLERS[steps.sampler].distribution(noisy, x0, place, steps, schedule)
    return mean, sd


def gaussian_logps(values: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Return [n] log N(value; mean, sd² I) in nats, summed over the dimensions of [n, *shape]."""
    errors = (((values - mean) / sd) ** 2).flatten(1).sum(1)
    dimensions = values[0].numel()
    return -0.5 * errors - dimensions * (sd.flatten(1)[:, 0].log() + 0.5 * math.log(2 * math.pi))


def initial_noise(model: ImageModel, seeds: Sequence[int]) -> Tensor:
    """Return [n, *shape] standard normal x_T, one seed a picture, the same on every device."""
    return torch.stack([torch.randn(model.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def draw(
    model: ImageModel,
    conditioning: Conditioning,
    noise: Tensor | Sequence[int],
    steps: Steps,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    say: Say = silent,
) -> Trajectories:
    """Return a trajectory for each prompt.

    Args:
        model: the policy.
        conditioning: of n prompts.
        noise: [n, *shape] the initial noise, or n seeds of it.
        steps: how to draw.
        generator: on the CPU, of the noise of the steps; or one a picture, which then does not depend on its batch.
        say: told when the guidance is not that of the model's training.

    Raises:
        UserError: a latent is not finite.
    """
    if model.guidance is not None and model.guidance != steps.guidance:
        say(
            f"{model.name} was trained with guidance {model.guidance:g} and draws with {steps.guidance:g}: "
            "the guided network is the policy, so this is another one."
        )
    x = (noise if isinstance(noise, Tensor) else initial_noise(model, noise)).to(model.device)
    x = x if x.dtype == torch.float64 else x.float()
    latents, logps = [x], []
    for place in range(steps.count):
        mean, sd = step_distribution(model, x, place, conditioning, steps)
        x = mean + sd * _normal(mean, generator)
        _check_finite(x, place, steps, model.name)
        latents.append(x)
        logps.append(gaussian_logps(x, mean, sd))
    return Trajectories(torch.stack(latents, 1), torch.stack(logps, 1), steps)


def _normal(like: Tensor, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    return torch.stack([torch.randn(like.shape[1:], generator=own, dtype=like.dtype) for own in generator]).to(like)


def _check_finite(latents: Tensor, place: int, steps: Steps, name: str) -> None:
    bad = (~latents.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        level, below = steps.levels[place : place + 2]
        raise UserError(
            f"{name}: picture {bad[0] + 1} of {len(latents)} is not finite after step {place + 1} of {steps.count} "
            f"(noise level {level} to {below}).",
            "Compute in float32 or bfloat16, or lower the guidance; weights of a training that diverged draw nothing.",
        )


def step_logps(
    model: ImageModel, trajectories: Trajectories, conditioning: Conditioning, places: Sequence[int] | None = None
) -> Tensor:
    """Return [n, T] log-density of every step in nats, summed over dimensions, with gradient.

    Args:
        model: the policy or the reference.
        trajectories: n of them, drawn by whichever model.
        conditioning: of n prompts.
        places: only these steps, [n, len(places)]; None for all. All are computed in one forward.

    Raises:
        UserError: a latent is not finite.
    """
    steps = trajectories.steps
    latents = trajectories.latents.to(model.device)
    for place in range(steps.count + 1):
        _check_finite(latents[:, place], max(place - 1, 0), steps, "A stored trajectory")
    wanted = torch.tensor(list(range(steps.count) if places is None else places), device=latents.device)
    before, after = (latents[:, wanted + shift].flatten(0, 1) for shift in (0, 1))
    rows = torch.arange(len(latents)).repeat_interleave(len(wanted))
    mean, sd = step_distribution(model, before, wanted.repeat(len(latents)), conditioning.select(rows), steps)
    return gaussian_logps(after.to(mean), mean, sd).view(len(latents), len(wanted))
