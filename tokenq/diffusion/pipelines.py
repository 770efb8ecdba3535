"""Pipelines of diffusers as image models: opened from a folder, with a LoRA or without, and written back.

Only safetensors are read, and no code that comes with a model is run.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenq.diffusion.architectures import Architecture, architecture_of
from tokenq.diffusion.model import ImageModel, Say
from tokenq.diffusion.schedule import Schedule, schedule_of
from tokenq.diffusion.tiny import pictures_of, pixels_of
from tokenq.errors import UserError, reason
from tokenq.files import folder_aside, read_json

if TYPE_CHECKING:
    from PIL.Image import Image

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers of attention that a LoRA is put on."""

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class PipelineParts:
    """What stands around the denoiser of a diffusers pipeline.

    Attributes:
        pipeline: the pipeline itself.
        row: how its denoiser is asked.
        schedule: of noise.
        shape: of a latent.
    """

    pipeline: Any
    row: Architecture
    schedule: Schedule
    shape: tuple[int, ...]

    @property
    def text_network(self) -> nn.Module | None:
        """All text encoders as one module; None for a model without prompts."""
        parts = self.pipeline.components
        encoders = [
            parts[name] for name in sorted(parts) if name.startswith("text_encoder") and parts[name] is not None
        ]
        return nn.ModuleList(encoders) if encoders else None

    def encode(self, prompts: Sequence[str], say: Say) -> Mapping[str, Tensor]:
        """Return what the denoiser is told of the prompts; `say` is told how many tokens are not read."""
        device = next(getattr(self.pipeline, self.row.part).parameters()).device
        if not self.row.told:
            if any(prompts):
                say("A model without a text encoder does not read prompts.")
            return {"nothing": torch.zeros(len(prompts), 0, device=device)}
        for sentence in self._cut(prompts):
            say(sentence)
        with quiet():
            answer = self.pipeline.encode_prompt(
                prompt=list(prompts),
                device=device,
                num_images_per_prompt=1,
                **self.row.asked,
            )
        columns = {name: answer[place] for name, place in self.row.told.items()}
        if self.row.sized:
            _, height, width = (self.pipeline.vae_scale_factor * side for side in self.shape)
            sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device)
            columns["sizes"] = sizes.expand(len(prompts), 6)
        if self.pipeline.config.get("force_zeros_for_empty_prompt"):
            written = torch.tensor([bool(prompt) for prompt in prompts], device=device)
            for name in self.row.told:
                columns[name] = columns[name] * written.view(-1, *(1 for _ in columns[name].shape[1:]))
        return columns

    def _cut(self, prompts: Sequence[str]) -> list[str]:
        """Return a sentence for each prompt and tokenizer where the prompt is longer than what is read."""
        said = []
        for name, tokenizer in self.pipeline.components.items():
            if not name.startswith("tokenizer") or tokenizer is None:
                continue
            own = int(tokenizer.model_max_length)
            limit = min(own, self.row.limit) if self.row.limit and own > 77 else own
            with quiet():
                counts = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
            said += [
                f"The prompt {prompt[:40]!r}… has {count} tokens; {name.replace('tokenizer', 'text_encoder')} reads "
                f"{limit}: its last {count - limit} are cut."
                for prompt, count in zip(prompts, counts, strict=True)
                if count > limit
            ]
        return said

    def output(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the network's output at x_l, computed in the type of its weights; a learned variance is left out."""
        weight = next(denoiser.parameters())
        told = {name: rows.to(weight) if rows.is_floating_point() else rows for name, rows in columns.items()}
        times = (levels - 1).to(weight.device)
        if self.schedule.kind == "flow":
            count = int(self.pipeline.scheduler.config.num_train_timesteps)
            times = (self.schedule.sigmas[levels.cpu()] * count).float().to(weight.device)
        output: Tensor = self.row.call(denoiser, noisy.to(weight), times, told)[0]
        return output[:, : noisy.shape[1]]

    def latents_of(self, pictures: "Sequence[Image]") -> Tensor:
        """Return the means of the VAE's Gaussians, scaled as the denoiser takes them; pixels where there is no VAE."""
        pixels = pixels_of(pictures)
        if "vae" not in self.row.needs:
            return pixels
        vae = self.pipeline.vae
        with torch.no_grad():
            latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        scaled: Tensor = (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
        return scaled

    def pictures_of(self, latents: Tensor) -> "list[Image]":
        """Return the decoded pictures of latents."""
        if "vae" not in self.row.needs:
            return pictures_of(latents)
        vae = self.pipeline.vae
        scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
        with torch.no_grad():
            pixels: Tensor = vae.decode(scaled.to(vae.device, vae.dtype), return_dict=False)[0]
        return pictures_of(pixels)

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write the whole pipeline, an adapter merged into the weights; diffusers loads it."""
        whole = _merged(denoiser)
        held = getattr(self.pipeline, self.row.part)
        setattr(self.pipeline, self.row.part, whole)
        try:
            with folder_aside(folder) as aside, quiet():
                self.pipeline.save_pretrained(aside, safe_serialization=True)
        finally:
            setattr(self.pipeline, self.row.part, held)


def _merged(denoiser: nn.Module) -> nn.Module:
    """Return a denoiser as plain layers: itself, or a copy with its adapter added to the weights."""
    if not getattr(denoiser, "peft_config", None):
        return denoiser
    whole: Any = copy.deepcopy(denoiser)
    whole.fuse_lora()
    whole.unload_lora()
    merged: nn.Module = whole
    return merged


def save_lora(model: ImageModel, folder: str | Path) -> None:
    """Write the LoRA alone, as `pytorch_lora_weights.safetensors` that a diffusers pipeline loads on its base.

    Raises:
        UserError: the model has no LoRA.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    if model.base is None or not isinstance(model.parts, PipelineParts):
        raise UserError(f"{model.name} has no LoRA: all of its weights are its own.", "Save the whole model.")
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(model.denoiser))
    with folder_aside(Path(folder)) as aside:
        named = {f"{model.parts.row.part}_lora_layers": layers}
        model.parts.pipeline.save_lora_weights(aside, **named, safe_serialization=True)


def open_pipeline(folder: Path, *, lora_rank: int, device: str, dtype: torch.dtype) -> ImageModel:
    """Return the image model of a pipeline's folder; its denoiser can be trained, all else is frozen.

    Raises:
        UserError: diffusers is missing, the denoiser is not known, a part is missing or has no safetensors.
    """
    row = architecture_of(str(folder), read_json(folder / "model_index.json"))
    for part in (row.part, *row.needs, "scheduler"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: the folder of the pipeline's {part} is missing.", "Download the whole pipeline."
            )
    pipeline = _loaded(folder, dtype)
    denoiser = getattr(pipeline, row.part)
    shape = row.latent(denoiser.config)
    if shape is None:
        raise UserError(f"{folder}: the denoiser does not say its sample_size.", "Add it to its config.json.")
    if "vae" not in row.needs and shape[0] != 3:
        raise UserError(
            f"{folder}: the pipeline has no vae, and its latents of {shape[0]} channels are no pictures.",
            "Download the whole pipeline.",
        )
    schedule = schedule_of(dict(pipeline.scheduler.config) | _class_of(pipeline.scheduler), shape)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    for name in (row.part, *(part for part in pipeline.components if part.startswith(("text_encoder", "vae")))):
        part = getattr(pipeline, name)
        if part is not None:
            part.to(device)
    base = None
    if lora_rank:
        base = _with_lora(denoiser, lora_rank)
    else:
        denoiser.requires_grad_(True)
    return ImageModel(str(folder), denoiser, schedule, shape, PipelineParts(pipeline, row, schedule, shape), base=base)


def _loaded(folder: Path, dtype: torch.dtype) -> Any:
    """Return the pipeline of a folder, all parts on the CPU."""
    try:
        from diffusers import DiffusionPipeline
    except ImportError as problem:
        raise UserError(f"{folder}: pipelines need diffusers.", "pip install 'tokenq[images]'") from problem
    index = read_json(folder / "model_index.json")
    none = {part: None for part, named in index.items() if isinstance(named, list) and named[-1] is None}
    try:
        with quiet():
            return DiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **none
            )
    except (OSError, ValueError, AttributeError, RuntimeError) as problem:
        raise UserError(
            f"{folder} cannot be loaded: {reason(problem)}.",
            "A pipeline's folder has the weights of every part as safetensors; code that comes with one is never run.",
        ) from problem


def _class_of(scheduler: Any) -> dict[str, str]:
    return {"_class_name": type(scheduler).__name__}


def _with_lora(denoiser: Any, rank: int) -> Any:
    """Put a fresh LoRA on the attention layers, in float32, and return the context in which it is off."""
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    try:
        denoiser.add_adapter(config)
    except ValueError as problem:
        raise UserError(f"No LoRA fits a {type(denoiser).__name__}: {reason(problem)}.", "Train it whole.") from problem
    for weight in denoiser.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()

    @contextlib.contextmanager
    def off() -> Iterator[None]:
        denoiser.disable_adapters()
        try:
            yield
        finally:
            denoiser.enable_adapters()

    return off


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what diffusers and transformers log, warn of and draw to themselves while a block runs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logs = (diffusers_logging, transformers_logging)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
