"""Things in flight: packed batches, per-token log-probs, and the protocols that every model is seen through.

A packed batch is one flat row of tokens without padding. Each group (a prompt with its responses) is laid out as
`[prompt | response 1 | response 2 | ...]`; a response token sees the prompt and its own response, and positions
restart after the prompt. The last token of a response predicts nothing and is left out of the input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tokenq.records.examples import Role


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
class Actions:
    """The actions of a batch: the places at which something was chosen, and what the data say of each.

    For text an action is a token of a response that the policy wrote. Losses and metrics see this and nothing of how a
    model is fed.

    Attributes:
        responses: [N] response that action n belongs to, 0..S-1, ascending.
        places: [N] place of action n within its response (counting every token of the response).
        shape: (S, C) responses and the longest response: the shape of padded per-action results.
        roles: the part that each response plays.
        pairs: [P, 2] (chosen, rejected) as indices of responses.
        members: for every response, (its group's index in the data, its place within the group).
        origins: for every response, where its row came from, for messages.
        token_columns: by name, [N] a number for each action; those that every response has.
        response_columns: by name, [S] or [S, A] numbers for each response; those that every response has.
    """

    responses: Int[Tensor, " N"]
    places: Int[Tensor, " N"]
    shape: tuple[int, int]
    roles: tuple[Role, ...]
    pairs: Int[Tensor, "P 2"]
    members: tuple[tuple[int, int], ...]
    origins: tuple[str, ...]
    token_columns: Mapping[str, Shaped[Tensor, " N"]]
    response_columns: Mapping[str, Float[Tensor, " S *A"]]

    def to(self, device: torch.device | str) -> "Actions":
        """Return the actions with their tensors on `device`."""
        return replace(self, **_moved(vars(self), device))

    def of_role(self, *roles: Role) -> Int[Tensor, " M"]:
        """Return the responses of these roles, as indices in their order."""
        found = [index for index, role in enumerate(self.roles) if role in roles]
        return torch.tensor(found, dtype=torch.long, device=self.responses.device)

    def every(self) -> Int[Tensor, " S"]:
        """Return all responses."""
        return torch.arange(self.shape[0], device=self.responses.device)

    def mask(self) -> Bool[Tensor, "S C"]:
        """Return True where a response token was written by the policy."""
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.responses.device)
        mask[self.responses, self.places] = True
        return mask

    def pad(self, flat: Float[Tensor, " N"]) -> "TokenLogps":
        """Return flat per-action log-probs [N] as padded `TokenLogps` [S, C], zero where the mask is False."""
        return TokenLogps(self._padded(flat), self.mask())

    def pair_values(self, flat: Float[Tensor, " N"]) -> "PairValues":
        """Return flat per-action values [N] of the chosen and the rejected responses, padded."""
        padded = self._padded(flat)
        return PairValues(padded[self.pairs[:, 0]], padded[self.pairs[:, 1]])

    def prefix_values(self, flat: Float[Tensor, " N"]) -> "PrefixValues":
        """Return the flat values [N] of the prefix before every action, padded."""
        return PrefixValues(self._padded(flat), self.mask())

    def _padded(self, flat: Tensor) -> Tensor:
        return flat.new_zeros(self.shape).index_put((self.responses, self.places), flat)


@dataclass(frozen=True)
class PackedBatch:
    """The input of a model of text: a flat row of tokens, and the places whose log-probs are asked for.

    Attributes:
        input_ids: [T] tokens of all groups, one after the other.
        position_ids: [T] position of each token in its own sequence (prompt, then response).
        segments: the runs of the flat row, in order.
        predictors: [N] index into the row of the token whose hidden state predicts target n.
        targets: [N] the tokens taken.
        actions: an action for each target.
    """

    input_ids: Int[Tensor, " T"]
    position_ids: Int[Tensor, " T"]
    segments: tuple[Segment, ...]
    predictors: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    actions: Actions

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the batch with its tensors on `device`."""
        return replace(self, **_moved(vars(self), device))


def _moved(held: Any, device: torch.device | str) -> Any:
    """Return a tensor, or what holds some, with its tensors on `device`."""
    if isinstance(held, Tensor):
        return held.to(device, non_blocking=True)
    if isinstance(held, Mapping):
        return {name: _moved(value, device) for name, value in held.items()}
    return held.to(device) if isinstance(held, Actions) else held


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
    """The values of prefixes of N responses, by a value network.

    Attributes:
        values: [N, T] V(x, y_<t), the value before token t was written; 0 where the mask is False.
        mask: [N, T] True = a prefix whose value counts.
    """

    values: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    def select(self, index: Int[Tensor, " M"]) -> "PrefixValues":
        """Return those of the responses at `index`, in that order."""
        return PrefixValues(self.values[index], self.mask[index])


class Batch(Protocol):
    """The input of a scorer, whatever it holds: a row of tokens, pictures, or both."""

    @property
    def actions(self) -> Actions:
        """The actions that are scored."""
        ...

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on `device`."""
        ...


class Outputs(NamedTuple):
    """The outputs of a model for a batch, by name; None for those that it does not give.

    Attributes:
        logps: [N] log π of every action.
        ref_logps: [N] log π_ref.
        readouts: [N] what was read off the policy's vocabulary at every action.
        values: [N] V before every action, of a value network.
        prm_logps: [N] log φ of every action, of an implicit process reward model.
        rewards: [N, A] the outputs of a reward model.
    """

    logps: Float[Tensor, " N"] | None = None
    ref_logps: Float[Tensor, " N"] | None = None
    readouts: Float[Tensor, " N"] | None = None
    values: Float[Tensor, " N"] | None = None
    prm_logps: Float[Tensor, " N"] | None = None
    rewards: Float[Tensor, "N A"] | None = None

    def given(self) -> dict[str, Tensor]:
        """Return the outputs that are there, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def detach(self) -> "Outputs":
        """Return the same numbers without a graph."""
        return Outputs(**{name: value.detach() for name, value in self.given().items()})


class TokenScorer(Protocol):
    """Anything that gives the log-prob of each token taken: a network without a graph, a tabular model."""

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
