"""Two models read against each other: ranks, entropies, divergence and alternatives over the whole vocabulary.

The vocabulary is passed once, in tiles, for both models together; full logits are never built. Every number is a
running sum over exp(z − m), with m the highest logit so far, and the log-sum-exp at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.logps import ACCELERATOR_TILE, CPU_TILE, Head, tile_logits, token_logps
from tokenq.errors import UserError


@runtime_checkable
class Logits(Protocol):
    """The logits of one model at N positions, given in tiles."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N positions, V entries)."""

    def tile(self, rows: slice, entries: slice) -> Float[Tensor, "E R"]:
        """Return the logits of some entries (first) at some positions, float32 or better."""

    def row(self, rows: slice) -> Float[Tensor, "V R"]:
        """Return the logits of all entries (first) at some positions, float32 or better, differentiable."""

    def at(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return the logit of one token at each of some positions; the tile's value up to rounding."""

    def logps(self, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return log softmax of the logits at the targets, float32 or better, differentiable."""


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
        """Return the logits of some entries at some positions."""
        return tile_logits(self.hidden[rows], self.head, entries)

    def row(self, rows: slice) -> Float[Tensor, "V R"]:
        """Return the logits of all entries at some positions, differentiable."""
        hidden, head = self.hidden[rows], self.head
        logits = (head.weight.to(hidden.dtype) @ hidden.T).to(torch.promote_types(hidden.dtype, torch.float32))
        logits = logits if head.bias is None else logits + head.bias[:, None]
        return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)

    def at(self, rows: slice, ids: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Return the logit of one token at each of some positions."""
        hidden, head = self.hidden[rows], self.head
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        # Rounded as the tiles are: in half precision many tokens share a logit, and none of them ranks above another.
        product = (hidden.to(dtype) * head.weight[ids].to(hidden.dtype).to(dtype)).sum(1).to(hidden.dtype).to(dtype)
        if head.bias is not None:
            product = product + head.bias[ids]
        return product if head.softcap is None else head.softcap * torch.tanh(product / head.softcap)

    def logps(self, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the log-probs of the targets."""
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

    def logps(self, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the log-probs of the targets."""
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return self.logits.log_softmax(-1, dtype=dtype).gather(1, targets[:, None])[:, 0]


@dataclass(frozen=True)
class Candidates:
    """K tokens at each of N positions, best first.

    Attributes:
        ids: [N, K] token ids.
        logps: [N, K] log π.
        ref_logps: [N, K] log π_ref.
    """

    ids: Int[Tensor, "N K"]
    logps: Float[Tensor, "N K"]
    ref_logps: Float[Tensor, "N K"]


@dataclass(frozen=True)
class Readout:
    """Two models at N positions; everything in nats.

    Attributes:
        logps: [N] log π of the token taken.
        ref_logps: [N] log π_ref of the token taken.
        ranks: [N] how many tokens are more likely than it under π.
        ref_ranks: [N] the same under π_ref.
        entropies: [N] H(π).
        ref_entropies: [N] H(π_ref).
        kls: [N] KL(π‖π_ref).
        ref_kls: [N] KL(π_ref‖π).
        likely: the K most likely tokens under π.
        ref_likely: the K most likely tokens under π_ref.
    """

    logps: Float[Tensor, " N"]
    ref_logps: Float[Tensor, " N"]
    ranks: Int[Tensor, " N"]
    ref_ranks: Int[Tensor, " N"]
    entropies: Float[Tensor, " N"]
    ref_entropies: Float[Tensor, " N"]
    kls: Float[Tensor, " N"]
    ref_kls: Float[Tensor, " N"]
    likely: Candidates
    ref_likely: Candidates


def read_out(policy: Logits, reference: Logits, targets: Int[Tensor, " N"], k: int) -> Readout:
    """Read both models at every position, in one pass over the vocabulary, without gradients.

    With S = Σ exp(z), A = Σ exp(z) z and D = Σ exp(z) (z − z_ref): log π = z − log S, H(π) = log S − A/S and
    KL(π‖π_ref) = D/S − log S + log S_ref; the reference's likewise.

    Log-probs, ranks and entropies are each model's own, over all its entries. Entries that only one model has (an
    embedding padded to a round number, an added token) are no alternatives, and the divergences are between what the
    two say about the entries of both: for an entry that the other lacks it would be infinite.

    Args:
        policy: logits of π.
        reference: logits of π_ref.
        targets: [N] the tokens taken.
        k: alternatives to keep under each model, 0 or more.

    Raises:
        UserError: a token taken is none of one model's.
    """
    n, common = policy.shape[0], min(policy.shape[1], reference.shape[1])
    if n and int(targets.max()) >= common:
        raise UserError(
            f"The text holds token {int(targets.max())}, and one of the two models knows only {common} tokens.",
            "Tokens that were added to the policy must be added to the reference; take the model it was trained from.",
        )
    most, columns = CPU_TILE if targets.device.type == "cpu" else ACCELERATOR_TILE
    # Positions in as few equal parts as possible: each part reads all weights.
    step = max(1, -(-n // max(1, -(-n // most))))
    rows = list(_slices(0, n, step)) or [slice(0, 0)]
    with torch.no_grad():
        parts = [_read_rows((policy, reference), targets[part], part, columns, min(k, common)) for part in rows]
    return Readout(*(_joined([getattr(part, field.name) for part in parts]) for field in fields(Readout)))


def _joined(parts: list[Any]) -> Any:
    """Return the parts of one field, one after the other."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))


def _read_rows(models: tuple[Logits, Logits], targets: Tensor, rows: slice, columns: int, k: int) -> Readout:
    policy, reference = models
    mine, theirs = (_Side.start(logits.at(rows, targets), k) for logits in models)
    common = min(policy.shape[1], reference.shape[1])
    for entries in _slices(0, common, columns):
        own, other = policy.tile(rows, entries), reference.tile(rows, entries)
        mine.add(own, other, targets, entries.start)
        theirs.add(other, own, targets, entries.start)
    kls, ref_kls = _divergence(mine, theirs), _divergence(theirs, mine)
    for logits, side in ((policy, mine), (reference, theirs)):
        for entries in _slices(common, logits.shape[1], columns):
            side.add_alone(logits.tile(rows, entries), targets, entries.start)
    lse, ref_lse = mine.lse(), theirs.lse()
    return Readout(
        logps=mine.taken - lse,
        ref_logps=theirs.taken - ref_lse,
        ranks=mine.ranks,
        ref_ranks=theirs.ranks,
        entropies=lse - mine.own / mine.weight,
        ref_entropies=ref_lse - theirs.own / theirs.weight,
        kls=kls,
        ref_kls=ref_kls,
        likely=Candidates(mine.ids, mine.best - lse[:, None], mine.best_other - ref_lse[:, None]),
        ref_likely=Candidates(theirs.ids, theirs.best_other - lse[:, None], theirs.best - ref_lse[:, None]),
    )


@dataclass
class _Side:
    """Running numbers of one model at R positions, over the entries seen so far; `other` is the other model.

    Attributes:
        taken: [R] logit of the token taken: at first up to rounding, once its tile was there as that has it.
        ranks: [R] entries above it.
        highest: [R] m, the highest logit.
        weight: [R] Σ exp(z − m).
        own: [R] Σ exp(z − m) z.
        gap: [R] Σ exp(z − m) (z − z_other), over the entries of both.
        best: [R, K] the highest logits.
        best_other: [R, K] the other model's logits of the same entries.
        ids: [R, K] which entries they are.
    """

    taken: Tensor
    ranks: Tensor
    highest: Tensor
    weight: Tensor
    own: Tensor
    gap: Tensor
    best: Tensor
    best_other: Tensor
    ids: Tensor

    @classmethod
    def start(cls, taken: Tensor, k: int) -> "_Side":
        """Return the numbers before the first entry, from the logit of the token taken up to rounding."""
        # A little more, so that an entry of the same logit does not seem to be above it.
        taken = taken + 8 * torch.finfo(taken.dtype).eps * taken.abs()
        zero, none = torch.zeros_like(taken), taken.new_full((len(taken), k), -torch.inf)
        least = torch.full_like(taken, torch.finfo(taken.dtype).min)
        return cls(taken, zero.long(), least, zero, zero, zero, none, none.clone(), torch.zeros_like(none).long())

    def lse(self) -> Tensor:
        """Return log Σ exp(z) over the entries seen."""
        return self.highest + self.weight.log()

    def add(self, own: Tensor, other: Tensor, targets: Tensor, start: int) -> None:
        """Take in a tile [E, R] of both models, whose first entry is `start`."""
        tile_highest = own.amax(0)
        self._keep_best(own, other, tile_highest, start)
        share = self._take(own, tile_highest, targets, start)
        self.gap = self.gap + _weighted(share, own - other)

    def add_alone(self, own: Tensor, targets: Tensor, start: int) -> None:
        """Take in a tile of entries that the other model does not have."""
        self._take(own, own.amax(0), targets, start)

    def _take(self, own: Tensor, tile_highest: Tensor, targets: Tensor, start: int) -> Tensor:
        """Take in a tile but for what concerns the other model, and return exp(z − m)."""
        self._rank(own, targets - start)
        highest = torch.maximum(self.highest, tile_highest)
        shrink = (self.highest - highest).exp()
        share = (own - highest).exp_()
        self.highest = highest
        self.weight = self.weight * shrink + share.sum(0)
        self.own = self.own * shrink + _weighted(share, own)
        self.gap = self.gap * shrink
        return share

    def _rank(self, own: Tensor, places: Tensor) -> None:
        """Count entries above the token taken, once its own tile is there by the very value that stands in it."""
        here = torch.nonzero((places >= 0) & (places < len(own)))[:, 0]
        self.taken = self.taken.index_put((here,), own[places[here], here])
        self.ranks = self.ranks + (own > self.taken).sum(0)

    def _keep_best(self, own: Tensor, other: Tensor, tile_highest: Tensor, start: int) -> None:
        """Merge the highest entries; only positions where the tile beats what there is are looked at closely."""
        k = self.best.shape[1]
        if k == 0:
            return
        rows = torch.nonzero(tile_highest > self.best[:, -1])[:, 0]
        values, places = own[:, rows].T.topk(min(k, len(own)), dim=1)
        merged, order = torch.cat((self.best[rows], values), 1).topk(k, dim=1)
        others = torch.cat((self.best_other[rows], other[places, rows[:, None]]), 1)
        ids = torch.cat((self.ids[rows], places + start), 1)
        self.best[rows], self.best_other[rows], self.ids[rows] = merged, others.gather(1, order), ids.gather(1, order)


def _divergence(side: _Side, other: _Side) -> Tensor:
    """Return KL(p‖q) [R] over the entries seen; what rounding takes below 0 is 0."""
    return (side.gap / side.weight - side.lse() + other.lse()).clamp(min=0)


def _weighted(share: Tensor, values: Tensor) -> Tensor:
    """Return Σ share · value [R] of tiles [E, R]; an entry without share, whose logit may be −∞, adds nothing."""
    total = (share * values).sum(0)
    if bool(total.isnan().any()):
        total = torch.where(share > 0, share * values, 0.0).sum(0)
    return total


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))
