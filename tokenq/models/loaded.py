"""Models of transformers or peft that are already in memory: read through a twin, and never changed.

A twin has layers and a configuration of its own on the same weights. What reading needs otherwise (attention, no
dropout, no gradients) is set on the twin alone; hooks of the layers are called by it too.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenq.models.forward.packed_lm import bare, is_peft


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model in memory with its tokenizer; equal to itself alone.

    Attributes:
        model: of transformers, bare or wrapped by peft.
        tokenizer: goes with it.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """The model's name in records: where it came from, marked as loaded."""
        lm = bare(self.model)
        return f"{lm.config._name_or_path or type(lm).__name__} (loaded)"

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the weights."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), None)

    @property
    def has_adapter(self) -> bool:
        """Whether it has an adapter of peft, which can be switched off."""
        return is_peft(self.model)

    def base(self) -> "Loaded":
        """Return the model below its adapter, on the same weights."""
        below: Any = twin(self.model)
        return Loaded(below.unload(), self.tokenizer)


def twin(model: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None) -> nn.Module:
    """Return a copy that shares the model's weights, in evaluation mode and without gradients.

    Weights are copied only where they are asked for in another type or on another device; buffers keep their type, as
    they do where transformers loads a model.

    Args:
        model: stays as it is.
        dtype: of the weights; None for the model's own.
        device: where they go; None for where they are.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        plain = type(parameter) is nn.Parameter  # those of quantised layers know more than their numbers
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
    for module in model.modules():  # a hook is shared, and not what it holds
        memo |= {id(own): copy.copy(own) for name, own in vars(module).items() if name.endswith("_hooks")}
    read = copy.deepcopy(model, memo)
    for parameter in read.parameters():
        if parameter.is_floating_point() and (dtype or parameter.dtype) != parameter.dtype:
            parameter.data = parameter.data.to(dtype)
    if dtype is not None:
        bare(read).config.dtype = dtype
    return read.to(device).eval() if device is not None else read.eval()
