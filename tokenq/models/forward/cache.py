"""Keys and values of branches that grow from shared prompts, and attention over them.

A prompt's keys and values are computed once and kept once, however many branches grow from it. A branch has those of
its own tokens only; when branches are picked and multiplied (beams), only these are copied. All branches of a step go
through the model as one flat row without padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenq.models.forward.attention import Layout, Past, Scoring
from tokenq.models.forward.buckets import Bucket, BucketRows, buckets_of, rows_of


@dataclass
class Prefill:
    """A packed row of whole prompts whose keys and values are kept, layer by layer.

    Attributes:
        layout: the row.
        keys: by layer [key-value heads, T, d], until they are needed by bucket.
        values: by layer [key-value heads, T, d], until they are needed by bucket.
        sizes: [P] tokens of every prompt.
        buckets: the prompts, those of like length together.
        tabled: by layer, keys and values of every bucket.
        past: the beginnings of the prompts that were read before; None where all is read now.
    """

    layout: Layout
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    sizes: Tensor = field(init=False)
    buckets: tuple[Bucket, ...] = field(init=False)
    tabled: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    past: Past | None = None

    def __post_init__(self) -> None:
        """Group prompts of similar length."""
        spans = [(segment.start, segment.stop) for segment in self.layout.segments]
        device = self.layout.positions.device
        self.sizes = torch.tensor([stop - start for start, stop in spans], device=device)
        self.buckets = buckets_of(spans, device)

    def tables(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values [heads, P, L, d] of every bucket, made from the flat row the first time."""
        if layer in self.keys:
            keys, values = self.keys.pop(layer), self.values.pop(layer)
            self.tabled[layer] = [(keys[:, one.places], values[:, one.places]) for one in self.buckets]
        return self.tabled[layer]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output of the prompts, and keep their keys and values for later tokens."""
        layer = module.layer_idx
        if self.past is not None:
            output, self.keys[layer], self.values[layer] = self.past.attend(
                layer, query, key, value, self.layout, scoring
            )
            return output
        self.keys[layer], self.values[layer] = key[0], value[0]
        return self.layout.attend(module, query, key, value, scoring)


class Prompts(Protocol):
    """Prompts that branches grow from, by tables of those of like length."""

    @property
    def sizes(self) -> Tensor:
        """[P] tokens of every prompt."""
        ...

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The tables, as to their prompts."""
        ...

    @property
    def tabled(self) -> Mapping[int, Sequence[tuple[Tensor, Tensor]]]:
        """By layer, keys and values of every table that is made."""
        ...

    def tables(self, layer: int) -> Sequence[tuple[Tensor, Tensor]]:
        """Return keys and values [heads, P, L, d] of every table."""
        ...


