"""An image model: a denoiser with its schedule, and what turns prompts and pictures into tensors.

Whatever a model is made of (a tiny network of our own, a diffusers pipeline), samplers, errors and training see this
record. Predictions are made in float32 at least, whatever the type of the weights.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from tokenq.diffusion.schedule import Schedule
from tokenq.errors import UserError
from tokenq.files import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

Say = Callable[[str], None]

SETTINGS = "tokenq.json"
"""Beside `model_index.json`: what a model was trained with and diffusers does not ask."""


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told of n prompts.

    Attributes:
        columns: by name, [n, ...] a row for each prompt.
        empty: the same of the empty prompt, [1, ...] each; for guidance.
    """

    columns: Mapping[str, Tensor]
    empty: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Return n."""
        return len(next(iter(self.columns.values())))

    def select(self, index: Tensor) -> "Conditioning":
        """Return the rows at `index` [m], which may repeat: one prompt encoded once serves all of its pictures."""
        return replace(self, columns={name: rows[index.to(rows.device)] for name, rows in self.columns.items()})

    def without(self, dropped: Tensor) -> "Conditioning":
        """Return the rows with the empty prompt where `dropped` [n] is True."""
        columns = {}
        for name, rows in self.columns.items():
            mask = dropped.to(rows.device).view(-1, *(1 for _ in rows.shape[1:]))
            columns[name] = torch.where(mask, self.empty[name].to(rows), rows)
        return replace(self, columns=columns)


class Parts(Protocol):
    """What stands around a denoiser."""

    @property
    def text_network(self) -> nn.Module | None:
        """What encodes prompts and may be trained beside the denoiser; None where the denoiser has it in itself."""
        ...

    def encode(self, prompts: Sequence[str], say: Say) -> Mapping[str, Tensor]:
        """Return what the denoiser is told of the prompts, by name, [n, ...] each."""
        ...

    def output(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Return what the network says at x_l, [n, *shape], in whatever type it computes."""
        ...

    def latents_of(self, pictures: "Sequence[Image]") -> Tensor:
        """Return [n, *shape] of pictures."""
        ...

    def pictures_of(self, latents: Tensor) -> "list[Image]":
        """Return the pictures of latents [n, *shape]."""
        ...

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write a folder that `open_image_model` (and, of a pipeline, diffusers) opens."""
        ...


def silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class ImageModel:
    """A denoiser and what belongs to it.

    Attributes:
        name: for messages and records.
        denoiser: the network that is trained.
        schedule: its noise schedule and what it predicts.
        shape: of a latent, such as (3, 8, 8).
        parts: what turns prompts and pictures into tensors and back.
        guidance: the scale at which it was trained on its own trajectories; None where it was not.
        base: a context in which the denoiser is what it was before its adapter was trained.
    """

    name: str
    denoiser: nn.Module
    schedule: Schedule
    shape: tuple[int, ...]
    parts: Parts
    guidance: float | None = None
    base: Callable[[], AbstractContextManager[object]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def dimensions(self) -> int:
        """Numbers in a latent: the dimensions that densities are summed over."""
        return math.prod(self.shape)

    def encode(self, prompts: Sequence[str], say: Say = silent, *, gradient: bool = False) -> Conditioning:
        """Return what the denoiser is told of prompts; each different prompt is encoded once.

        Args:
            prompts: [n] texts.
            say: told of what is cut, where a prompt is longer than the text encoder reads.
            gradient: whether the text encoder is trained.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(["", *prompts]))}
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            rows = self.parts.encode(list(places), say)
        index = torch.tensor([places[text] for text in prompts], dtype=torch.long)
        return Conditioning(rows, {name: values[:1] for name, values in rows.items()}).select(index)

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning, guidance: float = 1.0) -> Tensor:
        """Return x̂_0 [n, *shape] at x_l, in float32 at least.

        With guidance w the output is empty + w (prompt − empty) (Ho and Salimans 2207.12598, in diffusers' scale, where
        1 is none): the guided network is the policy.

        Args:
            noisy: [n, *shape] x_l.
            levels: [n] l ≥ 1.
            conditioning: of n prompts.
            guidance: the scale w.
        """
        noisy = noisy if noisy.dtype == torch.float64 else noisy.float()
        if guidance == 1:
            output = self.parts.output(self.denoiser, noisy, levels, conditioning.columns)
        else:
            none = {name: row.expand(len(noisy), *row.shape[1:]) for name, row in conditioning.empty.items()}
            both = {name: torch.cat([none[name].to(rows), rows]) for name, rows in conditioning.columns.items()}
            said = self.parts.output(self.denoiser, torch.cat([noisy] * 2), torch.cat([levels] * 2), both)
            empty, prompted = said.to(noisy.dtype).chunk(2)
            output = empty + guidance * (prompted - empty)
        return self.schedule.to_x0(output.to(noisy.dtype), noisy, levels)

    def latents_of(self, pictures: "Sequence[Image]") -> Tensor:
        """Return [n, *shape] of pictures.

        Raises:
            UserError: a picture has another size than the model draws.
        """
        latents = self.parts.latents_of(pictures)
        if tuple(latents.shape[1:]) != self.shape:
            raise UserError(
                f"{self.name} has latents of {self.shape}; these pictures give {tuple(latents.shape[1:])}.",
                "Resize the pictures to what the model draws.",
            )
        return latents

    def pictures_of(self, latents: Tensor) -> "list[Image]":
        """Return the pictures of latents [n, *shape]."""
        return self.parts.pictures_of(latents)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `open_image_model` opens, and diffusers where this is a pipeline; a LoRA is merged."""
        self.parts.save(self.denoiser, Path(folder))
        if self.guidance is not None:
            write_json(Path(folder) / SETTINGS, {"guidance": self.guidance})


def reference_of(model: ImageModel) -> ImageModel:
    """Return the model as it is now, which training will not move: the base with the adapter off, or a frozen copy.

    Predictions of the base with the adapter off go through the same weights, so nothing is held twice.
    """
    if model.base is None:
        frozen = copy.deepcopy(model.denoiser).requires_grad_(False).eval()
        return replace(model, denoiser=frozen)
    return replace(model, parts=_Base(model.parts, model.base))


@dataclass(frozen=True)
class _Base:
    """The parts of a model whose denoiser is asked with its adapter off.

    Attributes:
        parts: those of the model.
        base: the context in which the adapter is off.
    """

    parts: Parts
    base: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def text_network(self) -> nn.Module | None:
        return self.parts.text_network

    def encode(self, prompts: Sequence[str], say: Say) -> Mapping[str, Tensor]:
        return self.parts.encode(prompts, say)

    def output(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        with self.base(), torch.no_grad():
            return self.parts.output(denoiser, noisy, levels, columns)

    def latents_of(self, pictures: "Sequence[Image]") -> Tensor:
        return self.parts.latents_of(pictures)

    def pictures_of(self, latents: Tensor) -> "list[Image]":
        return self.parts.pictures_of(latents)

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        with self.base():
            self.parts.save(denoiser, folder)
