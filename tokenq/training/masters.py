"""Float32 masters of weights in half precision, so that no update is too small to be kept.

A weight in bfloat16 has eight bits: an update below half the distance to its neighbour (2⁻⁹ of it) is rounded away, and
updates of preference training are that small. So the optimiser holds a float32 copy of every such weight and updates
that; the weight, in which the network computes, is its copy rounded.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.errors import UserError

_KEY = "masters"
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)

Masters = list[tuple[nn.Parameter, nn.Parameter]]
"""(weight, its float32 copy) of every trained weight in half precision."""


def in_half(weight: torch.Tensor) -> bool:
    """Return whether a weight has fewer bits than an update needs."""
    return weight.is_floating_point() and weight.element_size() < 4


def masters_of(weights: Iterable[nn.Parameter]) -> Masters:
    """Return a float32 copy beside each of the trained weights in half precision."""
    return [(one, nn.Parameter(one.detach().float())) for one in weights if one.requires_grad and in_half(one)]


def keep_masters(optimizer: torch.optim.Optimizer, masters: Masters) -> None:
    """Have an optimiser over masters take the gradients of their weights, hand its updates back, and store masters.

    Args:
        optimizer: whose parameters are the masters, and the weights that need none.
        masters: with their weights.
    """
    if not masters:
        return

    def take(*_: Any) -> None:
        for weight, master in masters:
            master.grad, weight.grad = None if weight.grad is None else weight.grad.float(), None

    def hand_back(*_: Any) -> None:
        with torch.no_grad():
            for weight, master in masters:
                weight.copy_(master)

    def stored(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, _KEY: [master.detach() for _, master in masters]}

    def restored(_: Any, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for (_, master), value in zip(masters, state[_KEY], strict=True):
                master.copy_(value)

    optimizer.register_step_pre_hook(take)
    optimizer.register_step_post_hook(hand_back)
    optimizer.register_state_dict_post_hook(stored)
    optimizer.register_load_state_dict_pre_hook(restored)


def release_masters(model: nn.Module, optimizer: Any) -> None:
    """Put the copies in place of their weights, at the end of a run: what was learnt is in them, to the last bit.

    Args:
        model: what was trained; its weights in half precision become float32.
        optimizer: over their copies.
    """
    weights = [one for one in model.parameters() if one.requires_grad and in_half(one)]
    if weights:
        for weight, master in zip(weights, optimizer.state_dict()[_KEY], strict=True):
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
    if low is not None and accelerator.distributed_type in _SHARDED:
        name = str(low.dtype).removeprefix("torch.")
        raise UserError(
            f"Weights in {name} are trained with a float32 copy, which cannot be kept of weights in shards.",
            "Use --dtype float32 --mixed-precision bf16: the shards hold float32, and computing is in bfloat16.",
        )
