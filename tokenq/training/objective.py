"""From a batch to losses and metrics: the one place where the log-probs of the two models meet.

Per-example losses are returned unreduced, beside the numbers that everybody wants to see, each as (sum, count), so
that any partition of a step over micro-batches and processes gives the same averages.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenq.core.logits import Logits
from tokenq.core.losses import LossSum, LossTerm
from tokenq.core.losses.inputs import INPUTS, Scene
from tokenq.core.losses.metrics import Sums
from tokenq.core.losses.metrics.segments import segment_metrics, with_spreads
from tokenq.core.losses.metrics.values import with_explained_variance
from tokenq.core.losses.units import UNITS
from tokenq.core.tensors import Actions, Batch, Outputs


@dataclass(frozen=True)
class Objective:
    """The loss that a run minimises, with its metrics.

    Attributes:
        loss: a loss, or a weighted sum of several.
        beta: temperature at which rewards are reported.
        attributes: the names of a reward model's outputs.
        segments: name → strength of each part of the responses; none where all have that of the loss.
        token_weights: where weights of tokens come from, as a `Scene` has it.
    """

    loss: LossSum
    beta: float = 1.0
    attributes: Sequence[str] = ()
    segments: Mapping[str, float] = field(default_factory=dict)
    token_weights: str = ""

    @property
    def reads(self) -> Callable[[Logits, Logits | None], Tensor] | None:
        """The function that reads the policy's whole vocabulary for the losses, None for most."""
        found = (INPUTS[name].reads for name in self.loss.inputs if name in INPUTS)
        return next((reads for reads in found if reads), None)

    def weights(self, actions: Actions) -> list[int]:
        """Return the weight of this batch in the step's average of each term: pairs, responses, or their tokens."""
        return [self._count(term, actions) for term in self.loss.terms]

    def score(
        self,
        policy: Callable[..., Outputs],
        reference: Callable[[Any], Tensor] | None,
        batch: Batch,
        ref_logits: Callable[[Any], Logits] | None = None,
    ) -> Outputs:
        """Return the outputs of both models for a batch; the arguments are those of `__call__`."""
        reads = self.reads
        if reads is None:
            outputs = policy(batch)
        else:

            def read(own: Logits) -> Tensor:
                # Inside the policy's forward: below an adapter the reference is the policy's own weights, which a
                # policy in shards gathers there and nowhere else.
                return reads(own, None if ref_logits is None else ref_logits(batch))

            outputs = policy(batch, read)
        stored = batch.actions.token_columns.get("ref_logps")
        return outputs._replace(ref_logps=stored if reference is None else reference(batch))

    def judge(self, outputs: Outputs, actions: Actions) -> "BatchResult":
        """Return the losses and metrics of outputs."""
        scene = Scene(actions, outputs, self.beta, self.attributes, self.segments, self.token_weights)
        unit = self.loss.unit
        reading, seen = unit.readings[self.loss.output], unit.seen(actions)
        losses = tuple(self._losses(term, scene) for term in self.loss.terms)
        counts = zip(self.loss.metrics, losses, self.weights(actions), strict=True)
        sums = {name: (values.detach().sum(), count) for name, values, count in counts}
        sums |= reading.metrics(scene) | segment_metrics(scene, unit.sides(actions), seen, compared=unit.is_compared)
        for term in self.loss.terms:
            sums |= term.loss.shown(scene)
        if scene.reference is not None and "kl" not in sums:
            sums["kl"] = ((scene.reference.sums() - scene.policy.sums()).detach()[seen].sum(), len(seen))
        return BatchResult(losses, sums, outputs.detach(), reading.rated(scene))

    def __call__(
        self,
        policy: Callable[..., Outputs],
        reference: Callable[[Any], Tensor] | None,
        batch: Batch,
        ref_logits: Callable[[Any], Logits] | None = None,
    ) -> "BatchResult":
        """Return the losses and metrics of one micro-batch.

        Args:
            policy: gives its outputs, with a graph; with a second argument also what that reads off its logits.
            reference: computes log π_ref; None where that is the column `ref_logps`, or the loss needs none.
            batch: the micro-batch.
            ref_logits: gives the reference's logits, for a loss that reads them.
        """
        return self.judge(self.score(policy, reference, batch, ref_logits), batch.actions)

    def share(self, result: "BatchResult", totals: Sequence[float]) -> Tensor:
        """Return the share of a batch in the step's loss Σ weight · mean, given the step's totals of `weights`."""
        parts = zip(self.loss.terms, result.losses, totals, strict=True)
        # A loss without a value is an empty sum: its network is still heard of by processes that wait for all of them.
        return torch.stack([term.weight * losses.sum() / (total or 1) for term, losses, total in parts]).sum()

    def means(self, totals: dict[str, list[float]]) -> dict[str, float]:
        """Return the averages of a step or an evaluation, the loss first."""
        means = averages(totals)
        if len(self.loss.terms) > 1 and means:
            parts = zip(self.loss.terms, self.loss.metrics, strict=True)
            means = {"loss": sum(term.weight * means.get(name, 0.0) for term, name in parts), **means}
        return with_spreads(with_explained_variance(means))

    def _losses(self, term: LossTerm, scene: Scene) -> Tensor:
        loss, rows, scene = term.loss, self._rows(term, scene.actions), term.loss.seen(scene)
        models = [] if scene.outputs.logps is None else [getattr(scene, loss.network)]
        if scene.reference is not None and loss.reference:
            models.append(scene.reference)
        arguments = UNITS[loss.unit].readings[loss.output].arguments(scene, models, rows)
        return loss.function(*arguments, *loss.given(scene, rows))

    def _rows(self, term: LossTerm, actions: Actions) -> Tensor:
        """Return the responses that a loss sees: those of its data, or what it takes of others'."""
        unit = UNITS[term.loss.unit]
        return unit.seen(actions) if unit.guest is None else unit.guest.rows(self.loss.unit, actions)

    def _count(self, term: LossTerm, actions: Actions) -> int:
        unit = UNITS[term.loss.unit]
        if unit.guest is None:
            return unit.readings[term.loss.output].count(actions)
        return unit.guest.values(actions, self._rows(term, actions))


@dataclass(frozen=True)
class BatchResult:
    """The result of one micro-batch.

    Attributes:
        losses: for each term [B] one loss per pair, response or ranking, with a graph.
        sums: metrics.
        outputs: what the models gave, detached.
        rated: attribute → (output, rating) of responses, for what an evaluation says of all of them together.
    """

    losses: tuple[Tensor, ...]
    sums: Sums
    outputs: Outputs
    rated: Mapping[str, list[list[float]]] = field(default_factory=dict)


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