@dataclass
class Growth:
    """Keys and values of a layer's branches, with room for more tokens.

    Attributes:
        keys: [heads, B, room, d]; some finite number where a branch has no token.
        values: [heads, B, room, d]; likewise.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, like: tuple[Tensor, Tensor], count: int, room: int) -> "Growth":
        """Return room for the tokens of some branches, with heads and sizes as in keys and values [heads, …, d]."""
        keys, values = (one.new_zeros(len(one), count, room, one.shape[-1]) for one in like)
        return cls(keys, values)

    def picked(self, rows: Tensor) -> "Growth":
        """Return a copy of some rows."""
        return Growth(self.keys.index_select(1, rows), self.values.index_select(1, rows))

    def roomier(self) -> "Growth":
        """Return a copy with room for more tokens."""
        more = (0, 0, 0, ROOM)
        return Growth(torch.nn.functional.pad(self.keys, more), torch.nn.functional.pad(self.values, more))


ROOM = 32
"""Tokens for which memory is added at a time."""

SLOW = 400
"""Products in one of many small matrices below which torch takes its slow way on CPU: such are made wider."""


@dataclass
class Branches:
    """The state of B branches under one model: a value, never changed once the next step is made from it.

    Attributes:
        prompts: what they grow from.
        owners: [B] prompt of each branch.
        lengths: [B] own tokens of each branch that have keys.
        longest: most of them.
        level: whether all have as many.
        rows: by bucket of prompts, which of the branches grow from it.
        layers: by layer, what they have grown.
        filled: own tokens for which the memory of `layers` is written: another step may have used it already.
    """

    prompts: Prompts
    owners: Tensor
    lengths: Tensor
    longest: int
    level: bool
    rows: list[BucketRows | None]
    layers: dict[int, Growth]
    filled: list[int]

    @classmethod
    def of(cls, prompts: Prompts) -> "Branches":
        """Return one branch for each prompt, without tokens of its own."""
        owners = torch.arange(len(prompts.sizes), device=prompts.sizes.device)
        return cls(prompts, owners, torch.zeros_like(owners), 0, True, rows_of(prompts.buckets, owners), {}, [0])

    def picked(self, parents: Tensor) -> "Branches":
        """Return the branches at `parents` [M], repeated as often as they occur; layers are picked one by one."""
        owners, lengths = self.owners[parents], self.lengths[parents]
        longest = self.longest if self.level else int(lengths.max())
        level = self.level or bool((lengths == longest).all())
        rows = rows_of(self.prompts.buckets, owners)
        return Branches(self.prompts, owners, lengths, longest, level, rows, self.layers, [longest])


def gathered(places: Sequence[tuple[Branches, int]]) -> Branches:
    """Return branches picked from several states that grew from the same prefill, as (state, row) of each."""
    states = {id(state): state for state, _ in places}
    prompts = places[0][0].prompts
    device = prompts.sizes.device
    owners, lengths = torch.zeros((2, len(places)), dtype=torch.long, device=device)
    longest = max(state.longest for state in states.values())
    layers = {
        number: Growth.empty(prompts.tables(number)[0], len(places), longest + ROOM)
        for number in (prompts.tabled if longest else ())
    }
    for name, state in states.items():
        own = [(place, row) for place, (other, row) in enumerate(places) if id(other) == name]
        into, rows = torch.tensor(own, device=device).T
        owners[into], lengths[into] = state.owners[rows], state.lengths[rows]
        for number, growth in layers.items() if state.longest else ():
            room = slice(state.longest)
            growth.keys[:, into, room] = state.layers[number].keys[:, rows, room]
            growth.values[:, into, room] = state.layers[number].values[:, rows, room]
    level = all(state.level and state.longest == longest for state in states.values())
    return Branches(prompts, owners, lengths, longest, level, rows_of(prompts.buckets, owners), layers, [longest])


class Steps:
    """One step: a flat row of one new token for each branch.

    Args:
        before: the branches that are gone on from.
        parents: [M] which of them each new branch continues.
    """

    def __init__(self, before: Branches, parents: Tensor) -> None:
        same = torch.equal(parents, torch.arange(len(before.owners), device=parents.device))
        self._parents = parents.to(before.owners.device)
        self._branches = before if same else before.picked(self._parents)
        # Memory is written in place only by the first step that goes on from these branches just as they are.
        self._in_place = same and before.filled[0] == before.longest
        now = self._branches
        filled = before.filled if self._in_place else [now.longest]
        self.after = Branches(
            now.prompts, now.owners, now.lengths + 1, now.longest + 1, now.level, now.rows, {}, filled
        )
        self._masks: dict[tuple[int | None, int], Tensor | None] = {}

    @property
    def positions(self) -> Tensor:
        """Return [M] the position of each new token."""
        return self._branches.prompts.sizes[self._branches.owners] + self._branches.lengths

    def done(self) -> Branches:
        """Return the branches after the step, once every layer has seen it."""
        self.after.filled[0] = self.after.longest
        return self.after

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output [1, M, heads, d] of the new tokens; nothing is trained here, so none drops."""
        scaling, window, softcap, _ = scoring
        own = self._grow(module.layer_idx, key[0], value[0])
        heads, size = key.shape[1], query.shape[-1]
        repeats = query.shape[1] // heads
        scale = size**-0.5 if scaling is None else scaling
        asked = (query[0] * scale).view(heads, repeats, -1, size).transpose(1, 2)  # [heads, M, repeats, d]
        width = min(own.keys.shape[2], max(self.after.longest, -(-SLOW // (repeats * size))))
        near = _capped(asked @ own.keys[:, :, :width].transpose(-1, -2), softcap)  # [heads, M, repeats, width]
        hidden = self._hidden(window, width)
        if hidden is not None:
            near.masked_fill_(hidden[None, :, None], -torch.inf)
        output, near_weights = value.new_empty(*asked.shape[:3], value.shape[-1]), near.to(value.dtype)
        prompts = self._branches.prompts
        tables = prompts.tables(module.layer_idx)
        for bucket, rows, (keys, values) in zip(prompts.buckets, self._branches.rows, tables, strict=True):
            if rows is None:
                continue
            count, each = rows.index.shape
            part, close = (
                table if rows.every else table.index_select(1, rows.index.flatten()) for table in (asked, near)
            )
            first = self._reach(window, rows, keys.shape[2])
            far = part.reshape(heads, count, each * repeats, size) @ keys[:, :, first:].transpose(-1, -2)
            far = self._masked(_capped(far, softcap).view(heads, count, each, repeats, -1), bucket, rows, window)
            scores = torch.cat((far.flatten(1, 2), close), -1)  # [heads, P n, repeats, L + width]
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
            on_prompt = weights[..., : far.shape[-1]].reshape(heads, count, each * repeats, -1)
            told = (on_prompt @ values[:, :, first:]).view(heads, count * each, repeats, -1)
            if rows.every:
                output, near_weights = told, weights[..., far.shape[-1] :]
            else:
                rows.put(output, told)
                rows.put(near_weights, weights[..., far.shape[-1] :])
        output = output + near_weights @ own.values[:, :, :width]
        return output.transpose(1, 2).reshape(1, heads * repeats, -1, value.shape[-1]).transpose(1, 2)

    def _reach(self, window: int | None, rows: BucketRows, longest: int) -> int:
        """Return the first position of a bucket that the window of any of its branches reaches."""
        if window is None:
            return 0
        now = self._branches
        fewest = now.longest if now.level else int(now.lengths[rows.index].min())
        return longest - min(longest, max(0, window - 1 - fewest))

    def _masked(self, far: Tensor, bucket: Bucket, rows: BucketRows, window: int | None) -> Tensor:
        """Mask scores [heads, P, n, repeats, L] of prompt tokens that are padding or outside the window."""
        length = far.shape[-1]
        if bucket.missing is not None and length:
            far.masked_fill_(bucket.missing[:, None, None, -length:], -torch.inf)
        if window is not None:
            back = self._branches.lengths[rows.index][..., None] + torch.arange(length, 0, -1, device=far.device)
            far.masked_fill_((back >= window)[:, :, None], -torch.inf)
        return far

    def _grow(self, layer: int, key: Tensor, value: Tensor) -> Growth:
        """Return the layer's keys and values with those of the new tokens, [heads, M, d] each."""
        now, longest = self._branches, self._branches.longest
        if layer not in now.layers:
            grown = Growth.empty((key, value), key.shape[1], ROOM)
        else:
            grown = now.layers[layer] if self._in_place else now.layers[layer].picked(self._parents)
            grown = grown if longest < grown.keys.shape[2] else grown.roomier()
        if now.level:
            grown.keys[:, :, longest], grown.values[:, :, longest] = key, value
        else:
            rows = torch.arange(key.shape[1], device=key.device)
            grown.keys[:, rows, now.lengths], grown.values[:, rows, now.lengths] = key, value
        self.after.layers[layer] = grown
        return grown

    def _hidden(self, window: int | None, width: int) -> Tensor | None:
        """Return [M or 1, width] True for places that the new token does not see, None where it sees all of them."""
        asked, now = (window, width), self._branches
        if asked not in self._masks:
            lengths = now.lengths[:1] if now.level else now.lengths
            back = lengths[:, None] - torch.arange(width, device=lengths.device)
            hidden = (back < 0) if window is None else (back < 0) | (back >= window)
            none = now.level and width == now.longest + 1 and (window is None or window > now.longest)
            self._masks[asked] = None if none else hidden
        return self._masks[asked]


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
