"""What a model is, down to a hash of its weights: for provenance, and as the key of what was computed with it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.models.adapters import adapter_scales, base_name, is_adapter_weight
from tokenq.models.forward import bare


@dataclass(frozen=True)
class ModelIdentity:
    """What a model is, for provenance and as a key of its log-probs.

    Attributes:
        path: where it came from.
        architecture: class name.
        parameters: number of weights.
        dtype: compute type.
        weights: SHA-256 over the configuration and every weight, hexadecimal.
    """

    path: str
    architecture: str
    parameters: int
    dtype: str
    weights: str

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain data."""
        return asdict(self)


def identify(model: nn.Module, path: str, *, adapter: Literal["on", "off"] = "on") -> ModelIdentity:
    """Return the identity of the live model: what its log-probs depend on, and nothing else.

    Args:
        model: the model, bare or wrapped by peft.
        path: where it came from (recorded, not hashed).
        adapter: "off" identifies the base below the adapter.
    """
    base = bare(model)
    described = [_numeric_config(base), *(adapter_scales(model) if adapter == "on" else [])]
    digest = hashlib.sha256("".join(json.dumps(part, sort_keys=True) for part in described).encode())
    parameters = 0
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in _weights(model, adapter):
        place = tensor.data_ptr(), tensor.shape
        if place in seen:  # tied weights are one tensor under two names
            digest.update(f"{name} = {seen[place]}".encode())
            continue
        seen[place] = name
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        parameters += tensor.numel()
    dtype = str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
    return ModelIdentity(path, type(base).__name__, parameters, dtype, digest.hexdigest())


def _numeric_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return the configuration without what cannot change a number (names, versions, compute type)."""
    idle = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in idle and "drop" not in key}


def _weights(model: nn.Module, adapter: Literal["on", "off"]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that are in effect, under the names that they have without peft, sorted."""
    named = {}
    for name, tensor in model.state_dict().items():
        if adapter == "off" and is_adapter_weight(name):
            continue
        named[base_name(name)] = tensor
    return iter(sorted(named.items()))
