"""Models of transformers that say how well a picture fits a text: CLIP, SigLIP, and reward models made of them."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenq.errors import UserError, reason

if TYPE_CHECKING:
    from PIL.Image import Image

AT_ONCE = 16
"""Pictures of a forward pass."""


@dataclass(frozen=True)
class Matcher:
    """An image-text model with its processor.

    Attributes:
        name: its folder or hub id.
        network: the model; it reads alone.
        processor: turns texts and pictures to what it reads.
    """

    name: str
    network: nn.Module
    processor: Any

    def scores(self, prompts: Sequence[str], pictures: "Sequence[Image]") -> list[float]:
        """Return the logit of each picture with its prompt: scale · cos(text, picture), plus the bias that some have.

        A prompt is cut where the text encoder ends. Logits are not probabilities: of a contrastive model they compare
        pictures of one prompt.
        """
        found: list[float] = []
        device = next(self.network.parameters()).device
        for start in range(0, len(prompts), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            read = self.processor(
                text=list(prompts[some]),
                images=list(pictures[some]),
                return_tensors="pt",
                padding="max_length",  # SigLIP was trained with nothing else, and CLIP does not see what is padded
                truncation=True,
            )
            with torch.no_grad():
                logits: Tensor = self.network(**read.to(device)).logits_per_image
            found += logits.diagonal().float().tolist()
        return found


def open_matcher(name: str, device: str = "cpu") -> Matcher:
    """Return the image-text model of a folder or hub id, in float32.

    Only safetensors are read, and no code that comes with a model is run.

    Raises:
        UserError: it cannot be loaded, or is no model of pictures and texts.
    """
    from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

    loggers = [logging.getLogger(f"transformers{part}") for part in ("", ".modeling_utils", ".image_processing_utils")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = AutoModelForZeroShotImageClassification.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32
            )
            processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise UserError(
            f"--reward-model {name} cannot judge pictures: {reason(problem)}.",
            "Name a model of pictures and texts such as CLIP, SigLIP or PickScore, or a program: --judge "
            "FILE.py:FUNCTION.",
        ) from problem
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
    network.requires_grad_(False).eval().to(device)
    return Matcher(name, network, processor)
