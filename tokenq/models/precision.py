"""The type in which the weights of a model are read where nobody names one: for training, and beside another model."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from tokenq.models.adapters import base_of, is_adapter_folder
from tokenq.models.checkpoint import from_pretrained, locate
from tokenq.models.load import DTYPES, ModelSpec

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def for_training(spec: ModelSpec, *, frozen: bool, scaled: bool = False) -> ModelSpec:
    """Return what to load with the type resolved: float32 for what is trained, whatever the checkpoint's is.

    Frozen weights below an adapter stay as they are stored; those in float16 only where gradients that pass through
    them are scaled, as they vanish below 6e-8 otherwise. An adapter is merged into float32: it changes weights by less
    than half precision can say. A checkpoint in float64 stays in float64.

    Args:
        spec: what is asked for; a type other than "auto" is kept.
        frozen: whether the weights on disk stay as they are, and an adapter is trained.
        scaled: whether a gradient scaler is at work.
    """
    if spec.dtype != "auto":
        return spec
    stored = stored_dtype(spec)
    frozen = frozen and not is_adapter_folder(spec.path)
    kept = stored == torch.float64 or (frozen and (stored == torch.bfloat16 or (stored == torch.float16 and scaled)))
    return spec if kept else replace(spec, dtype="float32")


def stored_dtype(spec: ModelSpec) -> torch.dtype | None:
    """Return the type that a checkpoint says it is stored in, None where it does not say; that of a loaded model."""
    if spec.loaded is not None:
        return spec.loaded.dtype
    if is_adapter_folder(spec.path):
        return stored_dtype(replace(spec, path=base_of(spec.path, spec.base), base=None))
    folder, gguf = locate(spec.path)
    if gguf:
        return None
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    found: torch.dtype | None = from_pretrained(AutoConfig.from_pretrained, folder, options, spec.path).dtype
    return found


def beside(model: nn.Module, spec: ModelSpec) -> ModelSpec:
    """Return what to load beside a model, in the same type: log-ratios of two types measure their rounding.

    Args:
        model: that was loaded first.
        spec: the other; a type other than "auto" is kept.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return replace(spec, dtype=_NAMES.get(dtype, "auto")) if spec.dtype == "auto" and dtype is not None else spec
