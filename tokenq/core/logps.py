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

CPU_TILE_BYTES = 2 * 2**20
"""One tile of fp32 logits on CPU: a share of the last-level cache (2 MiB measured best; see docs/performance.md)."""

CUDA_TILE_BYTES = 256 * 2**20
"""One tile of fp32 logits on an accelerator: large enough to keep it busy, small beside the model."""

MAX_TILE_ROWS = 640
"""Most response positions in one tile on CPU; an accelerator takes eight times as many."""

KEEP_BYTES = 2**30
"""Logits of at most this size are kept between forward and backward; beyond it they are computed twice."""


class Workspace:
    """Memory for kept logits that is used again: fresh memory costs more than the arithmetic that fills it.

    A graph that waits for its backward pass holds its own buffer, so several may wait at a time.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, size: int, like: Tensor) -> Tensor:
        """Return [size] uninitialised values of the type and on the device of `like`."""
        for i, buffer in enumerate(self._free):
            if len(buffer) >= size and buffer.dtype == like.dtype and buffer.device == like.device:
                return self._free.pop(i)[:size]
        self._free.clear()
        return like.new_empty(size)

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
    logps: Tensor = _TokenLogps.apply(hidden, weight, head.bias, targets, head)  # type: ignore[no-untyped-call]
    return logps


class _TokenLogps(torch.autograd.Function):
    """log p_t = z_t[y_t] − logsumexp z_t, with ∂log p_t/∂z_t = onehot(y_t) − softmax(z_t).

    The part of the target is a product of two rows; the tiles carry the softmax alone. Only where products are rounded
    to half precision is z_t[y_t] read off the tiles, so that it is rounded as its share of the sum is: a token that is
    certain has log p = 0 then, and not the rounding error of a large logit.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        lse = torch.full((n,), -torch.inf, dtype=dtype, device=hidden.device)
        keep = any(ctx.needs_input_grad[:3]) and n * vocabulary * dtype.itemsize <= head.keep_bytes
        tiles = list(_tiles(n, vocabulary, hidden))
        largest = max((_size(tile) for tile in tiles), default=0)
        kept = head.workspace.take(n * vocabulary if keep else largest, lse)
        scratch, cursor = lse.new_empty(largest), 0
        with torch.autocast(hidden.device.type, enabled=False):
            taken = (hidden.to(dtype) * weight[targets].to(dtype)).sum(1)
            taken = _finish(taken, None if bias is None else bias[targets], head.softcap)
            for rows, columns in tiles:
                logits = kept[cursor : cursor + _size((rows, columns))].view(-1, columns.stop - columns.start)
                _tile_logits(hidden[rows], weight[columns], bias, columns, head.softcap, out=logits)
                lse[rows] = torch.logaddexp(lse[rows], _logsumexp(logits, scratch[: logits.numel()].view_as(logits)))
                if hidden.dtype != dtype:
                    _read_targets(logits, targets[rows], columns, out=taken[rows])
                cursor += logits.numel() if keep else 0
        ctx.head, ctx.keep = head, keep
        if not keep:
            head.workspace.give(kept)
        ctx.save_for_backward(hidden, weight, bias, targets, taken, lse, *([kept] if keep else []))
        return taken - lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, taken, lse, *rest = ctx.saved_tensors
        head: Head = ctx.head
        upstream = grads[0].to(lse.dtype)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if need_hidden else None
        grad_bias = torch.zeros_like(bias, dtype=lse.dtype) if need_bias else None
        grad_weight = None
        if need_weight:
            grad_weight = torch.zeros_like(weight) if head.weight_grad is None else head.weight_grad
        tiles = list(_tiles(hidden.shape[0], weight.shape[0], hidden))
        kept = rest[0] if rest else head.workspace.take(max((_size(tile) for tile in tiles), default=0), lse)
        cursor = 0
        for rows, columns in tiles:
            h, w = hidden[rows], weight[columns]
            logits = kept[cursor : cursor + _size((rows, columns))].view(-1, columns.stop - columns.start)
            if ctx.keep:
                cursor += logits.numel()
            else:
                _tile_logits(h, w, bias, columns, head.softcap, out=logits)
            grad = _softmax_grad(logits, lse[rows], upstream[rows], head.softcap)
            if grad_bias is not None:
                grad_bias[columns] += grad.sum(0)
            grad = grad.to(h.dtype)
            if grad_hidden is not None:
                _add_product(grad_hidden[rows], grad, w)
            if grad_weight is not None:
                _add_product(grad_weight[columns], grad.T, h)
        head.workspace.give(kept)
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


Tile = tuple[slice, slice]
"""Rows and vocabulary entries."""


def _tiles(n: int, vocabulary: int, like: Tensor) -> Iterator[Tile]:
    """Yield tiles that fit the cache, with rows in as few equal parts as possible (the weight is read once a part)."""
    on_cpu = like.device.type == "cpu"
    most = MAX_TILE_ROWS if on_cpu else 8 * MAX_TILE_ROWS
    rows = max(1, -(-n // max(1, -(-n // most))))
    columns = max(256, (CPU_TILE_BYTES if on_cpu else CUDA_TILE_BYTES) // (4 * rows))
    for row in range(0, n, rows):
        for column in range(0, vocabulary, columns):
            yield slice(row, min(row + rows, n)), slice(column, min(column + columns, vocabulary))


def _size(tile: Tile) -> int:
    rows, columns = tile
    size: int = (rows.stop - rows.start) * (columns.stop - columns.start)
    return size


def _tile_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, columns: slice, softcap: float | None, *, out: Tensor
) -> None:
    """Write one tile of logits to `out`, float32 or better."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, weight.T, out=out)
    else:
        out.copy_(hidden @ weight.T)
    _finish(out, None if bias is None else bias[columns], softcap)


def _read_targets(logits: Tensor, targets: Tensor, columns: slice, *, out: Tensor) -> None:
    """Write the logits of those targets that lie in this tile of the vocabulary to `out`."""
    inside = (targets >= columns.start) & (targets < columns.stop)
    place = (targets - columns.start).clamp(0, logits.shape[1] - 1)
    out.copy_(torch.where(inside, logits.gather(1, place[:, None])[:, 0], out))


def _finish(logits: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Add the bias to products, and cap them, in place."""
    if bias is not None:
        logits += bias
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _logsumexp(logits: Tensor, scratch: Tensor) -> Tensor:
    """Return logsumexp over the rows of `logits`, which are not changed."""
    # A tile that is masked out as a whole (−∞) must not give NaN.
    highest = logits.amax(1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    torch.sub(logits, highest, out=scratch)
    return scratch.exp_().sum(1).log_().add_(highest[:, 0])


def _softmax_grad(logits: Tensor, lse: Tensor, upstream: Tensor, softcap: float | None) -> Tensor:
    """Return −g · softmax(z), and through the capping, of one tile; overwrites `logits`."""
    slope = None if softcap is None else 1 - (logits / softcap).square()
    grad = logits.sub_(lse[:, None]).exp_().mul_(-upstream[:, None])
    return grad if slope is None else grad.mul_(slope)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `out` in place, without a temporary where the types allow it."""
    if out.dtype == a.dtype == b.dtype:
        out.addmm_(a, b)
    else:
        out += a @ b
