"""The inputs of losses besides log-probs: one table, `INPUTS`, with the sources of each.

An input stands in a loss's signature behind the log-probs, under its name. Some have several sources, which are a
choice of whoever trains (`--loss-options calibration=rejected`). Numbers that the data give, a column of them, need no
row here: what adds the column is a row of `tokenq/data/signals.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenq.core.logits import Logits
from tokenq.core.qfunction import sequence_rewards
from tokenq.core.tensors import Actions, Outputs, PairValues, PrefixValues, TokenLogps
from tokenq.core.token_weights import LIVE, live_weights
from tokenq.core.vocabulary import overlaps, reference_kls
from tokenq.errors import UserError


@dataclass(frozen=True)
class Scene:
    """A batch when its losses are computed.

    Attributes:
        actions: of the batch.
        outputs: of the models.
        beta: temperature at which rewards are reported.
        attributes: the names of a reward model's outputs.
        segments: name → strength β_s of each part of the responses, in the order in which the token column `segments`
            numbers them; none where all have one strength.
        token_weights: where weights of tokens come from: "" for none, the token column of that name, or a key of
            `LIVE` of `tokenq/core/token_weights.py`.
        counted: [N] whether an action counts for a loss; None where all do.
    """

    actions: Actions
    outputs: Outputs
    beta: float = 1.0
    attributes: Sequence[str] = ()
    segments: Mapping[str, float] = field(default_factory=dict)
    token_weights: str = ""
    counted: Tensor | None = None

    def scaled(self, beta: float) -> "Scene":
        """Return the scene with all log-probs of an action times β_s/β, s being the segment of the action.

        For a loss of β Σ_t log π/π_ref that is Σ_s β_s Σ_{t in s} log π/π_ref: Eq. 17 and 18 of arXiv 2404.12358, where
        words have β and the image γ. What was read off the vocabulary, such as KL(π_ref‖π) at each action, counts by
        the same factors. Equal strengths β are factors of exactly 1.

        Args:
            beta: the temperature of the loss.
        """
        if not self.segments:
            return self
        factors = torch.tensor([strength / beta for strength in self.segments.values()], dtype=torch.float64)
        column = self.column("segments")
        return replace(self, outputs=self._times(factors.to(column.device)[column]), segments={})

    def weighted(self) -> "Scene":
        """Return the scene with all log-probs of an action times its weight; what has weight 0 does not count.

        Weights of 1 are factors of exactly 1.
        """
        if not self.token_weights:
            return self
        if self.token_weights in LIVE:
            found = self.actions.pad(_given(self.outputs.logps).detach())
            weights = live_weights(self.token_weights, found, self.actions.responses, self.actions.places)
        else:
            weights = self.column(self.token_weights)
        return replace(self, outputs=self._times(weights), token_weights="", counted=weights > 0)

    def _times(self, factors: Tensor) -> Outputs:
        """Return the outputs with all that counts by action times a factor for each."""
        held = {name: self.outputs.given()[name] for name in _SCALED & self.outputs.given().keys()}
        return self.outputs._replace(**{name: one * factors.to(one.dtype) for name, one in held.items()})

    def _padded(self, flat: Tensor) -> TokenLogps:
        """Return log-probs of the actions that count, padded."""
        found = self.actions.pad(flat)
        if self.counted is None:
            return found
        return TokenLogps(found.logps, found.mask & (self.actions.pad(self.counted.to(flat.dtype)).logps > 0))

    @cached_property
    def policy(self) -> TokenLogps:
        """[S, C] log π of all responses."""
        return self._padded(_given(self.outputs.logps))

    @cached_property
    def prm(self) -> TokenLogps:
        """[S, C] log φ of all responses; where no process reward model is beside the policy, the policy is one."""
        found = self.outputs.prm_logps
        return self.policy if found is None else self._padded(found)

    @cached_property
    def reference(self) -> TokenLogps | None:
        """[S, C] log π_ref, None for losses without a reference."""
        found = self.outputs.ref_logps
        return None if found is None else self._padded(found.to(_given(self.outputs.logps).dtype))

    @cached_property
    def rewards(self) -> Float[Tensor, " S"] | None:
        """[S] what is reported as the reward of each response: Σ_s β_s log π/π_ref, or a reward model's; no graph."""
        if self.outputs.rewards is not None:
            return self.actions.pad(self.outputs.rewards[:, 0].detach()).sums()
        scaled = self.scaled(self.beta)
        if scaled.reference is None:
            return None
        return sequence_rewards(scaled.policy, scaled.reference, self.beta).detach()

    def ratios(self, rows: Tensor) -> Float[Tensor, " M"]:
        """Return Σ log π/π_ref of some responses."""
        if self.reference is None:
            raise UserError("Log-ratios need a reference.", "Take a loss that has one.")
        return self.policy.select(rows).sums() - self.reference.select(rows).sums()

    def column(self, name: str) -> Tensor:
        """Return a column of the data by its name: [N] by token, or [S] or [S, A] by response.

        Raises:
            UserError: some response of the batch does not have it.
        """
        for columns in (self.actions.token_columns, self.actions.response_columns):
            if name in columns:
                return columns[name]
        hint = (
            INPUTS[name].hint if name in INPUTS else "Add it to the data: a row in SIGNALS of tokenq/data/signals.py."
        )
        raise UserError(f"The loss needs {name} of every response, and a batch has none.", hint)

    def padded(self, name: str) -> Tensor:
        """Return a column in the type of the outputs: [S, C] by token, 0 where there is no action, or by response."""
        numbers = self.column(name).to(next(iter(self.outputs.given().values())))
        return self.actions.pad(numbers).logps if name in self.actions.token_columns else numbers


_SCALED = {"logps", "ref_logps", "prm_logps", "readouts"}
"""The outputs that strengths by segment scale."""


