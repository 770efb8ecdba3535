"""Two models read against each other: ranks, entropies, divergence and alternatives over the whole vocabulary.

The vocabulary is passed once, in tiles, for both models together; full logits are never built. Every number is a
running sum over exp(z − m), with m the highest logit so far, and the log-sum-exp at the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.logits import Logits, highest_of
from tokenq.core.logps import ACCELERATOR_TILE, CPU_TILE
from tokenq.errors import UserError


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
    rows, columns, common = _parts(policy, reference, targets)
    with torch.no_grad():
        parts = [_read_rows((policy, reference), targets[part], part, columns, min(k, common)) for part in rows]
    return Readout(*(_joined([getattr(part, field.name) for part in parts]) for field in fields(Readout)))


def read_logps(policy: Logits, reference: Logits, targets: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    """Return log π and log π_ref of the tokens taken, [N] each, to the last bit those of `read_out`.

    Raises:
        UserError: a token taken is none of one model's.
    """
    rows, columns, common = _parts(policy, reference, targets)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for part in rows:
            for logits, logps in zip((policy, reference), found, strict=True):
                running, room = None, _Room()
                for entries in (*_slices(0, common, columns), *_slices(common, logits.shape[1], columns)):
                    tile = logits.tile(part, entries)
                    running = running or _Softmax.start(torch.zeros_like(tile[0]))
                    running.meet(tile, targets[part] - entries.start)
                    running.add(tile, tile.amax(0), room)
                if running is not None:
                    logps.append(running.logps())
    return torch.cat(found[0]), torch.cat(found[1])


def _parts(policy: Logits, reference: Logits, targets: Tensor) -> tuple[list[slice], int, int]:
    """Return positions that are read together, how many entries a tile has, and how many both models have.

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
    return list(_slices(0, n, step)) or [slice(0, 0)], columns, common


