"""An image model of two pixels whose opinion of a picture is always the same, in three levels: ᾱ = 1, .64, .25."""

import numpy as np
import torch
from torch import nn

from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.schedule import Schedule

PRODUCTS = (1.0, 0.64, 0.25)


class Dull(nn.Module):
    """Says that every picture is the same one."""

    def __init__(self, picture):
        super().__init__()
        self.picture = nn.Parameter(torch.tensor(picture))


class NoParts:
    """Two grey pixels, no words."""

    text_network = None

    def encode(self, prompts, say):
        return {"none": torch.zeros(len(prompts), 1)}

    def output(self, denoiser, noisy, levels, columns):
        return denoiser.picture.expand_as(noisy)

    def latents_of(self, pictures):
        return torch.tensor(np.stack([np.asarray(one.convert("L"), np.float32).ravel() / 255 for one in pictures]))

    def pictures_of(self, latents):
        return [None] * len(latents)


def dull_model(picture):
    """Return the model that says this picture, [2]."""
    products = torch.tensor(PRODUCTS, dtype=torch.float64)
    schedule = Schedule(products.sqrt(), (1 - products).sqrt(), "variance_preserving", "x0")
    return ImageModel("dull", Dull(picture), schedule, (2,), NoParts())


def posterior(picture, x2):
    """Return mean and sd of x_1 given x_2: DDPM's q(x_1 | x_2, x_0) (2006.11239, eq. 6 and 7)."""
    beta = 1 - 0.25 / 0.64
    return 0.8 * beta / 0.75 * picture + np.sqrt(1 - beta) * 0.36 / 0.75 * x2, np.sqrt(0.36 / 0.75 * beta)
