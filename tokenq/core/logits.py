"""The logits of a model over its vocabulary: tile by tile from hidden states, or as a model computed them whole."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.logps import Head, tile_logits, token_logps


@dataclass(frozen=True)
class HeadLogits:
    """Logits that are computed tile by tile from hidden states.

    Attributes:
        hidden: [N, H] states that predict the targets.
        head: the output projection.
    """

    hidden: Float[Tensor, "N H"]
    head: Head

    @property
    def shape(self) -> tuple[int, int]:
        """(N positions, V entries)."""
        return len(self.hidden), len(self.head.weight)

    def tile(self, rows: slice, entries: slice) -> Float[Tensor, "E R"]:
        """Return the logits of some entries (first) at some positions, float32 or better."""
        return tile_logits(self.hidden[rows], self.head, entries)

    def row(self, rows: slice) -> Float[Tensor, "V R"]:
        """Return the logits of all entries (first) at some positions, float32 or better, differentiable."""
        hidden, head = self.hidden[rows], self.head
        logits = (head.weight.to(hidden.dtype) @ hidden.T).to(torch.promote_types(hidden.dtype, torch.float32))
        logits = logits if head.bias is None else logits + head.bias[:, None]
        return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)

    def at(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return the logit of one token at each of some positions; the tile's value up to rounding."""
        hidden, head = self.hidden[rows], self.head
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        # Rounded as the tiles are: in half precision many tokens share a logit, and none of them ranks above another.
        product = (hidden.to(dtype) * head.weight[ids].to(hidden.dtype).to(dtype)).sum(1).to(hidden.dtype).to(dtype)
        if head.bias is not None:
            product = product + head.bias[ids]
        return product if head.softcap is None else head.softcap * torch.tanh(product / head.softcap)

    def rounding(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return by how much `at` may differ from the tile's value: both sum the same products, in orders of their own.

        2 ε Σ|h_i w_i|, which is what a sum in blocks stays below, on any processor.
        """
        dtype = torch.promote_types(self.hidden.dtype, torch.float32)
        sizes = (self.hidden[rows].to(dtype).abs() * self.head.weight[ids].to(dtype).abs()).sum(1)
        return 2 * torch.finfo(dtype).eps * sizes

    def logps(self, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return log softmax of the logits at the targets, float32 or better, differentiable."""
        return token_logps(self.hidden, self.head, targets)


@dataclass(frozen=True)
class FullLogits:
    """Logits that a model computed whole, because its output layer is not a linear one.

    Attributes:
        logits: [N, V].
    """

    logits: Float[Tensor, "N V"]

    @property
    def shape(self) -> tuple[int, int]:
        """(N positions, V entries)."""
        return self.logits.shape[0], self.logits.shape[1]

    def tile(self, rows: slice, entries: slice) -> Float[Tensor, "E R"]:
        """Return the logits of some entries at some positions."""
        part = self.logits[rows, entries].T
        return part.to(torch.promote_types(part.dtype, torch.float32))

    def row(self, rows: slice) -> Float[Tensor, "V R"]:
        """Return the logits of all entries."""
        return self.tile(rows, slice(None))

    def at(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return the logit of one token at each of some positions."""
        part = self.logits[rows].gather(1, ids[:, None])[:, 0]
        return part.to(torch.promote_types(part.dtype, torch.float32))

    def rounding(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return by how much `at` may differ from the tile's value: not at all."""
        return torch.zeros_like(self.at(rows, ids))

    def logps(self, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the log-probs of the targets."""
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return self.logits.log_softmax(-1, dtype=dtype).gather(1, targets[:, None])[:, 0]


Logits = HeadLogits | FullLogits
"""The logits of one model at N positions, given in tiles."""


_BLOCK = 16
"""Entries of which the highest is known before any of them is looked at more closely."""


def highest_of(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest values of each column of a tile [E, R] and their places, [R, k], as `topk` does.

    The k + 1 highest values lie in the k + 1 blocks of entries with the highest maxima, or behind the last whole block.
    Where two of them are equal, `topk` itself says which comes first.
    """
    whole, n = len(tile) // _BLOCK * _BLOCK, tile.shape[1]
    if whole < 4 * _BLOCK * (k + 1) or n == 0:
        direct = tile.T.topk(k, dim=1)
        return direct.values, direct.indices
    blocks = tile[:whole].view(-1, _BLOCK, n).amax(1).T.topk(k + 1, dim=1).indices
    within = torch.arange(_BLOCK, device=tile.device)
    rest = torch.arange(whole, len(tile), device=tile.device).expand(n, -1)
    entries = torch.cat(((blocks[:, :, None] * _BLOCK + within).flatten(1), rest), 1)
    values, order = tile.gather(0, entries.T).T.topk(k + 1, dim=1)
    places = entries.gather(1, order)[:, :k].contiguous()
    tied = torch.nonzero((values[:, 1:] == values[:, :-1]).any(1))[:, 0]
    values = values[:, :k].contiguous()
    if len(tied):
        values[tied], places[tied] = tile[:, tied].T.topk(k, dim=1)
    return values, places
