"""What may be asked for where an image model is trained, and what may not; which losses take pictures."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tokenq.core.losses import LossSum
from tokenq.core.losses.inputs import INPUTS
from tokenq.core.losses.units import UNITS
from tokenq.diffusion.open import is_image_model, where_an_image_model_is
from tokenq.errors import UserError, unknown_name
from tokenq.jobs.training.images.rows import SELECTIONS
from tokenq.options import PictureOptions
from tokenq.training.config import TrainConfig
from tokenq.training.optim import SHARDED

REFINER, IMAGE = "prompt_refiner", "image"
"""The segments of a response: the words of a refiner, and the steps in which they are drawn."""

_INPUTS = {"labels", "mismatched", "calibration"}
"""What losses of pictures may read beside log-probs."""

_ALONE = ("attention", "chat_template", "max_prompt_length", "style", "lora_alpha", "lora_targets")
"""Settings of a language model, which an image model alone has not."""

_NEVER = (
    *("adapter", "base", "revision", "attributes", "streaming", "shuffle_buffer", "reference_sync_steps"),
    *("token_weights", "token_traces", "token_weight_options", "reference_store", "segment_starts", "lora_dropout"),
    *("value_learning_rate", "prm_learning_rate", "pairing", "same_length", "condition_on", "condition_scale"),
)
"""Settings that say nothing where an image model is trained; dropout would differ between the pictures of a pair."""


def refuse_without_images(config: TrainConfig) -> None:
    """Refuse settings of an image model where none is trained.

    Raises:
        UserError: names one of them.
    """
    given = next((one.name for one in fields(PictureOptions) if getattr(config, one.name) != one.default), None)
    if given is not None:
        raise UserError(
            f"--{given.replace('_', '-')} is given, and no image model is trained.",
            "Leave it out, or name an image model: --model PIPELINE, or --image-model PIPELINE behind a refiner.",
        )


def check_settings(config: TrainConfig, loss: LossSum) -> None:
    """Refuse settings, and losses, that do not go with pictures.

    Raises:
        UserError: names the setting, or the loss and what it lacks.
    """
    hybrid = config.image_model is not None
    if hybrid and is_image_model(config.model):
        hint = "--model is the refiner, a language model; leave --image-model out to train the image model alone."
        raise UserError(f"--model {config.model} and --image-model are both image models.", hint)
    if config.image_model is not None and not is_image_model(config.image_model):
        hint = where_an_image_model_is(config.image_model)
        raise UserError(f"--image-model {config.image_model} is no image model.", hint)
    defaults = {one.name: one.default for one in fields(TrainConfig)}
    for name in (*_NEVER, *(() if hybrid else (*_ALONE, "image_learning_rate"))):
        if getattr(config, name) not in (defaults[name], None, (), [], {}):
            hint = "Leave it out." if name != "image_learning_rate" else "It is trained with --learning-rate."
            raise UserError(f"--{name.replace('_', '-')} is given, and an image model is trained.", hint)
    if hybrid and config.reference is not None and is_image_model(config.reference):
        hint = "Name a language model; the image model's reference is itself before the first step."
        raise UserError("--reference is an image model, and the refiner is compared with it.", hint)
    if config.dtype == "float16":
        hint = "Use float32 or bfloat16; densities of steps are summed in float32 whatever the weights have."
        raise UserError("--dtype float16: an image model in float16 gives latents that are not finite.", hint)
    _check_loss(config, loss)
    segments_of(config, loss)


def _check_loss(config: TrainConfig, loss: LossSum) -> None:
    """Refuse a loss that needs what pictures do not have."""
    if loss.output == "rewards":
        raise UserError(f"Loss {config.loss!r} trains a reward model, and an image model is none.", _TAKE)
    for name in loss.inputs:
        if name in INPUTS and INPUTS[name].reads is not None:
            says = INPUTS[name].says
            raise UserError(f"Loss {config.loss!r} reads {says} off the vocabulary, and steps have none.", _TAKE)
        if name not in _INPUTS:
            says = INPUTS[name].says if name in INPUTS else name
            raise UserError(f"Loss {config.loss!r} reads {says}, which rows of pictures do not have.", _TAKE)
    if config.image_model is not None and any(term.loss.stepwise for term in loss.terms):
        hint = "Words of two prompts are not the same in number: take dpo, or train the image model alone."
        raise UserError(f"Loss {config.loss!r} compares action by action, behind a refiner too.", hint)
    if loss.selection not in SELECTIONS:
        raise UserError(f"Loss {config.loss!r} learns from {UNITS[loss.unit.name].words}; pictures give none.", _TAKE)


_TAKE = "Take dpo or another loss of pairs, sft, kto, bco or d3po (docs/images.md)."


def segments_of(config: TrainConfig, loss: LossSum) -> Mapping[str, float]:
    """Return the strength of words and of steps, in this order; none where an image model is trained alone.

    Raises:
        UserError: an unknown segment, or a loss without strengths.
    """
    if config.image_model is None:
        if config.segments:
            hint = "Its strength is --beta. With --image-model, words and pictures have strengths of their own."
            raise UserError("--segments is given, and the pictures of an image model alone are one.", hint)
        return {}
    for name in config.segments:
        if name not in (REFINER, IMAGE):
            raise unknown_name("segment", name, (REFINER, IMAGE))
    if config.segments and not loss.has_strengths:
        hint = "Leave it out, or take a loss with a reference (dpo)."
        raise UserError(f"--segments is given, and loss {config.loss!r} has no strengths by segment.", hint)
    return {name: float(config.segments.get(name, loss.beta)) for name in (REFINER, IMAGE)}


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Return what of the settings a model card has."""
    own = {name: getattr(config, name) for name in ("image_term", "image_weights", "noise_draws")}
    return {**own, **{f"strength of {name}": value for name, value in config.segments.items()}}


def image_folder(config: TrainConfig) -> Path:
    """Return the folder of the image model."""
    return Path(config.image_model or config.model).expanduser()


def refuse_shards(accelerator: Accelerator) -> None:
    """Refuse image models whose weights would be spread over processes.

    Raises:
        UserError: says how to launch instead.
    """
    if accelerator.distributed_type in SHARDED:
        raise UserError("Image models are not trained in shards (FSDP, DeepSpeed).", "Launch with DDP.")
