"""From a batch to the losses and metrics of a reward model: `objective`, for a head in place of log-probs.

The batch has a target wherever a number is read (`tokenq.core.packing.opened`): once in a response, or once in a step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from tokenq.core.losses import LossSum
from tokenq.core.losses.inputs import Scene
from tokenq.core.readout import Logits
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.training.objective import Outcome, Scores, averages, loss_sums, pair_rewards, shared, with_total
from tokenq.training.values import Sums


@dataclass(frozen=True)
class RewardObjective:
    """What the training of a reward model minimises; the loop calls it as it calls an `Objective`.

    Attributes:
        loss: a loss of rewards, or a weighted sum of several.
        attributes: the names of the model's outputs.
    """

    loss: LossSum
    attributes: Sequence[str]

    def weights(self, batch: PackedBatch) -> list[int]:
        """Return how much this batch counts in the step's average of each term: pairs, ratings, or steps."""
        return [_COUNTS[self.loss.unit](batch)] * len(self.loss.terms)

    def score(
        self,
        policy: Callable[..., Tensor],
        reference: TokenScorer | None,
        batch: PackedBatch,
        ref_logits: Callable[[PackedBatch], Logits] | None = None,
    ) -> Scores:
        """Return [N, A] the outputs of the model at every target; it has no reference."""
        return Scores(policy(batch), None, None)

    def judge(self, scores: Scores, batch: PackedBatch) -> Outcome:
        """Return the losses and metrics that follow from the outputs."""
        rewards, unit = scores.logps, self.loss.unit
        scene = Scene(batch, batch.pad(rewards[:, 0]), None)
        arguments = _ARGUMENTS[unit](batch, rewards)
        losses = [term.loss.function(*arguments, *term.loss.given(scene)) for term in self.loss.terms]
        sums = loss_sums(self.loss, losses, self.weights(batch))
        sums |= _SUMS[unit](batch, rewards.detach(), self.attributes)
        rated = _rated(batch, rewards.detach(), self.attributes) if unit == "rated" else {}
        return Outcome(tuple(losses), sums, rewards.detach(), None, rated)

    def __call__(
        self,
        policy: Callable[..., Tensor],
        reference: TokenScorer | None,
        batch: PackedBatch,
        ref_logits: Callable[[PackedBatch], Logits] | None = None,
    ) -> Outcome:
        """Return the losses and metrics of one micro-batch."""
        return self.judge(self.score(policy, reference, batch), batch)

    def share(self, outcome: Outcome, totals: Sequence[float]) -> Tensor:
        """Return what a batch adds to the step's loss, given the step's totals of `weights`."""
        return shared(self.loss, outcome, totals)

    def means(self, totals: dict[str, list[float]]) -> dict[str, float]:
        """Return the averages of a step or an evaluation, the loss first."""
        return with_total(self.loss, averages(totals))


def correlations(parts: Iterable[Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation of outputs and ratings for every attribute.

    Args:
        parts: attribute → (output, rating) of responses, as several batches or processes have them.

    Returns:
        `pearson/NAME` and `spearman/NAME`, NaN where either side is constant or there are fewer than two responses.
    """
    together: dict[str, list[Sequence[float]]] = {}
    for part in parts:
        for name, rows in part.items():
            together.setdefault(name, []).extend(rows)
    found: dict[str, float] = {}
    for name, rows in together.items():
        outputs, ratings = np.asarray(rows, np.float64).reshape(-1, 2).T
        varied = len(rows) > 1 and np.ptp(outputs) > 0 and np.ptp(ratings) > 0
        found[f"pearson/{name}"] = float(stats.pearsonr(outputs, ratings).statistic) if varied else float("nan")
        found[f"spearman/{name}"] = float(stats.spearmanr(outputs, ratings).statistic) if varied else float("nan")
    return found


def _of_pairs(batch: PackedBatch, rewards: Tensor) -> tuple[Tensor, ...]:
    return batch.pad(rewards[:, 0]).sums()[batch.pairs].unbind(1)


_ARGUMENTS: dict[str, Callable[[PackedBatch, Tensor], tuple[Tensor, ...]]] = {
    "pairs": _of_pairs,
    "rated": lambda batch, rewards: (rewards,),
    "steps": lambda batch, rewards: (rewards[:, 0],),
}

_COUNTS: dict[str, Callable[[PackedBatch], int]] = {
    "pairs": lambda batch: len(batch.pairs),
    "rated": lambda batch: int(_known(batch).sum()),
    "steps": lambda batch: len(batch.targets),
}


def _known(batch: PackedBatch) -> Tensor:
    return torch.zeros(0) if batch.ratings is None else ~torch.isnan(batch.ratings)


def _rated(batch: PackedBatch, rewards: Tensor, attributes: Sequence[str]) -> dict[str, list[list[float]]]:
    """Return (output, rating) of every response that was rated on an attribute."""
    if batch.ratings is None:
        return {}
    known, both = _known(batch), torch.stack((rewards, batch.ratings.to(rewards)), 2)
    return {name: both[known[:, place], place].tolist() for place, name in enumerate(attributes)}


def _pair_sums(batch: PackedBatch, rewards: Tensor, attributes: Sequence[str]) -> Sums:
    return pair_rewards(batch, batch.pad(rewards[:, 0]).sums())


def _rating_sums(batch: PackedBatch, rewards: Tensor, attributes: Sequence[str]) -> Sums:
    if batch.ratings is None:
        return {}
    known = _known(batch)
    errors = (rewards - batch.ratings.nan_to_num().to(rewards)).square() * known
    return {f"mse/{name}": (errors[:, i].sum(), int(known[:, i].sum())) for i, name in enumerate(attributes)}


def _step_sums(batch: PackedBatch, rewards: Tensor, attributes: Sequence[str]) -> Sums:
    if batch.step_labels is None:
        return {}
    values, right = rewards[:, 0], batch.step_labels == 1
    return {
        "rewards/chosen": (values[right].sum(), int(right.sum())),
        "rewards/rejected": (values[~right].sum(), int((~right).sum())),
        "rewards/accuracies": (((values > 0) == right).sum(), len(values)),
    }


_SUMS: dict[str, Callable[[PackedBatch, Tensor, Sequence[str]], Sums]] = {
    "pairs": _pair_sums,
    "rated": _rating_sums,
    "steps": _step_sums,
}
