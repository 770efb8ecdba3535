"""The optimiser, its schedule, and float32 masters of weights in half precision, so that no update is lost to rounding.

A weight in bfloat16 has eight bits: an update below half the distance to its neighbour (2⁻⁹ of it) is rounded away, and
updates of preference training are that small. So the optimiser holds a float32 copy of every such weight and updates
that; the weight, in which the network computes, is its copy rounded.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.errors import UserError
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import own_rates

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

    Biases and norms are not decayed. Networks beside the policy have groups of their own behind its, each with its own
    peak learning rate.

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
        group | {"lr": peak_rate(config, name)}
        for name, part in zip((None, *networks), parts, strict=True)
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


def peak_rate(config: TrainConfig, network: str | None = None) -> float:
    """Return the peak learning rate, which the loop is given and does not choose (`tokenq.training.defaults`).

    Args:
        config: the settings.
        network: one beside the policy, None for the policy itself.
    """
    own = own_rates(config).get(network or "")
    if own is not None:
        return own
    if config.learning_rate is None:
        raise ValueError("learning_rate is not resolved")
    return config.learning_rate


def split_weights(model: nn.Module, networks: Mapping[str, nn.Module]) -> list[list[nn.Parameter]]:
    """Return the trainable weights of what is trained: those of the policy, and those of each network beside it."""
    apart = [[p for p in network.parameters() if p.requires_grad] for network in networks.values()]
    theirs = {id(p) for part in apart for p in part}
    return [[p for p in model.parameters() if p.requires_grad and id(p) not in theirs], *apart]


def clip_gradients(
    accelerator: Accelerator, parts: Sequence[Sequence[nn.Parameter]], networks: Iterable[str], limit: float
) -> dict[str, float]:
    """Clip the gradient, that of each network beside the policy by itself, and return the norms before that.

    Args:
        accelerator: knows how weights are spread.
        parts: all weights, and those trained ones of the policy and of each network.
        networks: their names.
        limit: the largest norm, 0 for any.
    """
    every, own, *apart = parts
    norm = accelerator.clip_grad_norm_(own if apart else every, limit or math.inf)
    norms = {"grad_norm": float(norm) if norm is not None else float("nan")}
    for name, weights in zip(networks, apart, strict=True):  # accelerate has undone any scale by now
        norms[f"{name}/grad_norm"] = float(nn.utils.clip_grad_norm_(weights, limit or math.inf))
    return norms


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


def set_rates(optimizer: Any, peaks: Sequence[float], config: TrainConfig, step: int, total: int) -> None:
    """Set the learning rates of an update; it is done before the backward pass, in which DeepSpeed takes its step.

    Args:
        optimizer: as accelerate has prepared it.
        peaks: of each of its groups.
        config: schedule and warm-up.
        step: updates done.
        total: updates of the whole run.
    """
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = learning_rate(config, step, total, peak)


def learning_rates(config: TrainConfig, networks: Iterable[str], step: int, total: int) -> dict[str, float]:
    """Return the learning rate of an update as its metrics have it, beside it those of networks with one of their own.

    Args:
        config: peak rates, schedule and warm-up.
        networks: those that are trained beside the policy.
        step: updates done.
        total: updates of the whole run.
    """
    own = own_rates(config)
    apart = {f"{name}/learning_rate": learning_rate(config, step, total, own[name]) for name in networks if name in own}
    return {"learning_rate": learning_rate(config, step, total), **apart}


def learning_rate(config: TrainConfig, step: int, total: int, peak: float | None = None) -> float:
    """Return the learning rate of the update from `step` to `step` + 1 (the first update has step 0).

    Warm-up rises linearly from 0 at step 0; "linear" then falls to 0 at `total`, "cosine" as half a cosine.

    Args:
        config: peak rate, schedule and warm-up.
        step: updates done.
        total: updates of the whole run.
        peak: None for the policy's.
    """
    peak = peak_rate(config) if peak is None else peak
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if config.schedule == "linear":
        return peak * (1 - progress)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak
