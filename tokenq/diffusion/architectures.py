"""How the denoisers of diffusers are asked: a row for each class, with the parts that it needs and what it is told.

Whatever a pipeline computes of a prompt comes from its own `encode_prompt`; only the call of the network stands here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenq.errors import UserError

Call = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Any]


def _by_sample_size(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    size = config.get("sample_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(config["in_channels"]), int(height), int(width)


def _of_patches(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return int(config["in_channels"]) // _PATCH**2, *_FLUX_SIZE


_PATCH = 2
"""Side of the patches of a latent that FLUX takes for a token."""

_FLUX_SIZE = (128, 128)
"""Latents of FLUX, which says nowhere at which size it was trained: 1024 × 1024 pixels, as its pipeline draws."""


@dataclass(frozen=True)
class Architecture:
    """A class of denoisers.

    Attributes:
        denoiser: its class in diffusers.
        part: what a pipeline calls it.
        needs: the other parts of the pipeline that must be there.
        call: (denoiser, x, times, columns) → its answer, whose first entry is the output.
        asked: keywords of `encode_prompt` beside the prompt.
        told: by name, the place in the answer of `encode_prompt` of what the denoiser is told.
        limit: tokens that text encoders without a limit of their own are given.
        sized: whether it is told the size of the picture, as `sizes`: height, width, crop, height, width.
        latent: gives the shape of a latent by the denoiser's configuration; None where that does not say it.
        pipeline: class of the pipeline, where it alone tells rows apart.
    """

    denoiser: str
    part: str
    needs: tuple[str, ...]
    call: Call
    asked: Mapping[str, Any]
    told: Mapping[str, int]
    limit: int = 0
    sized: bool = False
    latent: Callable[[Mapping[str, Any]], tuple[int, int, int] | None] = _by_sample_size
    pipeline: str = ""


def _unconditional(denoiser: nn.Module, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    return denoiser(x, times, return_dict=False)


def _cross_attended(denoiser: nn.Module, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    return denoiser(x, times, encoder_hidden_states=columns["states"], return_dict=False)


def _with_size(denoiser: nn.Module, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    added = {"text_embeds": columns["pooled"], "time_ids": columns["sizes"]}
    return denoiser(x, times, encoder_hidden_states=columns["states"], added_cond_kwargs=added, return_dict=False)


def _joint(denoiser: nn.Module, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    told = {"encoder_hidden_states": columns["states"], "pooled_projections": columns["pooled"]}
    return denoiser(hidden_states=x, timestep=times, **told, return_dict=False)


def _captioned(denoiser: nn.Module, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    sizes = columns["sizes"]
    added = {"resolution": sizes[:, :2], "aspect_ratio": sizes[:, :1] / sizes[:, 1:2]}
    told = {"encoder_hidden_states": columns["states"], "encoder_attention_mask": columns["mask"]}
    return denoiser(x, timestep=times, added_cond_kwargs=added, **told, return_dict=False)


def _in_patches(denoiser: Any, x: Tensor, times: Tensor, columns: Mapping[str, Tensor]) -> Any:
    """Ask FLUX, which sees a latent as a row of patches, each with its place, and is told a guidance to imitate."""
    batch, channels, height, width = x.shape
    down, across = height // _PATCH, width // _PATCH
    cells = x.view(batch, channels, down, _PATCH, across, _PATCH).permute(0, 2, 4, 1, 3, 5)
    states = columns["states"]
    rows, places = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
    answer = denoiser(
        hidden_states=cells.reshape(batch, down * across, -1),
        timestep=times / 1000,
        guidance=times.new_full((batch,), _IMITATED) if denoiser.config.guidance_embeds else None,
        encoder_hidden_states=states,
        pooled_projections=columns["pooled"],
        txt_ids=states.new_zeros(states.shape[1], 3),
        img_ids=torch.stack([torch.zeros_like(rows), rows, places], -1).view(-1, 3).to(states),
        return_dict=False,
    )[0]
    back = answer.view(batch, down, across, channels, _PATCH, _PATCH).permute(0, 3, 1, 4, 2, 5)
    return (back.reshape(x.shape),)


_IMITATED = 3.5
"""Guidance that FLUX.1-dev is told to imitate, as its pipeline has it; FLUX.1-schnell is told none."""

_ENCODED = ("vae", "tokenizer", "text_encoder")
_PLAIN: Mapping[str, Any] = {"do_classifier_free_guidance": False}

ARCHITECTURES = (
    Architecture("UNet2DModel", "unet", (), _unconditional, {}, {}),
    Architecture(
        "UNet2DConditionModel",
        "unet",
        (*_ENCODED, "tokenizer_2", "text_encoder_2"),
        _with_size,
        _PLAIN,
        {"states": 0, "pooled": 2},
        sized=True,
    ),
    Architecture("UNet2DConditionModel", "unet", _ENCODED, _cross_attended, _PLAIN, {"states": 0}),
    Architecture("UNet2DConditionModel", "unet", _ENCODED[1:], _cross_attended, _PLAIN, {"states": 0}),
    Architecture(
        "SD3Transformer2DModel",
        "transformer",
        (*_ENCODED, "tokenizer_2", "text_encoder_2"),
        _joint,
        {**_PLAIN, "prompt_2": None, "prompt_3": None},
        {"states": 0, "pooled": 2},
        limit=256,
    ),
    *(
        Architecture(
            "PixArtTransformer2DModel",
            "transformer",
            _ENCODED,
            _captioned,
            _PLAIN,
            {"states": 0, "mask": 1},
            limit=limit,
            sized=True,
            pipeline=pipeline,
        )
        for pipeline, limit in (("PixArtAlphaPipeline", 120), ("PixArtSigmaPipeline", 300))
    ),
    Architecture(
        "FluxTransformer2DModel",
        "transformer",
        (*_ENCODED, "tokenizer_2", "text_encoder_2"),
        _in_patches,
        {},
        {"states": 0, "pooled": 1},
        limit=512,
        latent=_of_patches,
    ),
)
"""Of rows with the same denoiser the first whose parts the pipeline names is taken."""


def architecture_of(folder: str, index: Mapping[str, Any]) -> Architecture:
    """Return the row of a pipeline.

    Args:
        folder: for messages.
        index: its `model_index.json`.

    Raises:
        UserError: no row has its denoiser, or the pipeline lacks a part.
    """
    classes = {part: named[1] for part, named in index.items() if isinstance(named, list) and len(named) == 2}
    rows = [
        row
        for row in ARCHITECTURES
        if classes.get(row.part) == row.denoiser and row.pipeline in ("", index.get("_class_name"))
    ]
    if not rows:
        known = ", ".join(dict.fromkeys(row.denoiser for row in ARCHITECTURES))
        named = {part: name for part, name in classes.items() if name and part in ("unet", "transformer", "prior")}
        found = ", ".join(map(str, named.values())) or "none under a known name"
        raise UserError(
            f"{folder}: a {index.get('_class_name')} with the denoiser {found} is not supported.",
            f"Denoisers that are: {known}.",
        )
    here = {part for part, name in classes.items() if name is not None}
    fitting = [row for row in rows if here.issuperset(row.needs)]
    if not fitting:
        missing = min(([part for part in row.needs if part not in here] for row in rows), key=len)
        raise UserError(
            f"{folder}: the pipeline has no {' and no '.join(missing)} in its model_index.json.",
            f"A {rows[0].denoiser} needs {', '.join(rows[-1].needs)}; download the whole pipeline.",
        )
    return fitting[0]
