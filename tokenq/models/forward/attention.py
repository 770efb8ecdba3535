"""Attention over a flat prefix-shared row, through transformers' attention interface.

A response token attends to its prompt and causally to its own response, never to a sibling or another group. Two
functions compute exactly this: `Layout.attend` runs one SDPA call per segment (any device, no compilation, no
wasted product), `flex_attention` one block-sparse kernel for the whole row (accelerators). Both honour sliding windows;
soft-capped scores are computed without a fused kernel. Whether a given architecture passes everything that matters
through the interface is not assumed here: `tokenq.models.forward.packed_lm` proves it when a model is loaded.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from tokenq.core.tensors import PackedBatch, Segment

SEGMENTS = "tokenq_segments"
FLEX = "tokenq_flex"
"""Names under which the two functions are known to transformers."""


class Scoring(NamedTuple):
    """How a layer makes weights of its queries and keys.

    Attributes:
        scaling: factor on the scores; 1/√d when None.
        window: how far back a token sees, itself included; None for everything.
        softcap: scores are softcap · tanh(score / softcap) before the softmax; None for no capping.
        dropout: probability of dropping an attention weight.
    """

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


class Attends(Protocol):
    """The structure of a flat row: which tokens each token attends to."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output [1, T, heads, d] of a row of packed responses, prompts or one step.

        Args:
            module: the attention layer.
            query: [1, heads, T, d].
            key: [1, key-value heads, T, d].
            value: [1, key-value heads, T, d].
            scoring: how the layer makes weights of them.
        """
        ...


@dataclass
class Layout:
    """The structure of one packed row, and the masks already built for it (shared by all layers).

    Attributes:
        segments: the runs of the row.
        positions: [T] position of every token in its own sequence.
        masks: cache of boolean masks by (length, prefix length, window).
        blocks: cache of block masks by window, for the sparse kernel.
    """

    segments: tuple[Segment, ...]
    positions: Tensor
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    blocks: dict[int | None, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: PackedBatch) -> "Layout":
        """Return the layout of a batch."""
        return cls(batch.segments, batch.position_ids)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output [1, T, heads, d], one call per segment."""
        # Splitting, unlike slicing, has one cheap backward pass for all runs.
        lengths = [segment.stop - segment.start for segment in self.segments]
        queries, keys, values = (torch.split(tensor, lengths, 2) for tensor in (query, key, value))
        runs = {segment.start: i for i, segment in enumerate(self.segments)}
        outputs = []
        for i, segment in enumerate(self.segments):
            prefix, seen_keys, seen_values = segment.prefix_stop - segment.prefix_start, keys[i], values[i]
            if prefix:
                holder = runs[segment.prefix_start]
                seen_keys = torch.cat((keys[holder][:, :, :prefix], seen_keys), 2)
                seen_values = torch.cat((values[holder][:, :, :prefix], seen_values), 2)
            outputs.append(self.run(queries[i], seen_keys, seen_values, prefix, scoring))
        return torch.cat(outputs, 2).transpose(1, 2)

    def run(self, query: Tensor, keys: Tensor, values: Tensor, prefix: int, scoring: Scoring) -> Tensor:
        """Return the attention output [1, heads, n, d] of a run of tokens.

        Args:
            query: [1, heads, n, d].
            keys: [1, key-value heads, prefix + n, d]: of what stands before the run, and its own.
            values: likewise.
            prefix: tokens before it, which it sees as far as a window reaches.
            scoring: how the layer makes weights of them.
        """
        scaling, window, softcap, dropout = scoring
        length = query.shape[2]
        reach = window if window is not None and window < prefix + length else None
        plain_causal = prefix == 0 and reach is None and softcap is None
        mask = None if plain_causal else self.mask(length, prefix, reach)
        attend = _sdpa if softcap is None else _capped(softcap)
        return attend(query, keys, values, mask, scale=scaling, dropout=dropout)

    def mask(self, length: int, prefix: int, window: int | None) -> Tensor:
        """Return [length, prefix + length] bool, True = attend: causal, bottom-right, at most `window` back."""
        key = (length, prefix, window)
        if key not in self.masks:
            query = torch.arange(prefix, prefix + length, device=self.positions.device)[:, None]
            key_ = torch.arange(prefix + length, device=self.positions.device)[None, :]
            mask = key_ <= query
            self.masks[key] = mask if window is None else mask & (query - key_ < window)
        return self.masks[key]

    def block_mask(self, window: int | None) -> Any:
        """Return the block-sparse mask of the whole row for `flex_attention`."""
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self.blocks:
            positions, total = self.positions, len(self.positions)
            run, start, stop = (torch.zeros(total, dtype=torch.long, device=positions.device) for _ in range(3))
            for i, segment in enumerate(self.segments):
                own = slice(segment.start, segment.stop)
                run[own], start[own], stop[own] = i, segment.prefix_start, segment.prefix_stop

            def visible(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                seen = ((run[q] == run[k]) & (k <= q)) | ((k >= start[q]) & (k < stop[q]))
                return seen if window is None else seen & (positions[q] - positions[k] < window)

            self.blocks[window] = create_block_mask(visible, None, None, total, total, device=str(positions.device))
        return self.blocks[window]


@dataclass(frozen=True)
class Past:
    """The beginnings of prompts that were read before, in one flat row.

    Attributes:
        keys: by layer [key-value heads, T, d].
        values: by layer [key-value heads, T, d].
        spans: for each prompt, where its beginning stands in that row; empty where it is new.
        lengths: tokens of each prompt that are read now.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    spans: Sequence[tuple[int, int]]
    lengths: Sequence[int]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scoring: Scoring
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the attention output [1, T, heads, d] of what is read now, and keys and values of whole prompts."""
        outputs, keys, values = [], [], []
        parts = (torch.split(tensor, list(self.lengths), 2) for tensor in (query, key, value))
        for (start, stop), asked, own_keys, own_values in zip(self.spans, *parts, strict=True):
            if stop > start:
                own_keys = torch.cat((self.keys[layer][None, :, start:stop], own_keys), 2)
                own_values = torch.cat((self.values[layer][None, :, start:stop], own_values), 2)
            outputs.append(layout.run(asked, own_keys, own_values, stop - start, scoring))
            keys.append(own_keys[0])
            values.append(own_values[0])
        return torch.cat(outputs, 2).transpose(1, 2), torch.cat(keys, 1), torch.cat(values, 1)


def register() -> None:
    """Register both attention functions with transformers; a second call changes nothing."""
    AttentionInterface.register(SEGMENTS, _by_name(lambda layout, *given: layout.attend(*given)))
    AttentionInterface.register(FLEX, _by_name(flex_attention))


def _by_name(attend: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """Return a function of (layout, layer, query, key, value, scoring) under the signature of transformers."""

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # the layout says everything
        *,
        tokenq_layout: Attends,
        **given: Any,
    ) -> tuple[Tensor, None]:
        scaling, softcap = given.get("scaling"), given.get("softcap")
        scoring = Scoring(scaling, given.get("sliding_window"), softcap, given.get("dropout", 0.0))
        return attend(tokenq_layout, module, query, key, value, scoring), None

    return attention


def flex_attention(layout: Layout, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """Return the attention output [1, T, heads, d] from one block-sparse kernel."""
    kernel = _compiled_flex() if query.is_cuda else _eager_flex()
    output: Tensor = kernel(
        query,
        key,
        value,
        score_mod=None if scoring.softcap is None else _softcap_score(scoring.softcap),
        block_mask=layout.block_mask(scoring.window),
        scale=scoring.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, dropout: float
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )


def _capped(softcap: float) -> Callable[..., Tensor]:
    """Return attention with soft-capped scores, which no fused kernel offers on every device."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, dropout: float) -> Tensor:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        return F.dropout(weights, dropout) @ value

    return attend


def _softcap_score(softcap: float) -> Callable[..., Tensor]:
    def cap(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(_eager_flex(), dynamic=True)
    return compiled


def _eager_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    function: Callable[..., Tensor] = kernel
    return function
