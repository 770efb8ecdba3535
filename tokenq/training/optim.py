"""The optimiser and the learning rate of a run, both plain functions of the configuration and the step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.training.config import TrainConfig
from tokenq.training.masters import keep_masters, masters_of

Groups = list[dict[str, Any]]
"""Groups of parameters as optimisers of torch take them."""


def make_optimizer(model: nn.Module, config: TrainConfig, values: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable weights; biases and norms are not decayed.

    Of weights in half precision it updates float32 copies (`tokenq.training.masters`). A value network has groups of
    its own behind the policy's.

    AdamW runs fused where torch offers it: one pass over weights, gradients and moments instead of a dozen.

    Args:
        model: what is trained.
        config: names the optimiser and its constants.
        values: the value network in it, if there is one.
    """
    masters = masters_of(model.parameters())
    updated = {id(weight): master for weight, master in masters}
    parts = [[updated.get(id(p), p) for p in part] for part in split_values(model, values)]
    groups: Groups = [
        group
        for part in parts
        for group in (
            {"params": [p for p in part if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in part if p.ndim < 2], "weight_decay": 0.0},
        )
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = _OPTIMIZERS[config.optimizer](groups, config)
    keep_masters(optimizer, masters)
    return optimizer


def _adamw(groups: Groups, config: TrainConfig) -> torch.optim.Optimizer:
    weights = [p for group in groups for p in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "xpu", "mps") for p in weights)
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=peak_rate(config), betas=betas, eps=config.adam_epsilon, fused=fused)


_OPTIMIZERS: Mapping[str, Callable[[Groups, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "rmsprop": lambda groups, config: torch.optim.RMSprop(groups, lr=peak_rate(config)),
    "sgd": lambda groups, config: torch.optim.SGD(groups, lr=peak_rate(config)),
}

MOMENTS: Mapping[str, int] = {"adamw": 2, "rmsprop": 1, "sgd": 0}
"""Numbers that each optimiser keeps for a weight, in the type in which it updates it."""


def peak_rate(config: TrainConfig) -> float:
    """Return the peak learning rate, which the loop is given and does not choose (`tokenq.training.defaults`)."""
    if config.learning_rate is None:
        raise ValueError("learning_rate is not resolved")
    return config.learning_rate


def split_values(model: nn.Module, values: nn.Module | None) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable weights of what is trained: those of the policy, and those of the value network."""
    apart = [] if values is None else [p for p in values.parameters() if p.requires_grad]
    theirs = {id(p) for p in apart}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in theirs], apart


def tell_deepspeed(accelerator: Accelerator, config: TrainConfig) -> None:
    """Tell DeepSpeed, where it runs, what it wants to know in advance; whatever else runs is left alone.

    It clips the gradient itself. The size of a micro-batch, which it only multiplies, is none that could be named: the
    loop accumulates over micro-batches of its own and says when the last has come.

    Args:
        accelerator: before it prepares the policy.
        config: names the limit of the gradient's norm.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=1,
            gradient_accumulation_steps=1,
            gradient_clipping=config.max_grad_norm,
            zero_allow_untested_optimizer=True,
        )


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Return the learning rate of the update from `step` to `step` + 1 (the first update has step 0).

    Warm-up rises linearly from 0 at step 0; "linear" then falls to 0 at `total`, "cosine" as half a cosine.

    Args:
        config: peak rate, schedule and warm-up.
        step: updates done.
        total: updates of the whole run.
    """
    peak = peak_rate(config)
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if config.schedule == "linear":
        return peak * (1 - progress)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak
