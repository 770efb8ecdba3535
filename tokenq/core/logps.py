"""Hidden states and an output head to per-token log-probs, without ever building the full logits.

Only the positions whose next token is wanted reach this module. The product with the vocabulary is cut into tiles of
rows and vocabulary entries small enough to stay in cache; each tile is reduced to its log-sum-exp at once. Tiles are
kept for the backward pass when they fit into `keep_bytes` and recomputed otherwise: the same numbers either way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CPU_TILE_BYTES = 2 * 2**20
"""One tile of fp32 logits on CPU: a share of the last-level cache (2 MiB measured best; see docs/performance.md)."""

CUDA_TILE_BYTES = 256 * 2**20
"""One tile of fp32 logits on an accelerator: large enough to keep it busy, small beside the model."""

MAX_TILE_ROWS = 512
"""Most response positions in one tile."""

KEEP_BYTES = 2**30
"""Logits of at most this size are kept between forward and backward; beyond it they are computed twice."""


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
    """

    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None = None
    softcap: float | None = None
    weight_grad: Float[Tensor, "V H"] | None = None
    keep_bytes: int = KEEP_BYTES


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
    """log p_t = z_t[y_t] − logsumexp z_t, with ∂log p_t/∂z_t = onehot(y_t) − softmax(z_t)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        lse = torch.full((n,), -torch.inf, dtype=dtype, device=hidden.device)
        taken = torch.empty((n,), dtype=dtype, device=hidden.device)
        wanted = any(ctx.needs_input_grad[:3]) and n * vocabulary * dtype.itemsize <= head.keep_bytes
        kept: list[Tensor] = []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, columns in _tiles(n, vocabulary, hidden):
                logits = _tile_logits(hidden[rows], weight[columns], bias, columns, head.softcap)
                lse[rows] = torch.logaddexp(lse[rows], logits.logsumexp(1))
                _gather_targets(logits, targets[rows], columns, taken[rows])
                if wanted:
                    kept.append(logits)
        ctx.save_for_backward(hidden, weight, bias, targets, lse, *kept)
        ctx.head = head
        return taken - lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, *kept = ctx.saved_tensors
        head: Head = ctx.head
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if need_hidden else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        grad_weight = None
        if need_weight:
            grad_weight = torch.zeros_like(weight) if head.weight_grad is None else head.weight_grad
        for i, (rows, columns) in enumerate(_tiles(hidden.shape[0], weight.shape[0], hidden)):
            h, w = hidden[rows], weight[columns]
            logits = kept[i] if kept else _tile_logits(h, w, bias, columns, head.softcap)
            grad = _tile_grad(logits, lse[rows], targets[rows], grads[0][rows], columns, head.softcap).to(h.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] += grad @ w
            if grad_weight is not None:
                grad_weight[columns].addmm_(grad.T, h)
            if grad_bias is not None:
                grad_bias[columns] += grad.sum(0)
        returned = grad_weight if head.weight_grad is None else None
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), returned, grad_bias, None, None


def _tiles(n: int, vocabulary: int, like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, vocabulary entries) slices of tiles that fit the cache."""
    budget = CPU_TILE_BYTES if like.device.type == "cpu" else CUDA_TILE_BYTES
    rows = max(1, min(n, MAX_TILE_ROWS if like.device.type == "cpu" else 8 * MAX_TILE_ROWS))
    columns = max(256, budget // (4 * rows))
    for row in range(0, n, rows):
        for column in range(0, vocabulary, columns):
            yield slice(row, min(row + rows, n)), slice(column, min(column + columns, vocabulary))


def _tile_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, columns: slice, softcap: float | None) -> Tensor:
    """Return one tile of logits in float32 or better."""
    logits = hidden @ weight.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias is not None:
        logits += bias[columns]
    if softcap is not None:
        logits = logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _gather_targets(logits: Tensor, targets: Tensor, columns: slice, out: Tensor) -> None:
    """Write the logits of those targets that lie in this tile of the vocabulary into `out`."""
    inside = (targets >= columns.start) & (targets < columns.stop)
    place = (targets - columns.start).clamp(0, logits.shape[1] - 1)
    out.copy_(torch.where(inside, logits.gather(1, place[:, None])[:, 0], out))


def _tile_grad(
    logits: Tensor, lse: Tensor, targets: Tensor, grad: Tensor, columns: slice, softcap: float | None
) -> Tensor:
    """Return the gradient with respect to one tile of uncapped logits; may overwrite `logits`."""
    slope = None if softcap is None else 1 - (logits / softcap).square()
    probabilities = logits.sub_(lse[:, None]).exp_()
    tile = probabilities.mul_(-grad[:, None])
    inside = (targets >= columns.start) & (targets < columns.stop)
    place = (targets - columns.start).clamp(0, tile.shape[1] - 1)
    tile.scatter_add_(1, place[:, None], torch.where(inside, grad.to(tile.dtype), 0)[:, None])
    return tile if slope is None else tile.mul_(slope)
