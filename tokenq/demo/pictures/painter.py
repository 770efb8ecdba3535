"""The image model: a tiny denoiser that learns from captions which are wrong often enough."""

import torch
from torch import Tensor

from tokenq.demo.pictures.refiner import prompt_texts
from tokenq.demo.pictures.world import CANONICAL, SHAPE, VALUES, pictures_of
from tokenq.diffusion.model import Conditioning, ImageModel
from tokenq.diffusion.sampling import Steps, draw, spaced_steps
from tokenq.diffusion.schedule import Schedule
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.listener import Progress, silent

PART = "image"
"""The name of the segment of denoising steps."""

MISTAKEN = 0.09
"""How often a word of a caption names another value than the picture has."""

GRAIN = 0.05
"""Standard deviation of the noise of every pixel of a picture."""

DRAWING_STEPS = 6


def told(model: ImageModel, values: Tensor) -> Conditioning:
    """Return what the denoiser is told of refined prompts [n, 3]."""
    return model.encode(prompt_texts(values))


def drawing_steps(model: ImageModel) -> Steps:
    """Return how pictures are drawn: few steps, as in DDPM."""
    return spaced_steps(model.schedule, DRAWING_STEPS)


def paint(model: ImageModel, values: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Return [n, T+1, 3, 8, 8] the latents of pictures of prompts, from their initial noise to the picture.

    Args:
        model: the image model.
        values: [n, 3] what the prompts say.
        noise: [n, 3, 8, 8] where to begin.
        generator: of the noise of the steps.
    """
    return draw(model, told(model, values), noise, drawing_steps(model), generator).latents


def denoising_loss(model: ImageModel, pictures: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of x̂_0 at noise levels drawn uniformly, weighed by α²/σ² within bounds: SFT.

    Args:
        model: the image model.
        pictures: [n, 3, 8, 8].
        values: [n, 3] what their captions say.
        generator: of levels and noise.
    """
    levels = torch.randint(1, model.schedule.levels + 1, (len(pictures),), generator=generator)
    noise = torch.randn(pictures.shape, generator=generator)
    noisy = model.schedule.noised(pictures, levels, noise)
    errors = (model.predict(noisy, levels, told(model, values)) - pictures) ** 2
    return (_weights(model.schedule)[levels].to(errors) * errors.flatten(1).mean(1)).mean()


def _weights(schedule: Schedule) -> Tensor:
    """Return [L+1] min(max(α²/σ², 0.3), 5): what an error of ε would count, bounded (Min-SNR, 2303.09556)."""
    return schedule.log_snr.exp().clamp(0.3, 5.0)


def careless_painter(seed: int, steps: int, progress: Progress = silent) -> ImageModel:
    """Return an image model that has learnt from captions of which `MISTAKEN` of the words are wrong.

    Args:
        seed: of weights and examples.
        steps: of 128 pictures each.
        progress: told of every step.
    """
    model = tiny_image_model(CANONICAL, seed, SHAPE)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        values = torch.randint(VALUES, (128, 3), generator=generator)
        others = (values + torch.randint(1, VALUES, (128, 3), generator=generator)) % VALUES
        mistaken = torch.rand(128, 3, generator=generator) < MISTAKEN
        pictures = pictures_of(values) + GRAIN * torch.randn((128, *SHAPE), generator=generator)
        loss = denoising_loss(model, pictures, torch.where(mistaken, others, values), generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    return model
