"""What a run refuses to go on with: a policy that does not start as its reference, and losses that are no numbers."""

from collections.abc import Sequence

import torch

from tokenq.core.tensors import PackedBatch
from tokenq.errors import UserError
from tokenq.records import TokenGroup
from tokenq.train.objective import Outcome


def check_start(outcome: Outcome, batch: PackedBatch, groups: Sequence[TokenGroup], tolerance: float) -> None:
    """Refuse to start when policy and reference, which should be one function, give different log-probs.

    Compared is the mean difference of each response: in half precision single tokens differ by tenths of a nat between
    two passes that round differently, whole responses do not.
    """
    if outcome.ref_logps is None:
        return
    differences = (outcome.logps - outcome.ref_logps).abs()
    means = differences.new_zeros(batch.shape[0]).index_add(0, batch.responses, differences)
    means = means / torch.bincount(batch.responses, minlength=batch.shape[0])
    response = int(means.argmax())
    if means[response] <= tolerance:
        return
    worst = int(differences.masked_fill(batch.responses != response, -1.0).argmax())
    place, which = batch.members[int(batch.responses[worst])]
    raise UserError(
        f"The policy does not start equal to its reference: a log-prob differs by {differences[worst].item():.3g} nats "
        f"({groups[place].where}, response {which + 1}, token {int(batch.columns[worst]) + 1}: policy "
        f"{outcome.logps[worst].item():.4f}, reference {outcome.ref_logps[worst].item():.4f}).",
        "Something random (dropout) is on, or the stored values are another model's: try --reference-store off.",
    )


def not_finite(outcome: Outcome, batch: PackedBatch, groups: Sequence[TokenGroup]) -> list[str]:
    """Return where the examples with a loss that is no number came from."""
    found: list[str] = []
    for losses in outcome.losses:
        bad = (~torch.isfinite(losses.detach())).nonzero()[:, 0].tolist()
        found += [groups[batch.members[first][0]].where for first in _members(losses, batch, bad)]
    return list(dict.fromkeys(found))


def _members(losses: torch.Tensor, batch: PackedBatch, bad: list[int]) -> list[int]:
    """Return a response that belongs to each of the losses `bad`."""
    if not bad:
        return []
    starts = [index for index, (_, place) in enumerate(batch.members) if place == 0]
    for first in (starts, torch.nonzero(batch.labels >= 0)[:, 0].tolist(), list(range(batch.shape[0]))):
        if len(first) == len(losses):
            return [first[i] for i in bad]
    return starts  # a loss of some responses only: any of the batch may be meant