def _joined(parts: list[Any]) -> Any:
    """Return the parts of one field, one after the other."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))


def _read_rows(models: tuple[Logits, Logits], targets: Tensor, rows: slice, columns: int, k: int) -> Readout:
    policy, reference = models
    mine, theirs = (_Side.start(logits.at(rows, targets), logits.rounding(rows, targets), k) for logits in models)
    common, room = min(policy.shape[1], reference.shape[1]), _Room()
    for entries in _slices(0, common, columns):
        own, other = policy.tile(rows, entries), reference.tile(rows, entries)
        mine.add(own, other, targets, entries.start, room)
        theirs.add(other, own, targets, entries.start, room)
    kls, ref_kls = _divergence(mine, theirs), _divergence(theirs, mine)
    for logits, side in ((policy, mine), (reference, theirs)):
        for entries in _slices(common, logits.shape[1], columns):
            side.add_alone(logits.tile(rows, entries), targets, entries.start, room)
    lse, ref_lse = mine.running.lse(), theirs.running.lse()
    return Readout(
        logps=mine.running.logps(),
        ref_logps=theirs.running.logps(),
        ranks=mine.ranks,
        ref_ranks=theirs.ranks,
        entropies=lse - mine.own / mine.running.weight,
        ref_entropies=ref_lse - theirs.own / theirs.running.weight,
        kls=kls,
        ref_kls=ref_kls,
        likely=Candidates(mine.ids, mine.best - lse[:, None], mine.best_other - ref_lse[:, None]),
        ref_likely=Candidates(theirs.ids, theirs.best_other - lse[:, None], theirs.best - ref_lse[:, None]),
    )


@dataclass(frozen=True)
class _Room:
    """Memory for what is computed of a tile, used again for the next: fresh memory costs more than the arithmetic.

    Attributes:
        held: tensors by what they are for.
    """

    held: dict[Any, Tensor] = field(default_factory=dict)

    def kept(self, name: str, like: Tensor, compute: Callable[[Tensor | None], Tensor]) -> Tensor:
        """Return what is computed of a tile (given the memory, None at first), in memory laid out as the tile is."""
        key = name, like.shape, like.stride()
        self.held[key] = compute(self.held.get(key))
        return self.held[key]


@dataclass
class _Softmax:
    """Running numbers of one model at R positions, over the entries seen so far.

    Attributes:
        taken: [R] logit of the token taken: that of its tile, once its tile was there.
        highest: [R] m, the highest logit.
        weight: [R] Σ exp(z − m).
    """

    taken: Tensor
    highest: Tensor
    weight: Tensor

    @classmethod
    def start(cls, taken: Tensor) -> "_Softmax":
        """Return the numbers before the first entry, from logits of the tokens taken, as they are up to rounding."""
        return cls(taken, torch.full_like(taken, torch.finfo(taken.dtype).min), torch.zeros_like(taken))

    def meet(self, own: Tensor, places: Tensor) -> None:
        """Take the logits of the tokens taken from their own tile [E, R], by the very values that stand in it."""
        here = torch.nonzero((places >= 0) & (places < len(own)))[:, 0]
        self.taken = self.taken.index_put((here,), own[places[here], here])

    def add(self, own: Tensor, tile_highest: Tensor, room: _Room) -> tuple[Tensor, Tensor]:
        """Take in a tile [E, R], and return exp(z − m) and by what earlier sums over it shrink."""
        highest = torch.maximum(self.highest, tile_highest)
        shrink = (self.highest - highest).exp()
        share = room.kept("share", own, lambda out: torch.sub(own, highest, out=out)).exp_()
        self.highest = highest
        self.weight = self.weight * shrink + share.sum(0)
        return share, shrink

    def lse(self) -> Tensor:
        """Return log Σ exp(z) over the entries seen."""
        return self.highest + self.weight.log()

    def logps(self) -> Tensor:
        """Return the log-probs of the tokens taken."""
        return self.taken - self.lse()


@dataclass
class _Side:
    """Running numbers of one model at R positions, over the entries seen so far; `other` is the other model.

    Attributes:
        running: its softmax; m is the highest logit.
        ranks: [R] entries above the token taken.
        own: [R] Σ exp(z − m) z.
        gap: [R] Σ exp(z − m) (z − z_other), over the entries of both.
        best: [R, K] the highest logits.
        best_other: [R, K] the other model's logits of the same entries.
        ids: [R, K] which entries they are.
    """

    running: _Softmax
    ranks: Tensor
    own: Tensor
    gap: Tensor
    best: Tensor
    best_other: Tensor
    ids: Tensor

    @classmethod
    def start(cls, taken: Tensor, rounding: Tensor, k: int) -> "_Side":
        """Return the numbers before the first entry, from the logit of the token taken, right up to `rounding`."""
        # A little more, so that an entry of the same logit does not seem to be above it.
        taken = taken + 8 * torch.finfo(taken.dtype).eps * taken.abs() + rounding
        zero, none = torch.zeros_like(taken), taken.new_full((len(taken), k), -torch.inf)
        running = _Softmax.start(taken)
        return cls(running, zero.long(), zero, zero, none, none.clone(), torch.zeros_like(none).long())

    def add(self, own: Tensor, other: Tensor, targets: Tensor, start: int, room: _Room) -> None:
        """Take in a tile [E, R] of both models, whose first entry is `start`."""
        tile_highest = own.amax(0)
        self._keep_best(own, other, tile_highest, start)
        share = self._take(own, tile_highest, targets, start, room)
        apart = room.kept("apart", own, lambda out: torch.sub(own, other, out=out))
        self.gap = self.gap + _weighted(share, apart, room)

    def add_alone(self, own: Tensor, targets: Tensor, start: int, room: _Room) -> None:
        """Take in a tile of entries that the other model does not have."""
        self._take(own, own.amax(0), targets, start, room)

    def _take(self, own: Tensor, tile_highest: Tensor, targets: Tensor, start: int, room: _Room) -> Tensor:
        """Take in a tile but for what concerns the other model, and return exp(z − m)."""
        self.running.meet(own, targets - start)
        above = torch.gt(own, self.running.taken, out=torch.empty_like(own))  # adding floats is faster than booleans
        self.ranks = self.ranks + above.sum(0).long()
        share, shrink = self.running.add(own, tile_highest, room)
        self.own = self.own * shrink + _weighted(share, own, room)
        self.gap = self.gap * shrink
        return share

    def _keep_best(self, own: Tensor, other: Tensor, tile_highest: Tensor, start: int) -> None:
        """Merge the highest entries; only positions where the tile beats what there is are looked at closely."""
        k = self.best.shape[1]
        if k == 0:
            return
        rows = torch.nonzero(tile_highest > self.best[:, -1])[:, 0]
        if 2 * len(rows) > own.shape[1]:  # most of them: looking at all costs less than taking them out
            values, places = (table[rows] for table in highest_of(own, min(k, len(own))))
        else:
            values, places = highest_of(own[:, rows], min(k, len(own)))
        merged, order = torch.cat((self.best[rows], values), 1).topk(k, dim=1)
        others = torch.cat((self.best_other[rows], other[places, rows[:, None]]), 1)
        ids = torch.cat((self.ids[rows], places + start), 1)
        self.best[rows], self.best_other[rows], self.ids[rows] = merged, others.gather(1, order), ids.gather(1, order)


def _divergence(side: _Side, other: _Side) -> Tensor:
    """Return KL(p‖q) [R] over the entries seen; what rounding takes below 0 is 0."""
    return (side.gap / side.running.weight - side.running.lse() + other.running.lse()).clamp(min=0)


def _weighted(share: Tensor, values: Tensor, room: _Room) -> Tensor:
    """Return Σ share · value [R] of tiles [E, R]; an entry without share, whose logit may be −∞, adds nothing."""
    total = room.kept("product", values, lambda out: torch.mul(share, values, out=out)).sum(0)
    if bool(total.isnan().any()):
        total = torch.where(share > 0, share * values, 0.0).sum(0)
    return total


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Yield neighbouring slices of at most a size."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))
