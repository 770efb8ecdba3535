"""Hidden states and an output head to per-token log-probs, without ever building the full logits.

Only the positions whose next token is wanted reach this module. The product with the vocabulary is cut into tiles of
rows and vocabulary entries small enough to stay in cache; each tile is reduced to its log-sum-exp at once. Tiles are
kept for the backward pass when they fit into `keep_bytes` and recomputed otherwise: the same numbers either way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CPU_TILE = (1024, 2048)
"""Maximum number of positions and vocabulary entries in one tile on CPU (measured: docs/performance.md)."""

ACCELERATOR_TILE = (4096, 16384)
"""The same on an accelerator: large enough to keep it busy, small beside the model (256 MiB in float32)."""

KEEP_BYTES = 2**30
"""Logits of at most this size are kept between forward and backward; beyond it they are computed twice."""


class Workspace:
    """Memory for kept logits that is used again: fresh memory costs more than the arithmetic that fills it.

    A graph that waits for its backward pass holds its own buffer, so several may wait at a time.

    Args:
        reserve: least bytes of a buffer on CPU. There, memory that is never touched costs nothing, and a buffer that is
            large enough from the start is never replaced.
    """

    def __init__(self, reserve: int = 0) -> None:
        self._reserve = reserve
        self._free: list[Tensor] = []

    def take(self, size: int, like: Tensor) -> Tensor:
        """Return [size] uninitialised values of the type and on the device of `like`."""
        for i, buffer in enumerate(self._free):
            if len(buffer) >= size and buffer.dtype == like.dtype and buffer.device == like.device:
                return self._free.pop(i)[:size]
        self._free.clear()
        least = self._reserve // like.element_size() if like.device.type == "cpu" else 0
        return like.new_empty(max(size, least))[:size]

    def give(self, buffer: Tensor) -> None:
        """Take back a buffer, whole."""
        self._free.append(buffer if buffer._base is None else buffer._base)


@dataclass(frozen=True)
class Head:
    """The output projection of a language model: logits = softcap(hidden @ weight.T + bias).

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        softcap: logits are softcap · tanh(logits / softcap), as in Gemma 2; None for no capping.
        weight_grad: [V, H] buffer. When given, the gradient of the weight is added to it in place during the backward
            pass and autograd is told of none: no second buffer of that size is ever allocated or copied. Only sound
            where nobody waits for autograd to deliver this gradient (one process, no gradient hooks).
        keep_bytes: see `KEEP_BYTES`.
        workspace: where the memory for kept logits comes from.
    """

    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None = None
    softcap: float | None = None
    weight_grad: Float[Tensor, "V H"] | None = None
    keep_bytes: int = KEEP_BYTES
    workspace: Workspace = field(default_factory=Workspace)


def token_logps(hidden: Float[Tensor, "N H"], head: Head, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return log softmax(head(hidden))[targets] in float32 (float64 for float64 input), differentiable.

    Args:
        hidden: [N, H] states that predict the targets.
        head: the output projection.
        targets: [N] the tokens taken.
    """
    weight = head.weight
    if weight.dtype != hidden.dtype:  # mixed precision: compute in the type of the states
        weight = weight.to(hidden.dtype)
    if not torch.is_grad_enabled():  # inside the function this can no longer be told
        head = replace(head, keep_bytes=0)
    logps: Tensor = _TokenLogps.apply(hidden, weight, head.bias, targets, head)  # type: ignore[no-untyped-call]  # torch's
    return logps


