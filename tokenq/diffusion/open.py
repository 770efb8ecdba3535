"""Open an image model by its folder: a diffusers pipeline, or a tiny model of our own."""

from dataclasses import replace
from pathlib import Path

import torch

from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.tiny import CLASS, open_tiny
from tokenq.errors import UserError
from tokenq.files import read_json

INDEX = "model_index.json"


def is_image_model(folder: str | Path) -> bool:
    """Return whether a folder holds an image model: it has a `model_index.json`."""
    return (Path(folder).expanduser() / INDEX).is_file()


def open_image_model(
    folder: str | Path,
    *,
    reference: bool = False,
    lora_rank: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageModel:
    """Return the image model of a folder.

    Args:
        folder: of a diffusers pipeline or a tiny model.
        reference: whether it is only read: no weight has a gradient.
        lora_rank: rank of a fresh LoRA on the denoiser, whose weights alone are trained; 0 for all weights.
        device: where to compute.
        dtype: of the weights; predictions and densities are in float32 whatever it is.

    Raises:
        UserError: there is no image model, or parts of it are missing or not supported.
    """
    path = Path(folder).expanduser()
    if not is_image_model(path):
        raise UserError(f"{folder} is no image model: it has no {INDEX}.", "Give the folder of a diffusers pipeline.")
    if read_json(path / INDEX).get("_class_name") != CLASS:
        raise UserError(f"{folder}: diffusers pipelines are not read yet.", "")
    model = open_tiny(path)
    model.denoiser.to(device, dtype).requires_grad_(not reference)
    return replace(model, name=str(folder))
