"""From a batch to losses and metrics: the one place where the log-probs of the two models meet.

Per-example losses are returned unreduced, beside the numbers that everybody wants to see, each as (sum, count), so
that any partition of a step over micro-batches and processes gives the same averages.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenq.core.losses import Loss
from tokenq.core.qfunction import sequence_rewards
from tokenq.core.tensors import PackedBatch, TokenLogps, TokenScorer

Sums = dict[str, tuple[Tensor, int]]
"""Metric name → (sum over examples, number of examples), detached."""


@dataclass(frozen=True)
class Objective:
    """What a run minimises.

    Attributes:
        loss: a row of the loss table with its parameters bound.
        beta: temperature at which rewards are reported.
    """

    loss: Loss
    beta: float

    def weight(self, batch: PackedBatch) -> int:
        """Return how much this batch counts in the step's average: pairs, or tokens of responses."""
        return len(batch.pairs) if self.loss.unit == "pairs" else len(batch.targets)

    def __call__(
        self, policy: Callable[[PackedBatch], Tensor], reference: TokenScorer | None, batch: PackedBatch
    ) -> "Outcome":
        """Return the losses and metrics of one micro-batch.

        Args:
            policy: gives log π, with a graph.
            reference: gives log π_ref; may be None for a loss that needs none.
            batch: the micro-batch.
        """
        flat = policy(batch)
        ref_flat = None if reference is None else reference(batch)
        logps = batch.pad(flat)
        if self.loss.unit == "responses":
            losses = self.loss.function(logps)
            return Outcome(losses, _response_sums(losses, logps), flat.detach(), ref_flat)
        pairs = logps.pairs(batch.pairs)
        if ref_flat is None:
            losses = self.loss.function(pairs)
            return Outcome(losses, _pair_sums(losses, batch, logps), flat.detach(), None)
        ref_logps = batch.pad(ref_flat.to(flat.dtype))
        losses = self.loss.function(pairs, ref_logps.pairs(batch.pairs))
        sums = _pair_sums(losses, batch, logps) | _reward_sums(batch, logps, ref_logps, self.beta)
        return Outcome(losses, sums, flat.detach(), ref_flat)


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch gave.

    Attributes:
        losses: [B] one loss per pair or response, with a graph.
        sums: metrics.
        logps: [N] log π of the targets, detached.
        ref_logps: [N] log π_ref of the targets, or None.
    """

    losses: Tensor
    sums: Sums
    logps: Tensor
    ref_logps: Tensor | None


def _response_sums(losses: Tensor, logps: TokenLogps) -> Sums:
    tokens = int(logps.mask.sum())
    lengths = logps.lengths()
    return {
        "loss": (losses.detach().sum(), tokens),
        "logps/responses": (logps.sums().detach().sum(), len(lengths)),
        "response_length": (lengths.sum(), len(lengths)),
    }


def _pair_sums(losses: Tensor, batch: PackedBatch, logps: TokenLogps) -> Sums:
    n = len(batch.pairs)
    totals, lengths = logps.sums().detach()[batch.pairs], logps.lengths()[batch.pairs]
    means = totals / lengths.clamp(min=1)
    return {
        "loss": (losses.detach().sum(), n),
        "logps/chosen": (totals[:, 0].sum(), n),
        "logps/rejected": (totals[:, 1].sum(), n),
        "logps/accuracies": ((totals[:, 0] > totals[:, 1]).sum(), n),
        "logps/mean_accuracies": ((means[:, 0] > means[:, 1]).sum(), n),
        "response_length/chosen": (lengths[:, 0].sum(), n),
        "response_length/rejected": (lengths[:, 1].sum(), n),
    }


def _reward_sums(batch: PackedBatch, logps: TokenLogps, ref_logps: TokenLogps, beta: float) -> Sums:
    n = len(batch.pairs)
    rewards = sequence_rewards(logps, ref_logps, beta).detach()
    chosen, rejected = rewards[batch.pairs].unbind(1)
    return {
        "rewards/chosen": (chosen.sum(), n),
        "rewards/rejected": (rejected.sum(), n),
        "rewards/accuracies": ((chosen > rejected).sum(), n),
        "rewards/margins": ((chosen - rejected).sum(), n),
        "kl": (-(rewards / beta).sum(), len(rewards)),
    }


def add_sums(total: dict[str, list[float]], sums: Sums) -> None:
    """Add the metrics of a micro-batch to running [sum, count] totals (one transfer for all of them)."""
    names = list(sums)
    dtypes = (sums[name][0].dtype for name in names)
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)  # float64 exists only where a model has it
    values = torch.stack([sums[name][0].to(dtype) for name in names]).tolist()
    for name, value in zip(names, values, strict=True):
        entry = total.setdefault(name, [0.0, 0.0])
        entry[0] += value
        entry[1] += sums[name][1]


def averages(total: dict[str, list[float]]) -> dict[str, float]:
    """Return sum / count of every metric."""
    return {name: value / count if count else float("nan") for name, (value, count) in total.items()}
