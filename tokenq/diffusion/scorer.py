"""An image model, alone or behind a refiner, as the training loop sees a policy: a batch → log-probs of its actions."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from tokenq.core.tensors import Outputs, PackedBatch
from tokenq.diffusion.batch import HybridBatch, PictureBatch, Term
from tokenq.diffusion.model import Conditioning, ImageModel, Say, silent

Encode = Callable[[tuple[str, ...]], Conditioning]

_KEPT = 16
"""Batches whose encoded prompts are kept: those of policy and reference, and of the second forward of a step."""


def encoder_of(model: ImageModel, say: Say = silent) -> Encode:
    """Return the text encoder of a model for training, where it is frozen; what is cut is said once.

    Args:
        model: whose text encoder.
        say: told of prompts that are longer than it reads.
    """
    told: set[str] = set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)

    return lru_cache(_KEPT)(lambda prompts: model.encode(prompts, once))


class PictureScorer(nn.Module):
    """An image model as a policy.

    Nothing is drawn at random in it: dropout would differ between the two pictures of a pair, so it stays in evaluation
    mode, in training too.

    Args:
        model: the model; its denoiser is what is trained.
        term: what is computed of a picture.
        encode: encodes prompts.
    """

    def __init__(self, model: ImageModel, term: Term, encode: Encode) -> None:
        super().__init__()
        self.denoiser = model.denoiser
        self.image_model, self.term, self.encode = model, term, encode

    def train(self, mode: bool = True) -> "PictureScorer":
        """Stay in evaluation mode."""
        del mode
        super().train(False)
        return self

    def forward(self, batch: PictureBatch) -> Outputs:
        """Return the log-probs of the actions of a batch, in float32 at least."""
        logps = self.term.logps(self.image_model, batch, self.encode(batch.prompts)).flatten()
        return Outputs(logps=logps if logps.dtype == torch.float64 else logps.float())


class HybridScorer(nn.Module):
    """A refiner with the image model that draws from its words, as one policy (Eq. 17 and 18 of arXiv 2404.12358).

    Args:
        policy: the refiner: a batch of words → `Outputs`.
        image: the image model.
    """

    def __init__(self, policy: nn.Module, image: PictureScorer, whole: Sequence[str] = ()) -> None:
        super().__init__()
        self.policy, self.image = policy, image
        self._no_split_modules = list(whole)

    def forward(self, batch: HybridBatch) -> Outputs:
        """Return the log-probs of words and steps in the order of the actions."""
        return Outputs(logps=_joined(batch, self.policy(batch.words).logps, self.image(batch.pictures).logps))


def picture_reference(model: ImageModel, term: Term, encode: Encode) -> Callable[[PictureBatch], Tensor]:
    """Return log π_ref of a batch of pictures, without a graph; the arguments are those of `PictureScorer`."""
    scorer = PictureScorer(model, term, encode)

    def score(batch: PictureBatch) -> Tensor:
        with torch.no_grad():
            logps: Tensor = scorer(batch).logps
        return logps

    return score


def hybrid_reference(
    words: Callable[[PackedBatch], Tensor], pictures: Callable[[PictureBatch], Tensor]
) -> Callable[[HybridBatch], Tensor]:
    """Return log π_ref of a batch of words and pictures, given that of each."""
    return lambda batch: _joined(batch, words(batch.words), pictures(batch.pictures))


def _joined(batch: HybridBatch, words: Tensor, steps: Tensor) -> Tensor:
    dtype = torch.promote_types(words.dtype, steps.dtype)
    return torch.cat([words.to(dtype), steps.to(dtype)])[batch.order]
