"""A denoiser that trains in a minute on one core: an MLP on 8×8 pictures that predicts them and knows a few words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tokenq.diffusion.model import ImageModel, Say
from tokenq.diffusion.schedule import schedule_of
from tokenq.errors import UserError
from tokenq.files import folder_aside, read_json, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

CLASS = "TokenqTinyImageModel"
"""What `model_index.json` of a tiny model names in the place of a pipeline."""

SCHEDULE: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "num_train_timesteps": 100,
    "prediction_type": "sample",
}
"""A hundred levels of the cosine schedule; the network predicts x_0, which small denoisers learn far better than ε."""

_WEIGHTS = "model.safetensors"
_CONFIG = "model_index.json"


class TinyDenoiser(nn.Module):
    """An MLP on a flat picture, the mean embedding of the prompt's words and the noise level; about 330k weights.

    Args:
        words: how many words have an embedding.
        levels: L of the schedule.
        shape: of a picture.
        width: of the hidden layers.
        embedding: numbers of a word and of a level.
    """

    def __init__(
        self, words: int, levels: int, shape: tuple[int, ...] = (3, 8, 8), width: int = 296, embedding: int = 64
    ) -> None:
        super().__init__()
        size = math.prod(shape)
        self.embedding = nn.Parameter(torch.randn(words, embedding))
        self.register_buffer("waves", _waves(levels, embedding), persistent=False)
        self.entrance = nn.Linear(size + 2 * embedding, width)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.exit = nn.Linear(width, size)

    def forward(self, noisy: Tensor, levels: Tensor, bags: Tensor) -> Tensor:
        """Return x̂_0 [n, *shape].

        Args:
            noisy: [n, *shape] x_l.
            levels: [n] l.
            bags: [n, words] the share of each word in the prompt.
        """
        waves: Tensor = self.get_buffer("waves")[levels]
        state = torch.cat([noisy.flatten(1), bags @ self.embedding, waves.to(noisy)], 1)
        state = functional.silu(self.entrance(state))
        for layer in self.middle:
            state = state + functional.silu(layer(state))
        picture: Tensor = self.exit(state)
        return picture.view_as(noisy)


def _waves(levels: int, size: int) -> Tensor:
    """Return [L+1, size] sines and cosines of the levels, from one wave over all of them to one every few."""
    rates = math.pi * torch.logspace(0, math.log10(levels / 4), size // 2)
    phases = torch.arange(levels + 1)[:, None] / levels * rates
    return torch.cat([phases.sin(), phases.cos()], 1)


@dataclass(frozen=True)
class TinyParts:
    """What stands around a `TinyDenoiser`.

    Attributes:
        words: the words that have an embedding, by place; the first, "", stands for every other.
        shape: (3, height, width) of a picture.
    """

    words: Mapping[str, int]
    shape: tuple[int, ...]

    @property
    def text_network(self) -> None:
        """None: the embedding of words is the denoiser's own."""

    def encode(self, prompts: Sequence[str], say: Say) -> Mapping[str, Tensor]:
        """Return `bags` [n, words]: the share of each word; all 0 for an empty prompt."""
        bags = torch.zeros(len(prompts), len(self.words))
        for row, prompt in zip(bags, prompts, strict=True):
            found = prompt.lower().split()
            for word in found:
                row[self.words.get(word, 0)] += 1 / len(found)
        return {"bags": bags}

    def output(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Return x̂_0, computed in the type of the weights."""
        weight = next(denoiser.parameters())
        inputs = noisy.to(weight), levels.to(weight.device), columns["bags"].to(weight)
        output: Tensor = denoiser(*inputs)
        return output

    def latents_of(self, pictures: "Sequence[Image]") -> Tensor:
        """Return [n, 3, height, width] in −1..1; the pictures are their own latents."""
        return pixels_of(pictures)

    def pictures_of(self, latents: Tensor) -> "list[Image]":
        """Return the pictures of latents."""
        return pictures_of(latents)

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write the folder, whole or not at all."""
        with folder_aside(folder) as aside:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
            save_file(weights, aside / _WEIGHTS)
            config = {"_class_name": CLASS, "words": list(self.words)[1:], "shape": self.shape, "scheduler": SCHEDULE}
            write_json(aside / _CONFIG, config)


def pixels_of(pictures: "Sequence[Image]") -> Tensor:
    """Return [n, 3, height, width] in −1..1 of pictures of one size.

    Raises:
        UserError: the pictures differ in size.
    """
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        said = ", ".join(f"{width}×{height}" for width, height in sorted(sizes))
        raise UserError(f"Pictures of one batch differ in size: {said}.", "Resize them to what the model draws.")
    values = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def pictures_of(latents: Tensor) -> "list[Image]":
    """Return pictures of [n, 3, height, width] in −1..1; what lies outside is clamped."""
    from PIL import Image

    values = ((latents.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(value) for value in values]


def tiny_image_model(words: Sequence[str], seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> ImageModel:
    """Return a tiny model with random weights that knows these words.

    Args:
        words: those of prompts, in any order; all others share one embedding.
        seed: of the weights.
        shape: (3, height, width) of a picture.
    """
    schedule = schedule_of(SCHEDULE)
    places = {word: place for place, word in enumerate(["", *sorted({word.lower() for word in words})])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = TinyDenoiser(len(places), schedule.levels, shape)
    return ImageModel("tiny", denoiser, schedule, shape, TinyParts(places, shape))


def open_tiny(folder: Path) -> ImageModel:
    """Return the tiny model of a folder, on the CPU.

    Raises:
        UserError: its files do not go together.
    """
    config = read_json(folder / _CONFIG)
    model = tiny_image_model(config["words"], shape=tuple(config["shape"]))
    try:
        model.denoiser.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder / _WEIGHTS} cannot be read: {error}.", "Save the model again.") from error
    return ImageModel(str(folder), model.denoiser, model.schedule, model.shape, model.parts)
