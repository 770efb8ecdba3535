"""How the denoisers of diffusers are asked: a row for each class, with the parts that it needs and what it is told.

Whatever a pipeline computes of a prompt comes from its own `encode_prompt`; only the call of the network stands here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenq.errors import UserError

Call = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Any]


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
    """

    denoiser: str
    part: str
    needs: tuple[str, ...]
    call: Call
    asked: Mapping[str, Any]
    told: Mapping[str, int]
    limit: int = 0
    sized: bool = False


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


ARCHITECTURES = (
    Architecture("UNet2DModel", "unet", (), _unconditional, {}, {}),
    Architecture(
        "UNet2DConditionModel",
        "unet",
        ("vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
        _with_size,
        {},
        {"states": 0, "pooled": 2},
        sized=True,
    ),
    Architecture(
        "UNet2DConditionModel", "unet", ("vae", "tokenizer", "text_encoder"), _cross_attended, {}, {"states": 0}
    ),
    Architecture("UNet2DConditionModel", "unet", ("tokenizer", "text_encoder"), _cross_attended, {}, {"states": 0}),
    Architecture(
        "SD3Transformer2DModel",
        "transformer",
        ("vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
        _joint,
        {"prompt_2": None, "prompt_3": None},
        {"states": 0, "pooled": 2},
        limit=256,
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
    rows = [row for row in ARCHITECTURES if classes.get(row.part) == row.denoiser]
    if not rows:
        known = ", ".join(dict.fromkeys(row.denoiser for row in ARCHITECTURES))
        found = ", ".join(str(classes[part]) for part in ("unet", "transformer", "prior") if classes.get(part))
        raise UserError(
            f"{folder}: a {index.get('_class_name')} with the denoiser {found or 'of no known name'} is not supported.",
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
