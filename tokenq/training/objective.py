"""From a batch to losses and metrics: the one place where the log-probs of the two models meet.

Per-example losses are returned unreduced, beside the numbers that everybody wants to see, each as (sum, count), so
that any partition of a step over micro-batches and processes gives the same averages.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenq.core.losses import LossSum, Term
from tokenq.core.losses.inputs import INPUTS, Scene, labelled, rankings
from tokenq.core.qfunction import sequence_rewards
from tokenq.core.readout import Logits
from tokenq.core.tensors import PackedBatch, TokenLogps, TokenScorer
from tokenq.training.values import Sums, value_sums, with_explained_variance


@dataclass(frozen=True)
class Scores:
    """What the models say of one batch.

    Attributes:
        logps: [N] log π of the targets.
        ref_logps: [N] log π_ref of the targets, or None.
        read: [N] what the loss reads besides, off the policy's vocabulary or off a value network, or None.
    """

    logps: Tensor
    ref_logps: Tensor | None
    read: Tensor | None


@dataclass(frozen=True)
class Objective:
    """What a run minimises.

    Attributes:
        loss: a loss, or a weighted sum of several.
        beta: temperature at which rewards are reported.
    """

    loss: LossSum
    beta: float

    @property
    def reads(self) -> Callable[[Logits, Logits | None], Tensor] | None:
        """What the losses read off the policy's vocabulary besides log-probs, None for most."""
        return next((INPUTS[name].reads for name in self.loss.inputs if INPUTS[name].reads), None)

    def weights(self, batch: PackedBatch) -> list[int]:
        """Return how much this batch counts in the step's average of each term: pairs, responses, or their tokens."""
        return [self._count(term, batch) for term in self.loss.terms]

    def score(
        self,
        policy: Callable[..., Tensor],
        reference: TokenScorer | None,
        batch: PackedBatch,
        ref_logits: Callable[[PackedBatch], Logits] | None = None,
    ) -> Scores:
        """Return what the models say of a batch; the arguments are those of `__call__`."""
        ref_logps = None if reference is None else reference(batch)
        if self.loss.valued:  # a policy with a value network beside it gives log-probs and values
            logps, values = policy(batch).unbind()
            return Scores(logps, ref_logps, values)
        reads = self.reads
        if reads is None:
            return Scores(policy(batch), ref_logps, None)

        def read(own: Logits) -> Tensor:
            # Inside the policy's forward: below an adapter the reference is the policy's own weights, which a policy
            # in shards gathers there and nowhere else.
            return reads(own, None if ref_logits is None else ref_logits(batch))

        logps, found = policy(batch, read).unbind()
        return Scores(logps, ref_logps, found)

    def judge(self, scores: Scores, batch: PackedBatch) -> "Outcome":
        """Return the losses and metrics that follow from what the models say."""
        flat, ref_flat = scores.logps, scores.ref_logps
        logps = batch.pad(flat)
        ref_logps = None if ref_flat is None else batch.pad(ref_flat.to(flat.dtype))
        scene = Scene(batch, logps, ref_logps, scores.read)
        losses = tuple(self._losses(term, scene) for term in self.loss.terms)
        sums = loss_sums(self.loss, losses, self.weights(batch))
        sums |= _SUMS[self.loss.unit](batch, logps)
        if ref_logps is not None:
            sums |= _REWARDS[self.loss.unit](batch, sequence_rewards(logps, ref_logps, self.beta).detach())
            seen = _SEEN[self.loss.unit](batch)
            if self.loss.valued:
                sums |= value_sums(scene, self.loss.inputs["values"], self.beta)
            sums["kl"] = ((ref_logps.sums() - logps.sums()).detach()[seen].sum(), len(seen))
        return Outcome(losses, sums, flat.detach(), ref_flat)

    def __call__(
        self,
        policy: Callable[..., Tensor],
        reference: TokenScorer | None,
        batch: PackedBatch,
        ref_logits: Callable[[PackedBatch], Logits] | None = None,
    ) -> "Outcome":
        """Return the losses and metrics of one micro-batch.

        Args:
            policy: gives log π, with a graph; with a second argument also what that reads off its logits, stacked.
            reference: gives log π_ref; may be None for a loss that needs none.
            batch: the micro-batch.
            ref_logits: gives the reference's logits, for a loss that reads them.
        """
        return self.judge(self.score(policy, reference, batch, ref_logits), batch)

    def share(self, outcome: "Outcome", totals: Sequence[float]) -> Tensor:
        """Return what a batch adds to the step's loss, given the step's totals of `weights`."""
        return shared(self.loss, outcome, totals)

    def means(self, totals: dict[str, list[float]]) -> dict[str, float]:
        """Return the averages of a step or an evaluation, the loss first."""
        return with_explained_variance(with_total(self.loss, averages(totals)))

    def _losses(self, term: Term, scene: Scene) -> Tensor:
        loss, batch = term.loss, scene.batch
        models = [scene.policy] if scene.reference is None or not loss.reference else [scene.policy, scene.reference]
        if loss.unit == "pairs":
            return loss.function(*(model.pairs(batch.pairs) for model in models), *loss.given(scene))
        rows = self._rows(term, batch)
        return loss.function(*(model.select(rows) for model in models), *loss.given(scene))

    def _rows(self, term: Term, batch: PackedBatch) -> Tensor:
        """Return the responses that a loss of responses sees: those of its data, or those of others' to imitate."""
        return _IMITATED[self.loss.unit](batch) if term.loss.unit == "responses" else _SEEN[term.loss.unit](batch)

    def _count(self, term: Term, batch: PackedBatch) -> int:
        if term.loss.unit == "responses":
            return int(torch.isin(batch.responses, self._rows(term, batch)).sum())
        return _COUNTS[term.loss.unit](batch)


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch gave.

    Attributes:
        losses: for each term [B] one loss per pair, response or ranking, with a graph.
        sums: metrics.
        logps: [N] log π of the targets, detached.
        ref_logps: [N] log π_ref of the targets, or None.
        rated: attribute → (output, rating) of responses, for what an evaluation says of all of them together.
    """

    losses: tuple[Tensor, ...]
    sums: Sums
    logps: Tensor
    ref_logps: Tensor | None
    rated: Mapping[str, list[list[float]]] = field(default_factory=dict)


def loss_sums(loss: LossSum, losses: Sequence[Tensor], counts: Sequence[int]) -> Sums:
    """Return the losses of a batch as metrics, given how much it counts for each."""
    parts = zip(loss.metrics, losses, counts, strict=True)
    return {name: (values.detach().sum(), count) for name, values, count in parts}


def shared(loss: LossSum, outcome: Outcome, totals: Sequence[float]) -> Tensor:
    """Return what a batch adds to the step's loss Σ weight · mean, given how much the step counts for each term."""
    parts = zip(loss.terms, outcome.losses, totals, strict=True)
    added = [term.weight * losses.sum() / total for term, losses, total in parts if total]
    return torch.stack(added).sum() if added else outcome.losses[0].sum()


