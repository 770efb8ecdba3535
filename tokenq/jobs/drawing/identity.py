"""The identity of an image model: a hash of all that its log-densities depend on."""

import hashlib

import torch
from torch import nn

from tokenq.diffusion.model import ImageModel
from tokenq.models.identity import ModelIdentity


def image_identity(model: ImageModel, path: str) -> ModelIdentity:
    """Return the identity of an image model: denoiser, text encoder and schedule, and not what turns latents to pixels.

    Args:
        model: the model; one whose adapter is off by its parts alone has the identity of the adapted one.
        path: where it came from (recorded, not hashed).
    """
    schedule, digest, parameters = model.schedule, hashlib.sha256(), 0
    said = (schedule.kind, schedule.prediction, schedule.clip, model.shape, model.guidance)
    digest.update(repr(said).encode())
    networks: list[nn.Module] = [one for one in (model.denoiser, model.parts.text_network) if one is not None]
    tensors = [(f"{n}.{name}", one) for n, net in enumerate(networks) for name, one in net.state_dict().items()]
    for name, tensor in [*sorted(tensors), ("alphas", schedule.alphas), ("sigmas", schedule.sigmas)]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        parameters += tensor.numel() if name not in ("alphas", "sigmas") else 0
    dtype = str(next(model.denoiser.parameters()).dtype).removeprefix("torch.")
    return ModelIdentity(path, type(model.denoiser).__name__, parameters, dtype, digest.hexdigest())
