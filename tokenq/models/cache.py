"""Keys and values of branches that grow from shared prompts, and attention over them.

A prompt's keys and values are computed once and kept once, however many branches grow from it. A branch has those of
its own tokens only; when branches are picked and multiplied (beams), only these are copied. All branches of a step go
through the model as one flat row without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenq.models.attention import Layout
from tokenq.models.buckets import Bucket, Rows, buckets_of, rows_of


@dataclass
class Prefill:
    """A packed row of whole prompts whose keys and values are kept, layer by layer.

    Attributes:
        layout: the row.
        keys: by layer [key-value heads, T, d], until they are needed by bucket.
        values: by layer [key-value heads, T, d], until they are needed by bucket.
        buckets: the prompts, those of like length together.
        tabled: by layer, keys and values of every bucket.
    """

    layout: Layout
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    buckets: tuple[Bucket, ...] = ()
    tabled: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put prompts of like length together."""
        spans = [(segment.start, segment.stop) for segment in self.layout.segments]
        self.buckets = buckets_of(spans, self.layout.positions.device)

    def tables(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values [heads, P, L, d] of every bucket, made from the flat row the first time."""
        if layer in self.keys:
            keys, values = self.keys.pop(layer), self.values.pop(layer)
            self.tabled[layer] = [(keys[:, one.places], values[:, one.places]) for one in self.buckets]
        return self.tabled[layer]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Return the attention output of the prompts, and keep what later tokens will look at."""
        self.keys[module.layer_idx], self.values[module.layer_idx] = key[0], value[0]
        return self.layout.attend(module, query, key, value, **options)


@dataclass
class _Growth:
    """Keys and values of a layer's branches, with room for more tokens.

    Attributes:
        keys: [heads, B, room, d].
        values: [heads, B, room, d].
    """

    keys: Tensor
    values: Tensor


ROOM = 16
"""Tokens for which memory is added at a time."""


@dataclass
class Branches:
    """The state of B branches under one model: a value, never changed once the next step is made from it.

    Attributes:
        prompts: the prefill they grow from.
        starts: for every prompt (first, one past the last) of its tokens in the prefill.
        owners: [B] prompt of each branch.
        lengths: [B] own tokens of each branch that have keys.
        layers: by layer, what they have grown.
        filled: own tokens for which the memory of `layers` is written: another step may have used it already.
    """

    prompts: Prefill
    starts: tuple[tuple[int, int], ...]
    owners: Tensor
    lengths: Tensor
    layers: dict[int, _Growth]
    filled: list[int]

    @classmethod
    def of(cls, prompts: Prefill) -> "Branches":
        """Return one branch for each prompt, without own tokens."""
        starts = tuple((segment.start, segment.stop) for segment in prompts.layout.segments)
        count = len(starts)
        zero = torch.zeros(count, dtype=torch.long, device=prompts.layout.positions.device)
        return cls(prompts, starts, torch.arange(count, device=zero.device), zero, {}, [0])

    def positions(self) -> Tensor:
        """Return [B] the position of the next token of each branch."""
        sizes = torch.tensor([stop - start for start, stop in self.starts], device=self.owners.device)
        return sizes[self.owners] + self.lengths

    def grown(self, parents: Tensor) -> "Steps":
        """Return the layout of a step in which branch m goes on from `parents[m]`."""
        return Steps(self, parents)


def gathered(places: Sequence[tuple[Branches, int]]) -> Branches:
    """Return branches picked from several states that grew from the same prefill, as (state, row) of each."""
    first = places[0][0]
    device = first.owners.device
    owners = torch.tensor([int(state.owners[row]) for state, row in places], device=device)
    lengths = torch.tensor([int(state.lengths[row]) for state, row in places], device=device)
    longest = int(lengths.max())
    layers = {}
    for number in first.prompts.tabled if longest else ():
        keys, values = first.prompts.tables(number)[0]
        shape = len(keys), len(places), longest + ROOM
        own = _Growth(keys.new_zeros(*shape, keys.shape[-1]), values.new_zeros(*shape, values.shape[-1]))
        for place, (state, row) in enumerate(places):
            size = int(lengths[place])
            if size:
                own.keys[:, place, :size] = state.layers[number].keys[:, row, :size]
                own.values[:, place, :size] = state.layers[number].values[:, row, :size]
        layers[number] = own
    return Branches(first.prompts, first.starts, owners, lengths, layers, [longest])


class Steps:
    """One step: a flat row of one new token for each branch.

    Args:
        before: the branches that are gone on from.
        parents: [M] which of them each new branch continues.
    """

    def __init__(self, before: Branches, parents: Tensor) -> None:
        self._before, self._parents = before, parents
        count, device = len(before.owners), before.owners.device
        same = len(parents) == count and bool((parents == torch.arange(count, device=device)).all())
        longest = int(before.lengths.max()) if count else 0
        # Memory is written in place only by the first step that goes on from these branches just as they are.
        self._in_place = same and before.filled[0] == longest and bool((before.lengths == longest).all())
        owners, lengths = before.owners[parents], before.lengths[parents]
        filled = before.filled if self._in_place else [longest]
        self.after = Branches(before.prompts, before.starts, owners, lengths + 1, {}, filled)
        self._places, self._longest = lengths, longest
        self._rows = [rows_of(bucket, owners) for bucket in before.prompts.buckets]
        self._masks: dict[int | None, Tensor] = {}

    def done(self) -> Branches:
        """Return the branches after the step, once every layer has seen it."""
        self.after.filled[0] = self._longest + 1
        return self.after

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Return the attention output [1, M, heads, d] of the new tokens.

        Args:
            module: the attention layer.
            query: [1, heads, M, d].
            key: [1, key-value heads, M, d].
            value: [1, key-value heads, M, d].
            scaling: factor on the scores; 1/√d when None.
            window: how far back a token sees, itself included; None for everything.
            softcap: scores are softcap · tanh(score / softcap).
            dropout: unused; nothing is trained here.
        """
        own = self._grow(module.layer_idx, key[0], value[0])
        heads, size = key.shape[1], query.shape[-1]
        repeats = query.shape[1] // heads
        scale = size**-0.5 if scaling is None else scaling
        asked = (query[0] * scale).view(heads, repeats, -1, size).transpose(1, 2)  # [heads, M, repeats, d]
        length = self._longest + 1
        near = asked @ own.keys[:, :, :length].transpose(-1, -2)  # [heads, M, repeats, length]
        near = _capped(near, softcap).masked_fill(~self._visible(window)[None, :, None], -torch.inf)
        prompts = self._before.prompts
        output = torch.empty_like(asked)
        for bucket, rows, (keys, values) in zip(
            prompts.buckets, self._rows, prompts.tables(module.layer_idx), strict=True
        ):
            if rows is None:
                continue
            count, each = rows.index.shape
            picked = slice(None) if rows.every else rows.index.flatten()
            part = asked[:, picked].reshape(heads, count, each * repeats, size)
            first = self._reach(window, rows, keys.shape[2])
            far = part @ keys[:, :, first:].transpose(-1, -2)  # [heads, P, n · repeats, L]
            far = self._masked(_capped(far, softcap).view(heads, count, each, repeats, -1), bucket, rows, window)
            scores = torch.cat((far, near[:, picked].reshape(heads, count, each, repeats, -1)), -1)
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
            told = weights[..., : far.shape[-1]].flatten(2, 3) @ values[:, :, first:]
            mine = weights[..., far.shape[-1] :].flatten(1, 2) @ own.values[:, picked, :length]
            both = told.reshape(heads, count * each, repeats, size) + mine
            if rows.every:
                output = both
            else:
                output[:, rows.index[rows.real]] = both[:, rows.real.flatten()]
        return output.transpose(1, 2).reshape(1, heads * repeats, -1, size).transpose(1, 2)

    def _reach(self, window: int | None, rows: Rows, longest: int) -> int:
        """Return the first place of a bucket that a window reaches back to from its branch with the fewest tokens."""
        if window is None:
            return 0
        return longest - min(longest, max(0, window - 1 - int(self._places[rows.index].min())))

    def _masked(self, far: Tensor, bucket: Bucket, rows: Rows, window: int | None) -> Tensor:
        """Return scores [heads, P, n, repeats, L] of prompt tokens, without those that are missing or out of reach."""
        length = far.shape[-1]
        if bucket.missing is not None and length:
            far = far.masked_fill(bucket.missing[:, None, None, -length:], -torch.inf)
        if window is not None:
            back = self._places[rows.index][..., None] + torch.arange(length, 0, -1, device=far.device)
            far = far.masked_fill((back >= window)[:, :, None], -torch.inf)
        return far

    def _grow(self, layer: int, key: Tensor, value: Tensor) -> _Growth:
        """Return the layer's keys and values with those of the new tokens, [heads, M, d] each."""
        before = self._before.layers.get(layer)
        heads, count, size = key.shape
        if before is None:
            room = key.new_zeros(heads, count, ROOM, size), value.new_zeros(heads, count, ROOM, value.shape[-1])
        elif self._in_place and self._longest < before.keys.shape[2]:
            room = before.keys, before.values
        else:
            more = ROOM * (self._longest >= before.keys.shape[2])
            room = _picked(before.keys, self._parents, more), _picked(before.values, self._parents, more)
        rows = torch.arange(count, device=key.device)
        room[0][:, rows, self._places] = key
        room[1][:, rows, self._places] = value
        self.after.layers[layer] = grown = _Growth(*room)
        return grown

    def _visible(self, window: int | None) -> Tensor:
        """Return [M, length] True for own tokens that the new token sees, itself included."""
        if window not in self._masks:
            back = self._places[:, None] - torch.arange(self._longest + 1, device=self._places.device)
            self._masks[window] = (back >= 0) if window is None else (back >= 0) & (back < window)
        return self._masks[window]


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _picked(table: Tensor, parents: Tensor, more: int) -> Tensor:
    """Return the rows of the parents, [heads, M, room + more, d]."""
    heads, _, room, size = table.shape
    picked = table.new_zeros(heads, len(parents), room + more, size)
    picked[:, :, :room] = table[:, parents]
    return picked