class _TokenLogps(torch.autograd.Function):
    """log p_t = z_t[y_t] − logsumexp z_t, with ∂log p_t/∂z_t = onehot(y_t) − softmax(z_t).

    Tiles are transposed, vocabulary entries by positions: so the weight enters the product as it lies in memory, which
    on CPU is the difference between 75 and 95 % of the peak. A tile that is kept holds exp(z − m), with m the highest
    logit of each position in the tile, and needs one factor to become its share of the softmax.

    The part of the target is a product of two rows; the tiles carry the softmax alone. Only where products are rounded
    to half precision is z_t[y_t] read off the tiles, so that it is rounded as its share of the sum is: a token that is
    certain has log p = 0 then, and not the rounding error of a large logit.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        lse = torch.full((n,), -torch.inf, dtype=dtype, device=hidden.device)
        ctx.keep = any(ctx.needs_input_grad[:3]) and n * vocabulary * dtype.itemsize <= head.keep_bytes
        ctx.head, tiles, highest = head, _Tiles(n, vocabulary, lse, ctx.keep, head.workspace), []
        with torch.autocast(hidden.device.type, enabled=False):
            taken = (hidden.to(dtype) * weight[targets].to(dtype)).sum(1)
            taken = _finish(taken, None if bias is None else bias[targets], head.softcap)
            for rows, entries, tile in tiles:
                _tile_logits(hidden[rows], weight[entries], bias, entries, head.softcap, out=tile)
                if hidden.dtype != dtype:
                    _read_targets(tile, targets[rows], entries, out=taken[rows])
                # A tile that is masked out as a whole (−∞) must not give NaN.
                highest.append(tile.amax(0).clamp_(min=torch.finfo(dtype).min))
                share = tile.sub_(highest[-1]).exp_().sum(0).log_().add_(highest[-1])
                lse[rows] = torch.logaddexp(lse[rows], share)
        kept = [tiles.buffer, *highest] if ctx.keep else []
        ctx.save_for_backward(hidden, weight, bias, targets, taken, lse, *kept)
        if not ctx.keep:
            head.workspace.give(tiles.buffer)
        return taken - lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, taken, lse, *kept = ctx.saved_tensors
        head: Head = ctx.head
        upstream = grads[0].to(lse.dtype)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if need_hidden else None
        grad_bias = torch.zeros_like(bias, dtype=lse.dtype) if need_bias else None
        grad_weight = None
        if need_weight:
            grad_weight = torch.zeros_like(weight) if head.weight_grad is None else head.weight_grad
        tiles = _Tiles(len(hidden), len(weight), lse, ctx.keep, head.workspace, kept[0] if kept else None)
        for i, (rows, entries, tile) in enumerate(tiles):
            h, w = hidden[rows], weight[entries]
            highest = kept[1 + i] if kept else lse[rows]
            if not kept:
                _tile_logits(h, w, bias, entries, head.softcap, out=tile)
                tile.sub_(highest).exp_()
            grad = _softmax_grad(tile, highest, lse[rows], upstream[rows], head.softcap)
            if grad_bias is not None:
                grad_bias[entries] += grad.sum(1)
            grad = grad.to(h.dtype)
            if grad_hidden is not None:
                _add_product(grad_hidden[rows], grad.T, w)
            if grad_weight is not None:
                _add_product(grad_weight[entries], grad, h)
        head.workspace.give(tiles.buffer)
        to_target = upstream if head.softcap is None else upstream * (1 - (taken / head.softcap).square())
        if grad_hidden is not None:
            grad_hidden += to_target[:, None] * weight[targets]
        if grad_weight is not None:
            grad_weight.index_add_(0, targets, (to_target[:, None] * hidden).to(grad_weight.dtype))
        if grad_bias is not None:
            grad_bias.index_add_(0, targets, to_target)
        returned = grad_weight if head.weight_grad is None else None
        to_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        to_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return to_hidden, returned, to_bias, None, None


class _Tiles:
    """The tiles of n positions by a vocabulary, in order, each with its memory.

    Args:
        n: positions.
        vocabulary: entries.
        like: has the type and device of the logits.
        keep: whether every tile has memory of its own; otherwise all share that of the largest.
        workspace: where the memory comes from.
        buffer: the memory, when a forward pass has filled it.
    """

    def __init__(
        self, n: int, vocabulary: int, like: Tensor, keep: bool, workspace: Workspace, buffer: Tensor | None = None
    ) -> None:
        self._spans = list(_spans(n, vocabulary, like))
        self._keep = keep
        sizes = [_size(rows) * _size(entries) for rows, entries in self._spans]
        size = sum(sizes) if keep else max(sizes, default=0)
        self.buffer = workspace.take(size, like) if buffer is None else buffer

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield (positions, vocabulary entries, memory [entries, positions])."""
        cursor = 0
        for rows, entries in self._spans:
            size = _size(rows) * _size(entries)
            yield rows, entries, self.buffer[cursor : cursor + size].view(_size(entries), _size(rows))
            cursor += size if self._keep else 0


