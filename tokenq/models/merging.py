"""Merge an adapter into its base if the outputs stay the same; else keep it beside the base.

A tied embedding and head are one tensor. An adapter on one of them changes that one alone, so they are parted before
anything is merged.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.errors import UserError, reason
from tokenq.models.adapters import with_adapter
from tokenq.models.checkpoint import train_language_weights
from tokenq.models.forward.short_row import short_row

ROUNDING = 5e-4
"""Largest difference of a log-prob (nats) between merged and beside that is rounding, in float32."""

LOST = 0.05
"""Share of what an adapter does that may be lost in half precision, where a small change of a weight rounds to none."""


def merged_or_beside(load: Callable[[], PreTrainedModel], adapter: str) -> nn.Module:
    """Return a base with an adapter: merged if that is exact, else frozen beside it.

    In half precision it stays beside: merged, most of a small change would be rounded away.

    Args:
        load: gives the base.
        adapter: folder or hub id.

    Raises:
        UserError: the adapter cannot be read, or was made for another base.
    """
    adapted: nn.Module = with_adapter(load(), adapter, trainable=False)
    if _in_half(adapted):
        return adapted
    try:
        whole: nn.Module = merged(adapted, adapter)
        return whole
    except UserError:
        kept: nn.Module = with_adapter(load(), adapter, trainable=False)
        return kept


def merged(adapted: nn.Module, adapter: str) -> PreTrainedModel:
    """Return the base with its adapter merged, all weights to be trained; checked against the model before merging.

    Args:
        adapted: base and adapter, which are used up.
        adapter: its name, for errors.

    Raises:
        UserError: peft cannot merge it, or merged it says something else.
    """
    peft_model: Any = adapted
    hint = "Train it further beside its base: --model BASE --adapter ADAPTER."
    allowed = _allowed(peft_model)
    want = short_row(peft_model)
    _part_tied(peft_model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied layers, which have been parted
            whole: PreTrainedModel = peft_model.merge_and_unload()
    except (RuntimeError, NotImplementedError, ValueError, AttributeError, TypeError) as problem:
        raise UserError(f"The adapter {adapter} cannot be merged: {reason(problem)}", hint) from None
    off = (short_row(whole) - want).abs()
    error = (off.mean() if _in_half(whole) else off.max()).item()
    if not error <= allowed:
        raise UserError(f"Merged, the adapter {adapter} says something else ({error:.2g} nats).", hint)
    _settle_ties(whole)
    train_language_weights(whole)
    return whole


def _in_half(model: nn.Module) -> bool:
    return any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())


def _allowed(adapted: Any) -> float:
    """Return the error allowed: rounding, and in half precision a share of the adapter's effect."""
    if not _in_half(adapted):
        return ROUNDING
    want = short_row(adapted)
    with adapted.disable_adapter():
        return max(1e-3, LOST * (want - short_row(adapted)).abs().mean().item())


def _part_tied(adapted: nn.Module) -> None:
    """Untie every layer that has an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    below: set[int] = set()
    for module in adapted.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            below.update(id(parameter) for parameter in module.parameters())
    for number, places in owners.items():
        if number not in below:
            continue
        for module, name in places[1:]:
            parameter = module._parameters[name]
            assert parameter is not None
            module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def _settle_ties(model: PreTrainedModel) -> None:
    """Tie embedding and head again if they are equal, and record in the configuration whether they are tied."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    config = model.config.get_text_config()
    if head is None or not (config.tie_word_embeddings or model.config.tie_word_embeddings):
        return
    ours: Tensor = embedding.weight
    if ours.shape == head.weight.shape and ours.equal(head.weight):
        head.weight = embedding.weight
    else:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
