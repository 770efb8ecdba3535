"""Open an image model by its folder: a diffusers pipeline, or a tiny model of our own."""

from dataclasses import replace
from pathlib import Path

import torch

from tokenq.diffusion.model import SETTINGS, ImageModel
from tokenq.diffusion.tiny import CLASS, open_tiny
from tokenq.errors import UserError
from tokenq.files import read_json

INDEX = "model_index.json"


def is_image_model(folder: str | Path) -> bool:
    """Return whether a folder holds an image model: it has a `model_index.json`."""
    return (Path(folder).expanduser() / INDEX).is_file()


def where_an_image_model_is(folder: str | Path) -> str:
    """Return a hint for a folder that is no image model: the one in it that is, if there is one."""
    inner = sorted(place.parent for place in Path(folder).expanduser().glob(f"*/{INDEX}"))
    return f"Did you mean {inner[0]}?" if inner else f"Give the folder of a diffusers pipeline, with its {INDEX}."


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
        raise UserError(f"{folder} is no image model: it has no {INDEX}.", where_an_image_model_is(folder))
    if read_json(path / INDEX, "Download the pipeline again.").get("_class_name") != CLASS:
        from tokenq.diffusion.pipelines import open_pipeline

        model = open_pipeline(path, lora_rank=lora_rank, device=device, dtype=dtype)
    elif lora_rank:
        raise UserError(f"{folder}: a tiny model has no attention to put a LoRA on.", "Train it whole.")
    else:
        model = open_tiny(path)
        model.denoiser.to(device, dtype)
    if reference:
        model.denoiser.requires_grad_(False)
    return replace(model, name=str(folder), guidance=_guidance(path))


def _guidance(folder: Path) -> float | None:
    """Return the guidance that a model was trained with, where its folder says so."""
    beside = folder / SETTINGS
    return read_json(beside).get("guidance") if beside.is_file() else None
