"""What a loss may ask for besides log-probs: one table, `INPUTS`, and where each input comes from.

An input stands in a loss's signature behind the log-probs, under its name. Some have several sources, which are a
choice of whoever trains (`--loss-options calibration=rejected`). To add one: write a function of a `Scene`, add a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.core.readout import Logits
from tokenq.core.tensors import PackedBatch, PairValues, PrefixValues, TokenLogps
from tokenq.core.vocabulary import overlaps, reference_kls
from tokenq.errors import UserError


@dataclass(frozen=True)
class Scene:
    """What is known of a batch when its loss is computed.

    Attributes:
        batch: the batch.
        policy: [S, C] log π of all its responses.
        reference: [S, C] log π_ref, None for losses without a reference.
        read: [N] what was read off the policy's vocabulary, or off a value network, at every target; None where no
            input asked.
    """

    batch: PackedBatch
    policy: TokenLogps
    reference: TokenLogps | None
    read: Float[Tensor, " N"] | None = None

    def ratios(self, rows: Tensor) -> Float[Tensor, " M"]:
        """Return Σ log π/π_ref of some responses."""
        if self.reference is None:
            raise UserError("Log-ratios need a reference.", "Take a loss that has one.")
        return self.policy.select(rows).sums() - self.reference.select(rows).sums()


def labels(scene: Scene) -> Bool[Tensor, " N"]:
    """Return the labels of the labelled responses."""
    return scene.batch.labels[labelled(scene.batch)] == 1


def labelled(batch: PackedBatch) -> Int[Tensor, " N"]:
    """Return which responses have a label."""
    return torch.nonzero(batch.labels >= 0)[:, 0]


def mismatched(scene: Scene) -> Float[Tensor, " M"]:
    """Return the log-ratios of the responses beside labelled ones that have no label: those of other prompts."""
    return scene.ratios(torch.nonzero(scene.batch.labels < 0)[:, 0])


def rankings(batch: PackedBatch) -> Int[Tensor, "B K"]:
    """Return the responses of each group in their order, as indices; −1 behind the last."""
    rows: list[list[int]] = []
    for index, (_, place) in enumerate(batch.members):
        rows += [[]] if place == 0 else []
        rows[-1].append(index)
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], device=batch.targets.device)


def given_calibration(scene: Scene) -> Float[Tensor, " B"]:
    """Return the log-ratios of the response that the data gives beside each pair."""
    return scene.ratios(scene.batch.pairs[:, 1] + 1)


def pair_calibration(scene: Scene) -> Float[Tensor, " B"]:
    """Return the mean log-ratio of the chosen and the rejected response."""
    return scene.ratios(scene.batch.pairs.flatten()).reshape(-1, 2).mean(1)


def deciding_steps(scene: Scene) -> PairValues:
    """Return 1 for the tokens of the first step in which chosen and rejected response differ, 0 for others."""
    batch, width = scene.batch, scene.batch.shape[1]
    tokens = torch.full(batch.shape, -1, device=batch.targets.device)
    tokens[batch.responses, batch.columns] = batch.targets
    numbers = tokens.new_full(batch.shape, -1)
    numbers[batch.responses, batch.columns] = _of_data(batch.steps, "steps").to(numbers)
    chosen, rejected = tokens[batch.pairs[:, 0]], tokens[batch.pairs[:, 1]]
    first = (chosen != rejected).long().argmax(1, keepdim=True).clamp(max=width - 1)
    sides = [numbers[batch.pairs[:, side]] for side in (0, 1)]
    at = [side.gather(1, first).where(side.gather(1, first) >= 0, side.amax(1, keepdim=True)) for side in sides]
    step = torch.minimum(*at)
    masks = [(side == step).to(scene.policy.logps) for side in sides]
    return PairValues(*masks)


def rewards(scene: Scene) -> Float[Tensor, " N"]:
    """Return the rewards of the responses."""
    return _of_data(scene.batch.rewards, "rewards").to(scene.policy.logps)


def token_values(scene: Scene) -> PrefixValues:
    """Return the value before each token that the policy wrote."""
    if scene.read is None:
        raise UserError("The loss needs a value network, and there is none.", INPUTS["values"].hint)
    return scene.batch.prefix_values(scene.read)


def prompt_values(scene: Scene) -> PrefixValues:
    """Return the value before the first of them alone: the prompt's."""
    every = token_values(scene)
    return PrefixValues(every.values, every.mask & (every.mask.cumsum(1) == 1))


