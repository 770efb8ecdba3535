"""Does credit fall on the word, and on the pixels, that made a picture wrong? Against what the program says.

Pictures by the reference are read: it wrote and drew them, and nobody told the models which part was wrong. The credit
of a word is log π/π_ref; that of a pixel is its part of the log-ratio of all denoising steps (Gaussians of equal sd):

    c_ij = −Σ_t Σ_channels ((x_{t−1} − μ)² − (x_{t−1} − μ_ref)²)_ij / 2 sd_t².
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenq.demo.pictures.learning import Pipeline, Strengths
from tokenq.demo.pictures.painter import drawing_steps, paint, told
from tokenq.demo.pictures.world import SHAPE, Vocabulary, drawn, wrong_pixels
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.sampling import step_distribution
from tokenq.stats.areas import pooled_areas
from tokenq.stats.bootstrap import Estimate, intervals


class Drawings(NamedTuple):
    """Pictures by the reference.

    Attributes:
        requests: [n, 3] words by number.
        prompts: [n, 3] values that the refined prompts say.
        latents: [n, T+1, 3, 8, 8] the ways to the pictures.
    """

    requests: Tensor
    prompts: Tensor
    latents: Tensor


def reference_drawings(reference: Pipeline, requests: Tensor, seed: int) -> Drawings:
    """Have the reference refine and draw requests, and return its drawings."""
    generator = torch.Generator().manual_seed(seed)
    prompts = reference.refiner.write(requests, generator)
    noise = torch.randn((len(requests), *SHAPE), generator=generator)
    return Drawings(requests, prompts, paint(reference.painter, prompts, noise, generator))


def word_credit(pipeline: Pipeline, reference: Pipeline, drawings: Drawings) -> Tensor:
    """Return [n, 3] log π/π_ref of the words of the prompts, in nats."""
    with torch.no_grad():
        policy, base = (one.refiner.logps(drawings.requests, drawings.prompts) for one in (pipeline, reference))
    return policy - base


def pixel_credit(model: ImageModel, reference: ImageModel, drawings: Drawings) -> Tensor:
    """Return [n, T, 8, 8] the part of each pixel in the log-ratio of each step, in nats: they sum to it."""
    return pixel_errors(reference, drawings) - pixel_errors(model, drawings)


def pixel_errors(model: ImageModel, drawings: Drawings) -> Tensor:
    """Return [n, T, 8, 8] (x_{t−1} − μ)² / 2 sd² summed over channels: the denoising error of each step."""
    conditioning, steps = told(model, drawings.prompts), drawing_steps(model)
    found = []
    for place in range(steps.count):
        before, after = drawings.latents[:, place], drawings.latents[:, place + 1]
        with torch.no_grad():
            mean, sd = step_distribution(model, before, place, conditioning, steps)
        found.append(((after - mean) ** 2 / (2 * sd**2)).sum(1))
    return torch.stack(found, 1)


def word_sensitivity(model: ImageModel, drawings: Drawings) -> Tensor:
    """Return [n, 8, 8] how much x̂_0 moves when the first step is not told the prompt: a baseline without labels.

    The difference of predictions with and without words, squared and summed over channels, stands for attention, which
    an MLP has not.
    """
    noisy, level = drawings.latents[:, 0], drawing_steps(model).levels[0]
    conditioning, levels = told(model, drawings.prompts), torch.full((len(drawings.prompts),), level)
    with torch.no_grad():
        dropped = conditioning.without(torch.ones(len(levels), dtype=torch.bool))
        said, silent = (model.predict(noisy, levels, one) for one in (conditioning, dropped))
    return ((said - silent) ** 2).sum(1)


def area(scores: Tensor, wrong: Tensor) -> Estimate:
    """Return the AUROC of what is pooled of all drawings, with its interval over drawings; NaN without both classes.

    Args:
        scores: [n, ...] larger = more suspicious.
        wrong: the same shape, True where the program finds a fault.
    """
    n, size = len(scores), scores[:1].numel()
    if wrong.all() or not wrong.any():
        return Estimate(np.nan, np.nan, np.nan, n)
    owner = np.arange(n).repeat(size)
    statistic = pooled_areas(scores.flatten().double().numpy(), wrong.flatten().numpy(), owner, n)
    return intervals(statistic, n)[0]


def word_areas(
    words: Vocabulary, systems: Mapping[str, Pipeline], reference: Pipeline, drawings: Drawings
) -> dict[str, Estimate]:
    """Return by read-out how well it tells the words of prompts that are not what the labeller means."""
    wrong = drawings.prompts != words.values(drawings.requests)
    with torch.no_grad():
        surprisal = -reference.refiner.logps(drawings.requests, drawings.prompts)
    scores = {f"log π/π_ref, {name}": -word_credit(one, reference, drawings) for name, one in systems.items()}
    scores |= {"surprisal of the reference": surprisal, "position": torch.arange(3.0).expand(len(wrong), -1)}
    scores["random"] = torch.rand(wrong.shape, generator=torch.Generator().manual_seed(0))
    return {name: area(score, wrong) for name, score in scores.items()}


def pixel_areas(systems: Mapping[str, ImageModel], reference: ImageModel, drawings: Drawings) -> dict[str, Estimate]:
    """Return by read-out how well it tells wrong pixels, of pictures that are not drawn as told.

    A pixel is wrong where the template that is nearest to the picture differs from the one that was told.
    """
    off = (drawn(drawings.latents[:, -1]) != drawings.prompts).any(1)
    some = Drawings(*(values[off] for values in drawings))
    wrong = wrong_pixels(some.latents[:, -1], some.prompts)
    scores = {f"credit of pixels, {name}": -pixel_credit(one, reference, some).sum(1) for name, one in systems.items()}
    scores["denoising error of the reference"] = pixel_errors(reference, some).sum(1)
    scores["sensitivity to the prompt"] = word_sensitivity(reference, some)
    scores["position"] = _distance_from_the_middle().expand(len(wrong), -1, -1)
    scores["random"] = torch.rand(wrong.shape, generator=torch.Generator().manual_seed(0))
    return {name: area(score, wrong) for name, score in scores.items()}


def _distance_from_the_middle() -> Tensor:
    """Return [8, 8]: shapes stand in corners, so that what is wrong lies outwards."""
    place = (torch.arange(8) - 3.5).abs()
    return place[:, None] + place


def stage_area(
    words: Vocabulary, pipeline: Pipeline, reference: Pipeline, drawings: Drawings, strengths: Strengths
) -> Estimate:
    """Return how well γ Σ steps − β Σ words tells faults of the prompt from faults of the drawing.

    Of pictures with exactly one of both: the prompt says something else than the labeller means and is drawn as it
    says, or the prompt is right and is not drawn as it says.

    Args:
        words: of requests.
        pipeline: whose log-ratios are read.
        reference: what they are to.
        drawings: by the reference.
        strengths: β, and γ where steps are read.
    """
    worded = (drawings.prompts == words.values(drawings.requests)).all(1)
    as_told = (drawn(drawings.latents[:, -1]) == drawings.prompts).all(1)
    score = -(strengths.beta or 0.0) * word_credit(pipeline, reference, drawings).sum(1)
    if strengths.gamma is not None:
        score += strengths.gamma * pixel_credit(pipeline.painter, reference.painter, drawings).flatten(1).sum(1)
    one_fault = worded != as_told
    return area(score[one_fault, None], ~worded[one_fault, None])