def _given(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("the model gives no log-probs")
    return values


def labels(scene: Scene) -> Bool[Tensor, " N"]:
    """Return True for the labelled responses that are desirable."""
    found = [role == "chosen" for role in scene.actions.roles if role in ("chosen", "rejected")]
    return torch.tensor(found, dtype=torch.bool, device=scene.actions.responses.device)


def rankings(actions: Actions) -> Int[Tensor, "B K"]:
    """Return the responses of each ranking in their order, as indices; −1 behind the last."""
    rows: list[list[int]] = []
    for index, role in enumerate(actions.roles):
        rows += [[]] if role == "chosen" else []  # the best one stands first
        rows[-1].append(index)
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], device=actions.responses.device)


def candidates(actions: Actions) -> Int[Tensor, "B K"]:
    """Return the responses to each prompt in their order, as indices; −1 behind the last."""
    rows: list[list[int]] = []
    for index, (_, place) in enumerate(actions.members):
        rows += [[]] if place == 0 or not rows else []
        rows[-1].append(index)
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], device=actions.responses.device)


def heaviest(actions: Actions) -> Tensor:
    """Return the response of the largest weight to each prompt."""
    rows, weights = candidates(actions), actions.token_columns.get("target_weights")
    if weights is None:
        return actions.every()
    padded = actions.pad(weights)
    own = (padded.sums() / padded.lengths().clamp(min=1))[rows.clamp(min=0)].masked_fill(rows < 0, -1.0)
    return rows.gather(1, own.argmax(1, keepdim=True))[:, 0]


def token_values(scene: Scene) -> PrefixValues:
    """Return the value before each token that the policy wrote."""
    if scene.outputs.values is None:
        raise UserError("The loss needs a value network, and there is none.", INPUTS["values"].hint)
    return scene.actions.prefix_values(scene.outputs.values)


def prompt_values(scene: Scene) -> PrefixValues:
    """Return the value before the first of them alone: the prompt's."""
    every = token_values(scene)
    return PrefixValues(every.values, every.mask & (every.mask.cumsum(1) == 1))


def readouts(scene: Scene) -> PairValues:
    """Return the numbers read off the vocabulary, of chosen and rejected responses."""
    if scene.outputs.readouts is None:
        raise UserError("The loss reads the whole vocabulary, and nothing was read.", "Train with tokenq's own loop.")
    return scene.actions.pair_values(scene.outputs.readouts)


def _pair_column(name: str) -> Callable[[Scene], PairValues]:
    return lambda scene: scene.actions.pair_values(scene.column(name).to(scene.policy.logps))


class Input(NamedTuple):
    """A row of the table.

    Attributes:
        sources: name → function of a scene; the first is the default.
        says: what it is, for messages.
        hint: what to do where the data has none.
        reads: what to read off the policy's logits, and the reference's (None: not needed), at every target.
        network: whether a value network gives it, which stands beside the policy and is trained with it.
        selections: source → what is asked of the data for it, where that is more than the kind of row.
    """

    sources: Mapping[str, Callable[[Scene], Any]]
    says: str
    hint: str = ""
    reads: Callable[[Logits, Logits | None], Tensor] | None = None
    network: bool = False
    selections: Mapping[str, str] = {}


INPUTS: dict[str, Input] = {
    "labels": Input({"data": labels}, "labels", "Give data with a column label, or pairs."),
    "rankings": Input({"data": lambda scene: rankings(scene.actions)}, "rankings", "Give data with ratings."),
    "candidates": Input({"data": lambda scene: candidates(scene.actions)}, "responses to one prompt"),
    "mismatched": Input(
        {
            "data": lambda scene: scene.ratios(scene.actions.of_role("mismatched")),
            "none": lambda scene: scene.policy.logps.new_zeros(0),
        },
        "mismatched responses",
    ),
    "calibration": Input(
        {
            "chosen": lambda scene: scene.ratios(scene.actions.pairs[:, 0]),
            "rejected": lambda scene: scene.ratios(scene.actions.pairs[:, 1]),
            "both": lambda scene: scene.ratios(scene.actions.pairs.flatten()).reshape(-1, 2).mean(1),
            "given": lambda scene: scene.ratios(scene.actions.of_role("calibration")),
        },
        "calibration responses",
        "Add a column calibration, or choose --loss-options calibration=chosen, rejected or both.",
        selections={"given": "calibrated"},
    ),
    "steps": Input({"data": _pair_column("steps")}, "steps", "Tokenise with steps."),
    "rewards": Input(
        {"data": lambda scene: scene.column("rewards").to(scene.policy.logps)},
        "rewards",
        "Give data with a column reward, with labels or with ratings.",
    ),
    "values": Input(
        {"prompt": prompt_values, "tokens": token_values},
        "values",
        "Train with a policy that has a value network beside it.",
        network=True,
    ),
    "margin": Input(
        {"data": lambda scene: scene.column("margin")[scene.actions.pairs[:, 0]]},
        "margins",
        "Add a column margin, or score_chosen and score_rejected.",
        selections={"data": "margins"},
    ),
    "ratings": Input(
        {"data": lambda scene: scene.column("ratings")},
        "ratings",
        "Give data with ratings, such as a column helpfulness.",
    ),
    "step_labels": Input(
        {"data": lambda scene: scene.column("step_labels") == 1},
        "labels of steps",
        "Give data with columns completions and labels.",
    ),
    "ref_kls": Input({"vocabulary": readouts}, "KL(π_ref‖π) at every position", reads=reference_kls),
    "overlaps": Input({"vocabulary": readouts}, "log Σ π² at every position", reads=lambda own, _: overlaps(own)),
}
"""Every input by the name that it has in a loss's signature. A name that is not here is a column of the data."""