def with_total(loss: LossSum, means: dict[str, float]) -> dict[str, float]:
    """Return the averages with the weighted sum of the losses before them, where there are several."""
    if len(loss.terms) == 1 or not means:
        return means
    total = sum(term.weight * means.get(name, 0.0) for term, name in zip(loss.terms, loss.metrics, strict=True))
    return {"loss": total, **means}


def _response_sums(batch: PackedBatch, logps: TokenLogps) -> Sums:
    lengths = logps.lengths()
    return {
        "logps/responses": (logps.sums().detach().sum(), len(lengths)),
        "response_length": (lengths.sum(), len(lengths)),
    }


def _pair_sums(batch: PackedBatch, logps: TokenLogps) -> Sums:
    return _two_sums(logps, batch.pairs)


def _two_sums(logps: TokenLogps, pairs: Tensor) -> Sums:
    """Return the metrics of two responses of each group: chosen and rejected, best and worst."""
    n = len(pairs)
    totals, lengths = logps.sums().detach()[pairs], logps.lengths()[pairs]
    means = totals / lengths.clamp(min=1)
    return {
        "logps/chosen": (totals[:, 0].sum(), n),
        "logps/rejected": (totals[:, 1].sum(), n),
        "logps/accuracies": ((totals[:, 0] > totals[:, 1]).sum(), n),
        "logps/mean_accuracies": ((means[:, 0] > means[:, 1]).sum(), n),
        "response_length/chosen": (lengths[:, 0].sum(), n),
        "response_length/rejected": (lengths[:, 1].sum(), n),
    }


