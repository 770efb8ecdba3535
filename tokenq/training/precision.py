"""In which types a run holds, computes and updates its weights, and the memory that follows: for people and records."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tokenq.training.config import TrainConfig
from tokenq.training.optim import MOMENTS, in_half

_MIXED = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Precision:
    """The types of a run.

    Attributes:
        weights: of what is trained, several joined by "+".
        frozen: of what is not, None where all is trained.
        master: of the copy that the optimiser updates; None where it updates the weights themselves.
        compute: of the forward and backward pass.
        optimizer_state: of the optimiser's moments, None where it keeps none.
        trained: weights that are.
        memory_gb: 10⁹ bytes of weights, copies, gradients and moments, over all processes if they are in shards.
    """

    weights: str
    frozen: str | None
    master: str | None
    compute: str
    optimizer_state: str | None
    trained: int
    memory_gb: float

    def line(self, optimizer: str) -> str:
        """Return all this as one line for the console."""
        parts = [f"{self.trained:,} weights trained in {self.weights}"]
        parts += [f"the rest frozen in {self.frozen}"] if self.frozen else []
        parts += [f"{self.master} master copy in the optimiser" if self.master else "no master copy needed"]
        parts += [f"computed in {self.compute}"]
        parts += (
            [f"{optimizer} state in {self.optimizer_state}"] if self.optimizer_state else [f"{optimizer}: no state"]
        )
        return f"precision: {', '.join(parts)}; {self.memory_gb:.3g} GB without activations"


def precision_of(model: nn.Module, config: TrainConfig, reference: nn.Module | None = None) -> Precision:
    """Return in which types a model is trained.

    Args:
        model: what is trained, a value network included.
        config: optimiser and mixed precision.
        reference: a reference that stays in memory.
    """
    trained, frozen = (_unique(p for p in model.parameters() if p.requires_grad is wanted) for wanted in (True, False))
    held = [] if reference is None else _unique(reference.parameters())
    updated = [(p.numel(), 4 if in_half(p) else p.element_size()) for p in trained]
    halves = any(map(in_half, trained))
    moments = MOMENTS[config.optimizer]
    size = sum(p.numel() * p.element_size() for p in (*trained, *frozen, *held))
    size += sum(count * width for count, width in updated)  # gradients, in float32 once the optimiser has them
    size += sum(count * width * moments for count, width in updated)
    size += sum(4 * p.numel() for p in trained if in_half(p))
    names = _types(trained)
    return Precision(
        weights=names,
        frozen=_types(frozen) or None,
        master="float32" if halves else None,
        compute=_MIXED.get(config.mixed_precision) or _types(frozen or trained),
        optimizer_state=(None if not moments else "float32" if halves else names),
        trained=sum(p.numel() for p in trained),
        memory_gb=size / 1e9,
    )


def _unique(weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(one): one for one in weights}.values())


def _types(weights: Iterable[Any]) -> str:
    """Return the types of weights, the one of most numbers first."""
    counts: dict[str, int] = {}
    for one in weights:
        name = str(one.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + one.numel()
    return "+".join(sorted(counts, key=lambda name: -counts[name]))