def margin(scene: Scene) -> Float[Tensor, " B"]:
    """Return by how much the chosen response of each pair was rated above the rejected one."""
    return _of_data(scene.batch.margins, "margin")


def ratings(scene: Scene) -> Float[Tensor, "N A"]:
    """Return the ratings of each response, NaN where one is missing."""
    return _of_data(scene.batch.ratings, "ratings")


def step_labels(scene: Scene) -> Bool[Tensor, " N"]:
    """Return which of the steps that are read are right."""
    return _of_data(scene.batch.step_labels, "step_labels") == 1


def _of_data(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise UserError(f"The loss needs {name} of every response, and a batch has none.", INPUTS[name].hint)
    return values


def _read(scene: Scene) -> PairValues:
    if scene.read is None:
        raise UserError("The loss reads the whole vocabulary, and nothing was read.", "Train with tokenq's own loop.")
    return scene.batch.pair_values(scene.read)


class Input(NamedTuple):
    """A row of the table.

    Attributes:
        sources: name → function of a scene; the first is the default.
        says: what it is, for messages.
        hint: what to do where the data has none.
        reads: what to read off the policy's logits, and the reference's (None: not needed), at every target.
        network: whether a value network gives it, which stands beside the policy and is trained with it.
    """

    sources: Mapping[str, Callable[[Scene], Any]]
    says: str
    hint: str = ""
    reads: Callable[[Logits, Logits | None], Tensor] | None = None
    network: bool = False


INPUTS: dict[str, Input] = {
    "labels": Input({"data": labels}, "labels", "Give data with a column label, or pairs."),
    "rankings": Input({"data": lambda scene: rankings(scene.batch)}, "rankings", "Give data with ratings."),
    "mismatched": Input(
        {"data": mismatched, "none": lambda scene: scene.policy.logps.new_zeros(0)}, "mismatched responses"
    ),
    "calibration": Input(
        {
            "chosen": lambda scene: scene.ratios(scene.batch.pairs[:, 0]),
            "rejected": lambda scene: scene.ratios(scene.batch.pairs[:, 1]),
            "both": pair_calibration,
            "given": given_calibration,
        },
        "calibration responses",
        "Add a column calibration, or choose --loss-options calibration=chosen, rejected or both.",
    ),
    "contrast": Input(
        {
            "data": lambda scene: scene.batch.pair_values(
                _of_data(scene.batch.contrast, "contrast").to(scene.policy.logps)
            )
        },
        "token weights",
        "Score the data with a contrastive pair (tokenq score --policy GOOD --reference BAD --output traces.jsonl), "
        "then add --contrast traces.jsonl.",
    ),
    "steps": Input({"data": deciding_steps}, "steps", "Tokenise with steps."),
    "rewards": Input({"data": rewards}, "rewards", "Give data with a column reward, with labels or with ratings."),
    "values": Input(
        {"prompt": prompt_values, "tokens": token_values},
        "values",
        "Train with a policy that has a value network beside it.",
        network=True,
    ),
    "margin": Input({"data": margin}, "margins", "Add a column margin, or score_chosen and score_rejected."),
    "ratings": Input({"data": ratings}, "ratings", "Give data with ratings, such as a column helpfulness."),
    "step_labels": Input({"data": step_labels}, "labels of steps", "Give data with columns completions and labels."),
    "ref_kls": Input({"vocabulary": _read}, "KL(π_ref‖π) at every position", reads=reference_kls),
    "overlaps": Input({"vocabulary": _read}, "log Σ π² at every position", reads=lambda own, _: overlaps(own)),
}
"""Every input by the name that it has in a loss's signature."""