def _spans(n: int, vocabulary: int, like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield (positions, vocabulary entries), positions in as few equal parts as possible: each reads all weights."""
    most, columns = CPU_TILE if like.device.type == "cpu" else ACCELERATOR_TILE
    rows = max(1, -(-n // max(1, -(-n // most))))
    for row in range(0, n, rows):
        for column in range(0, vocabulary, columns):
            yield slice(row, min(row + rows, n)), slice(column, min(column + columns, vocabulary))


def _size(span: slice) -> int:
    size: int = span.stop - span.start
    return size


def _tile_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, entries: slice, softcap: float | None, *, out: Tensor
) -> None:
    """Write one tile of logits to `out` [entries, positions], float32 or better."""
    if hidden.dtype == out.dtype:
        torch.mm(weight, hidden.T, out=out)
    else:
        out.copy_(weight @ hidden.T)
    _finish(out, None if bias is None else bias[entries, None], softcap)


def tile_logits(hidden: Float[Tensor, "N H"], head: Head, entries: slice) -> Float[Tensor, "E N"]:
    """Return the logits of some vocabulary entries (first) at every position, float32 or better."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    tile = hidden.new_empty((len(range(*entries.indices(len(head.weight)))), len(hidden)), dtype=dtype)
    weight = head.weight[entries].to(hidden.dtype)
    _tile_logits(hidden, weight, head.bias, entries, head.softcap, out=tile)
    return tile


def row_logits(hidden: Float[Tensor, "N H"], head: Head) -> Float[Tensor, "N V"]:
    """Return the logits of the whole vocabulary at every position, positions first, float32 or better."""
    dtype, rows = torch.promote_types(hidden.dtype, torch.float32), len(hidden)
    if hidden.device.type == "cpu" and rows in _AS_SIXTEEN:
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, _AS_SIXTEEN.stop - rows))
    logits = torch.nn.functional.linear(hidden, head.weight.to(hidden.dtype))[:rows].to(dtype)
    return _finish(logits, head.bias, head.softcap)


_AS_SIXTEEN = range(8, 16)
"""Numbers of rows for which a processor's product takes up to twice as long as for 16."""


def _read_targets(logits: Tensor, targets: Tensor, entries: slice, *, out: Tensor) -> None:
    """Write the logits of those targets that lie in this tile of the vocabulary to `out`."""
    inside = (targets >= entries.start) & (targets < entries.stop)
    place = (targets - entries.start).clamp(0, logits.shape[0] - 1)
    out.copy_(torch.where(inside, logits.gather(0, place[None])[0], out))


def _finish(logits: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Add the bias to products, and cap them, in place."""
    if bias is not None:
        logits += bias
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _softmax_grad(tile: Tensor, highest: Tensor, lse: Tensor, upstream: Tensor, softcap: float | None) -> Tensor:
    """Return −g · softmax(z), and through the capping, of a tile that holds exp(z − highest); overwrites it."""
    slope = None
    if softcap is not None:
        # Where exp(z − highest) is 0 so is the gradient, whatever its slope; it must only not be −∞.
        capped = tile.log().add_(highest).clamp_(min=-softcap)
        slope = 1 - capped.div_(softcap).square_()
    grad = tile.mul_((highest - lse).exp_().mul_(-upstream))
    return grad if slope is None else grad.mul_(slope)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `out` in place, without a temporary where the types allow it."""
    if out.dtype == a.dtype == b.dtype:
        out.addmm_(a, b)
    else:
        out += a @ b