def _labelled_sums(batch: PackedBatch, logps: TokenLogps) -> Sums:
    totals, lengths = logps.sums().detach(), logps.lengths()
    sums: Sums = {}
    for name, rows in _by_label(batch).items():
        sums[f"logps/{name}"] = (totals[rows].sum(), int(rows.sum()))
        sums[f"response_length/{name}"] = (lengths[rows].sum(), int(rows.sum()))
    return sums


def _by_label(batch: PackedBatch) -> dict[str, Tensor]:
    return {"chosen": batch.labels == 1, "rejected": batch.labels == 0}


def _extremes(batch: PackedBatch) -> Tensor:
    """Return (best, worst) of every ranking."""
    order = rankings(batch)
    last = (order >= 0).sum(1, keepdim=True) - 1
    return torch.cat((order[:, :1], order.gather(1, last)), 1)


def pair_rewards(batch: PackedBatch, rewards: Tensor) -> Sums:
    """Return the metrics of the rewards [S] of pairs."""
    return _two_rewards(rewards, batch.pairs)


def _two_rewards(rewards: Tensor, pairs: Tensor) -> Sums:
    n = len(pairs)
    chosen, rejected = rewards[pairs].unbind(1)
    return {
        "rewards/chosen": (chosen.sum(), n),
        "rewards/rejected": (rejected.sum(), n),
        "rewards/accuracies": ((chosen > rejected).sum(), n),
        "rewards/margins": ((chosen - rejected).sum(), n),
    }


def _labelled_rewards(batch: PackedBatch, rewards: Tensor) -> Sums:
    return {f"rewards/{name}": (rewards[rows].sum(), int(rows.sum())) for name, rows in _by_label(batch).items()}


def _every(batch: PackedBatch) -> Tensor:
    return torch.arange(batch.shape[0], device=batch.targets.device)


def _above_mean(batch: PackedBatch) -> Tensor:
    """Return the responses of a reward above 0, the mean of normalised ones."""
    return _every(batch) if batch.rewards is None else torch.nonzero(batch.rewards > 0)[:, 0]


_SEEN: dict[str, Callable[[PackedBatch], Tensor]] = {
    "pairs": lambda batch: batch.pairs.flatten(),
    "responses": _every,
    "labelled": labelled,
    "rewarded": _every,
    "ranked": _every,
}
"""The responses that are learnt from, without those that are only read beside them."""

_IMITATED: dict[str, Callable[[PackedBatch], Tensor]] = {
    "pairs": lambda batch: batch.pairs[:, 0],
    "responses": _every,
    "labelled": lambda batch: torch.nonzero(batch.labels == 1)[:, 0],
    "rewarded": _above_mean,
    "ranked": lambda batch: rankings(batch)[:, 0],
}
"""The responses that a loss of demonstrations takes of each kind of data."""

_COUNTS: dict[str, Callable[[PackedBatch], int]] = {
    "pairs": lambda batch: len(batch.pairs),
    "labelled": lambda batch: len(labelled(batch)),
    "rewarded": lambda batch: batch.shape[0],
    "ranked": lambda batch: sum(place == 0 for _, place in batch.members),
}
"""How many examples a batch has; demonstrations count their tokens."""

_SUMS: dict[str, Callable[[PackedBatch, TokenLogps], Sums]] = {
    "pairs": _pair_sums,
    "responses": _response_sums,
    "labelled": _labelled_sums,
    "rewarded": _response_sums,
    "ranked": lambda batch, logps: _two_sums(logps, _extremes(batch)),
}

_REWARDS: dict[str, Callable[[PackedBatch, Tensor], Sums]] = {
    "pairs": pair_rewards,
    "responses": lambda batch, rewards: {},
    "labelled": _labelled_rewards,
    "rewarded": lambda batch, rewards: {"rewards/responses": (rewards.sum(), len(rewards))},
    "ranked": lambda batch, rewards: _two_rewards(rewards, _extremes(batch)),
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
