"""The optimiser, its schedule, and float32 masters of weights in half precision, so that no update is lost to rounding.

A weight in bfloat16 has eight bits: an update below half the distance to its neighbour (2⁻⁹ of it) is rounded away, and
updates of preference training are that small. So the optimiser holds a float32 copy of every such weight and updates
that; the weight, in which the network computes, is its copy rounded.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.errors import UserError
from tokenq.training.config import TrainConfig

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)

Masters = list[tuple[nn.Parameter, nn.Parameter]]
"""(weight, its float32 copy) of every trained weight in half precision."""

Exact = Callable[[torch.Tensor], torch.Tensor]
"""Gives the tensor that holds a weight to the last bit: its float32 copy where it has one, else itself."""


def in_half(weight: torch.Tensor) -> bool:
    """Return whether a weight has fewer bits than an update needs."""
    return weight.is_floating_point() and weight.element_size() < 4


def masters_of(weights: Iterable[nn.Parameter]) -> Masters:
    """Return a float32 copy beside each of the trained weights in half precision."""
    return [(one, nn.Parameter(one.detach().float())) for one in weights if one.requires_grad and in_half(one)]


def keep_masters(optimizer: torch.optim.Optimizer, masters: Masters) -> None:
    """Have an optimiser over masters take the gradients of their weights, and hand its updates back.

    Args:
        optimizer: whose parameters are the masters, and the weights that need none.
        masters: with their weights.
    """
    if not masters:
        return

    def take(*_: Any) -> None:
        for weight, master in masters:
            master.grad, weight.grad = None if weight.grad is None else weight.grad.float(), None

    optimizer.register_step_pre_hook(take)
    optimizer.register_step_post_hook(lambda *_: round_masters(masters))


@torch.no_grad()
def round_masters(masters: Masters) -> None:
    """Make every weight its float32 copy, rounded."""
    for weight, master in masters:
        weight.copy_(master)


def exact_in(masters: Masters) -> Exact:
    """Return the function from a weight to the tensor that holds it exactly."""
    copies: dict[int, torch.Tensor] = {id(weight): master for weight, master in masters}
    return lambda weight: copies.get(id(weight), weight)


def release_masters(masters: Masters) -> None:
    """Put the copies in place of their weights, at the end of a run: what was learnt is in them, to the last bit."""
    for weight, master in masters:
        weight.data = master.detach().clone()


def refuse_sharded_masters(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuse weights in half precision where they are spread over devices: no process has a whole one to copy.

    Args:
        accelerator: says how weights are spread.
        model: what is trained.

    Raises:
        UserError: says how to train it in the same memory.
    """
    low = next((one for one in model.parameters() if one.requires_grad and in_half(one)), None)
    if low is not None and accelerator.distributed_type in SHARDED:
        name = str(low.dtype).removeprefix("torch.")
        raise UserError(
            f"Weights in {name} are trained with a float32 copy, which cannot be kept of weights in shards.",
            "Use --dtype float32 --mixed-precision bf16: the shards hold float32, and computing is in bfloat16.",
        )


Groups = list[dict[str, Any]]
"""Groups of parameters as optimisers of torch take them."""


def make_optimizer(
    model: nn.Module, config: TrainConfig, networks: Mapping[str, nn.Module] = {}
) -> tuple[torch.optim.Optimizer, Masters]:
    """Return the optimiser over the trainable weights, and the float32 copies that it updates; see `masters_of`.

    Biases and norms are not decayed. Networks beside the policy have groups of their own behind its.

    AdamW runs fused where torch offers it: one pass over weights, gradients and moments instead of a dozen.

    Args:
        model: what is trained.
        config: names the optimiser and its constants.
        networks: those in it that are not the policy, by name.
    """
    masters = masters_of(model.parameters())
    updated = {id(weight): master for weight, master in masters}
    parts = [[updated.get(id(p), p) for p in part] for part in split_weights(model, networks)]
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
    return optimizer, masters


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


def split_weights(model: nn.Module, networks: Mapping[str, nn.Module]) -> list[list[nn.Parameter]]:
    """Return the trainable weights of what is trained: those of the policy, and those of each network beside it."""
    apart = [[p for p in network.parameters() if p.requires_grad] for network in networks.values()]
    theirs = {id(p) for part in apart for p in part}
    return [[p for p in model.parameters() if p.requires_grad and id(p) not in theirs], *apart]


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
