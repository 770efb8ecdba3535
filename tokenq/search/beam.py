"""Beam search, as transformers' `generate` does it, for any objective that is a sum over tokens.

Of the 2 W best continuations of all beams, those among the first W that end are finished; the W best that do not end
go on. A finished response is ranked by score / length^length_penalty, its length that of the generated tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import Frontier
from tokenq.listener import Progress, silent
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES, SearchObjective
from tokenq.search.settings import Beams

Order = Callable[[Tensor, Sequence[Branch]], Tensor]
"""([R, V] what each token adds to the scores of R beams, the beams) → [R, V] by what continuations are chosen, less the
score of the beam."""


def by_score(added: Float[Tensor, "R V"], beams: Sequence[Branch]) -> Float[Tensor, "R V"]:
    """Return the scores by which continuations are chosen."""
    return added


class _Offer(NamedTuple):
    """A continuation that was chosen: a beam of its group, a token, and what comes of it."""

    beam: int
    token: int
    score: float
    logp: float
    ref_logp: float | None = None


@dataclass
class _Group:
    """The beams of one group of one prompt: those that run, best first, and those that are finished, best first."""

    walk: Walk
    limits: Limits
    beams: Beams
    width: int
    running: list[Branch]
    finished: list[Branch] = field(default_factory=list)
    done: bool = False

    def take(self, offers: Sequence[_Offer]) -> None:
        """Extend the running beams: those that end are finished if they are among the first W, the W best others go on.

        Args:
            offers: continuations in the order in which they were chosen, `most` or all that there are.
        """
        length = len(self.running[0].tokens) + 1
        longer: list[_Offer] = []
        for rank, offer in enumerate(offers):
            if not self.limits.ends(offer.token, length):
                longer.append(offer)
            elif rank < self.width:
                complete = self._extended(offer)
                self.walk.end(complete)
                self._finish(complete)
        self.running = [self._extended(one) for one in sorted(longer, key=lambda one: -one.score)[: self.width]]
        full = self.beams.early_stopping == "true" and self._full()
        self.done = not self.running or full or not self._may_improve(length)

    def _extended(self, offer: _Offer) -> Branch:
        return self.running[offer.beam].with_token(offer.token, offer.score, offer.logp, offer.ref_logp)

    def _finish(self, branch: Branch) -> None:
        """Rank a response that has ended among the finished ones; the best W stay, the older first among equals."""
        ranked = replace(branch, score=branch.score / len(branch.tokens) ** self.beams.length_penalty)
        self.finished = sorted([*self.finished, ranked], key=lambda one: -one.score)[: self.width]

    def _full(self) -> bool:
        return len(self.finished) == self.width

    def _may_improve(self, length: int) -> bool:
        """Return whether the best running beam could still beat the worst finished one."""
        if not self._full():
            return True
        penalty = self.beams.length_penalty
        most_tokens = self.limits.max_new_tokens
        longest = most_tokens if self.beams.early_stopping == "never" and penalty > 0 else length
        best: float = self.running[0].score / longest**penalty
        return best > self.finished[-1].score

    def stop(self) -> None:
        """Rank what is still running as it stands: nothing more may be spent."""
        for branch in () if self.done else self.running:
            if branch.tokens and not self._full():
                self._finish(branch)
        self.done = True


def beam_search(
    walk: Walk,
    beams: Beams | None = None,
    objective: SearchObjective = OBJECTIVES["likelihood"],
    beta: float = 1.0,
    progress: Progress = silent,
    order: Order = by_score,
) -> list[list[Branch]]:
    """Return for every prompt the W best responses, best first; their scores are normalised by length.

    Args:
        walk: prompts and limits, at their beginning.
        beams: how wide, and when to stop.
        objective: what is maximised.
        beta: KL temperature, for objectives that have one.
        progress: told (tokens of the longest response so far, most tokens) after every step.
        order: how continuations are chosen at every step.

    Raises:
        UserError: a budget smaller than one step, or an objective without what it needs.
    """
    beams = beams or Beams()
    limits = walk.limits
    width = beams.width // beams.groups
    searches = [
        [_Group(walk, own, beams, width, [root]) for _ in range(beams.groups)]
        for root, own in zip(walk.roots(), walk.own, strict=True)
    ]
    for length in range(1, limits.max_new_tokens + 1):
        _lengthen(searches, walk.frontier, objective.score(walk.frontier, beta), beams.diversity_penalty, order)
        for prompt, groups in enumerate(searches):
            rows = sum(len(group.running) for group in groups if not group.done)
            if rows and not walk.may_step(prompt, rows):
                for group in groups:
                    group.stop()
        progress(length, limits.max_new_tokens)
        going = [group for groups in searches for group in groups if not group.done]
        if not going:
            break
        stepped = iter(walk.step([branch for group in going for branch in group.running]))
        for group in going:
            group.running = [next(stepped) for _ in group.running]
    return [
        sorted((branch for group in groups for branch in group.finished), key=lambda one: -one.score)
        for groups in searches
    ]


def most(limits: Limits, width: int) -> int:
    """Return how many continuations W beams look at: enough for W that do not end, even if every EOS is offered."""
    return max(2, 1 + len(limits.eos)) * width


def _lengthen(
    searches: Sequence[Sequence[_Group]], frontier: Frontier, added: Tensor, penalty: float, order: Order
) -> None:
    """Extend every group of every prompt, in turn; later groups of a prompt pay for tokens that earlier ones chose."""
    chosen = torch.zeros((len(searches), added.shape[1]), device=added.device) if penalty else None
    for members in zip(*searches, strict=True):
        going = [group for group in members if not group.done]
        if not going:
            continue
        beams = [branch for group in going for branch in group.running]
        rows = [branch.row for branch in beams]
        own = added if rows == list(range(len(added))) else added[torch.tensor(rows, device=added.device)]
        if chosen is not None:
            own = own - penalty * chosen[[branch.prompt for branch in beams]]
        for group, offers in zip(going, _offers(going, own, order(own, beams), frontier), strict=True):
            group.take(offers)
            if chosen is not None and group.running:
                tokens = torch.tensor([branch.tokens[-1] for branch in group.running], device=added.device)
                chosen[group.running[0].prompt] += torch.bincount(tokens, minlength=added.shape[1])


def _offers(groups: Sequence[_Group], added: Tensor, keys: Tensor, frontier: Frontier) -> list[list[_Offer]]:
    """Return the continuations of every group that are chosen, in their order; equals in the order of the beams.

    Args:
        groups: which of them.
        added: [R, V] what each token adds to the score of each of their beams.
        keys: [R, V] by what they are chosen, less the score of the beam.
        frontier: where the beams stand.
    """
    width, count = groups[0].width, most(groups[0].walk.limits, groups[0].width)
    found = keys.topk(min(count, keys.shape[1]))
    slots = [number * width + beam for number, group in enumerate(groups) for beam in range(len(group.running))]
    slots_of_beams = torch.tensor(slots, device=keys.device)

    def by_group(values: Tensor, nothing: float) -> Tensor:
        """Return values [R, K] of all beams as [groups, W K]."""
        table = values.new_full((len(groups) * width, values.shape[1]), nothing)
        table[slots_of_beams] = values
        return table.view(len(groups), -1)

    beams = [branch for group in groups for branch in group.running]
    scores = torch.tensor([[branch.score] for branch in beams], dtype=torch.float64, device=keys.device)
    ranked, places = by_group(found.values + scores, -torch.inf).sort(dim=-1, descending=True, stable=True)
    places = places[:, :count]
    tokens = by_group(found.indices, 0).gather(1, places)
    totals = by_group(added.gather(1, found.indices) + scores, 0.0).gather(1, places)
    rows = torch.tensor([[branch.row] for branch in beams], device=keys.device)
    at = by_group(rows.expand_as(found.indices), 0).gather(1, places), tokens
    columns = [places // found.indices.shape[1], tokens, totals, frontier.logps[at]]
    columns += [] if frontier.ref_logps is None else [frontier.ref_logps[at]]
    possible = (ranked[:, :count] > -torch.inf).sum(-1).tolist()
    return [
        [_Offer(*values) for values in zip(*own, strict=True)][:some]
        for some, *own in zip(possible, *(column.tolist() for column in columns), strict=True)
    ]
