"""The optimiser and the learning rate of a run, both plain functions of the configuration and the step."""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.train.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig, values: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable weights; biases and norms are not decayed.

    A value network has groups of its own behind the policy's.

    AdamW runs fused where torch offers it: one pass over weights, gradients and moments instead of a dozen.

    Args:
        model: what is trained.
        config: names the optimiser and its constants.
        values: the value network in it, if there is one.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    own, apart = parted(model, values)
    groups = [
        group
        for part in (own, apart)
        for group in (
            {"params": [p for p in part if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in part if p.ndim < 2], "weight_decay": 0.0},
        )
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.learning_rate)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate)
    betas = (config.adam_beta1, config.adam_beta2)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "xpu", "mps") for p in trainable)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=fused)


def parted(model: nn.Module, values: nn.Module | None) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
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
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate
