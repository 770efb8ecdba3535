"""Things in flight: packed batches, per-token log-probs, and the protocols that every model is seen through.

A packed batch is one flat row of tokens without padding. Each group (a prompt with its responses) is laid out as
`[prompt | response 1 | response 2 | ...]`; a response token sees the prompt and its own response, and positions
restart after the prompt. The last token of a response predicts nothing and is left out of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Segment(NamedTuple):
    """A run of tokens in the flat row that attends causally to itself and wholly to its prefix.

    A prompt with its first response is one run without a prefix; every further response is a run whose prefix is that
    prompt.

    Attributes:
        start: first index of the run.
        stop: one past the last index.
        prefix_start: first index of the prompt that it continues; equal to `prefix_stop` where the run holds it.
        prefix_stop: one past the last index of that prompt.
    """

    start: int
    stop: int
    prefix_start: int
    prefix_stop: int


@dataclass(frozen=True)
class PackedBatch:
    """A flat row of tokens with the places whose log-probs are wanted.

    Attributes:
        input_ids: [T] tokens of all groups, one after the other.
        position_ids: [T] position of each token in its own sequence (prompt, then response).
        segments: the runs of the flat row, in order.
        predictors: [N] index into the row of the token whose hidden state predicts target n.
        targets: [N] the tokens taken.
        responses: [N] response that target n belongs to, 0..S-1, ascending.
        columns: [N] place of target n within its response (counting every token of the response).
        shape: (S, C) responses and the longest response: the shape of padded per-token results.
        pairs: [P, 2] (chosen, rejected) as indices of responses.
        members: for every response, (its group's index in the data set, its place within the group).
        labels: [S] 1 = desirable, 0 = not, −1 = the data does not say.
        contrast: [N] log π₊ − log π₋ of every target under a contrastive pair of models, None without one.
        steps: [N] step of its response that target n belongs to, None where nothing asked for steps.
        rewards: [S] a number for every response, None unless all of them have one.
        margins: [P] by how much the chosen response of a pair was rated above the rejected one, None without ratings.
        ratings: [S, A] of every response by attribute, NaN where one is missing, None where nothing asked for them.
        step_labels: [N] 1 = the step that ends at target n is right, 0 = wrong, None where nothing asked for them.
    """

    input_ids: Int[Tensor, " T"]
    position_ids: Int[Tensor, " T"]
    segments: tuple[Segment, ...]
    predictors: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    responses: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    shape: tuple[int, int]
    pairs: Int[Tensor, "P 2"]
    members: tuple[tuple[int, int], ...]
    labels: Int[Tensor, " S"]
    contrast: Float[Tensor, " N"] | None = None
    steps: Int[Tensor, " N"] | None = None
    rewards: Float[Tensor, " S"] | None = None
    margins: Float[Tensor, " P"] | None = None
    ratings: Float[Tensor, "S A"] | None = None
    step_labels: Int[Tensor, " N"] | None = None

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the batch with its tensors on `device`."""
        held: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in held.items()}
        return replace(self, **moved)

    def mask(self) -> Bool[Tensor, "S C"]:
        """Return True where a response token was written by the policy."""
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.targets.device)
        mask[self.responses, self.columns] = True
        return mask

    def pad(self, flat: Float[Tensor, " N"]) -> "TokenLogps":
        """Return flat per-target log-probs [N] as padded `TokenLogps` [S, C], zero where the mask is False."""
        return TokenLogps(self._padded(flat), self.mask())

    def pair_values(self, flat: Float[Tensor, " N"]) -> "PairValues":
        """Return flat per-target values [N] of the chosen and the rejected responses, padded."""
        padded = self._padded(flat)
        return PairValues(padded[self.pairs[:, 0]], padded[self.pairs[:, 1]])

    def prefix_values(self, flat: Float[Tensor, " N"]) -> "PrefixValues":
        """Return the flat values [N] of the prefix before every target, padded."""
        return PrefixValues(self._padded(flat), self.mask())

    def _padded(self, flat: Tensor) -> Tensor:
        return flat.new_zeros(self.shape).index_put((self.responses, self.columns), flat)


@dataclass(frozen=True)
class TokenLogps:
    """Log-probs of the tokens taken in N responses.

    Attributes:
        logps: [N, T], zero where the mask is False.
        mask: [N, T], True = a token that the policy wrote.
    """

    logps: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    def sums(self) -> Float[Tensor, " N"]:
        """Return log π(y|x) = Σ_t log π(y_t|s_t) over the policy's own tokens."""
        return (self.logps * self.mask).sum(-1)

    def lengths(self) -> Int[Tensor, " N"]:
        """Return the number of the policy's own tokens in each response."""
        return self.mask.sum(-1)

    def select(self, index: Int[Tensor, " M"]) -> "TokenLogps":
        """Return the responses at `index`, in that order."""
        return TokenLogps(self.logps[index], self.mask[index])

    def pairs(self, index: Int[Tensor, "P 2"]) -> "PairLogps":
        """Return the (chosen, rejected) pairs at `index`."""
        return PairLogps(self.select(index[:, 0]), self.select(index[:, 1]))


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of B pairs under one model.

    Attributes:
        chosen: [B, T] log-probs of the chosen responses.
        rejected: [B, T] log-probs of the rejected responses.
    """

    chosen: TokenLogps
    rejected: TokenLogps


@dataclass(frozen=True)
class PairValues:
    """A number for every token of B pairs, beside their log-probs.

    Attributes:
        chosen: [B, T] of the chosen responses, 0 where the mask is False.
        rejected: [B, T] of the rejected responses.
    """

    chosen: Float[Tensor, "B T"]
    rejected: Float[Tensor, "B T"]


@dataclass(frozen=True)
class PrefixValues:
    """What a value network says of prefixes of N responses.

    Attributes:
        values: [N, T] V(x, y_<t), the value before token t was written; 0 where the mask is False.
        mask: [N, T] True = a prefix whose value counts.
    """

    values: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    def select(self, index: Int[Tensor, " M"]) -> "PrefixValues":
        """Return those of the responses at `index`, in that order."""
        return PrefixValues(self.values[index], self.mask[index])


class TokenScorer(Protocol):
    """Anything that gives the log-prob of each token taken: a network, a tabular model, a store on disk."""

    def __call__(self, batch: PackedBatch) -> Float[Tensor, " N"]:
        """Return log π(target n | its prefix) for every target of the batch, flat."""
        ...


@dataclass(frozen=True)
class Frontier:
    """Branches that are being written: what may come next on each, under both models.

    Attributes:
        logps: [B, V] log π(·|s).
        ref_logps: [B, V] log π_ref(·|s), None where no reference runs.
        state: where the stepper stands (cached keys and values, states of a table): nobody else looks inside.
    """

    logps: Float[Tensor, "B V"]
    ref_logps: Float[Tensor, "B V"] | None
    state: Any


class Stepper(Protocol):
    """Anything that can be written with, token by token: two networks with their caches, a tabular world."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        ...

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier of M branches: token m appended to branch `parents[m]` of the frontier of `state`."""
        ...

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return a state whose branch m is branch `row` of an earlier state, for the m-th (state, row).

        All states must come from one call of `start`.
        """
        ...
