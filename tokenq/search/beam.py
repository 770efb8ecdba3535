"""Beam search, as transformers' `generate` does it, for any objective that is a sum over tokens.

Of the 2 W best continuations of all beams, those among the first W that end are finished; the W best that do not end
go on. A finished response is ranked by score / length^length_penalty, its length that of the generated tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from tokenq.core.tensors import Frontier
from tokenq.errors import UserError
from tokenq.search.branches import Branch, Limits, Progress, Walk, silent
from tokenq.search.guidance import OBJECTIVES, Objective

_Offers = list[list[tuple[float, int]]]


@dataclass(frozen=True)
class Beams:
    """How wide, and when to stop.

    Attributes:
        width: beams, W.
        length_penalty: exponent of the length by which finished responses are divided; 0 ranks by the sum.
        early_stopping: True stops when W responses are finished; False when no running beam could beat the worst of
            them at its present length; "never" when none could at any length up to the limit.
        groups: parts of the beams that are told apart by `diversity_penalty`; 1 for ordinary beams.
        diversity_penalty: what a token costs in a group for every beam of an earlier group that chose it in this step.
    """

    width: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Refuse beams that are none."""
        if self.width < 1:
            raise UserError(f"A width of {self.width} searches nothing.", "Give 1 or more beams.")
        if self.groups < 1 or self.width % self.groups:
            raise UserError(f"{self.width} beams cannot be parted into {self.groups} groups.", "Choose a divisor.")


@dataclass
class _Search:
    """The beams of one group of one prompt: those that run, and those that are finished, best first."""

    walk: Walk
    limits: Limits
    beams: Beams
    width: int
    running: list[Branch]
    finished: list[Branch] = field(default_factory=list)
    done: bool = False

    def take(self, frontier: Frontier, offers: Sequence[Sequence[tuple[float, int]]]) -> None:
        """Extend the running beams by their best continuations.

        Args:
            frontier: where they stand.
            offers: for every beam (what a token adds to its score, the token), best first, `most` at least.
        """
        rows = zip(self.running, offers, strict=True)
        totals = [(branch.score + gain, branch, token) for branch, own in rows for gain, token in own]
        best = sorted(totals, key=lambda offer: -offer[0])[: most(self.limits, self.width)]
        length = len(self.running[0].tokens) + 1
        running: list[Branch] = []
        for rank, (score, branch, token) in enumerate(best):
            if score == -torch.inf:
                continue
            ends = self.limits.ends(token, length)
            if ends and rank < self.width:
                complete = branch.with_token(token, frontier, score)
                self.walk.end(complete)
                self._finish(complete)
            elif not ends and len(running) < self.width:
                running.append(branch.with_token(token, frontier, score))
        self.running = running
        self.done = not running or (self.beams.early_stopping is True and self._full()) or not self._may_improve(length)

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
        longest = self.limits.max_new_tokens if self.beams.early_stopping == "never" and penalty > 0 else length
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
    objective: Objective = OBJECTIVES["likelihood"],
    beta: float = 1.0,
    progress: Progress = silent,
) -> list[list[Branch]]:
    """Return for every prompt the W best responses, best first; their scores are normalised by length.

    Args:
        walk: prompts and limits, at their beginning.
        beams: how wide, and when to stop.
        objective: what is maximised.
        beta: KL temperature, for objectives that have one.
        progress: told (tokens of the longest response so far, most tokens) after every step.

    Raises:
        UserError: a budget smaller than one step, or an objective without what it needs.
    """
    beams = beams or Beams()
    limits = walk.limits
    searches = [
        [_Search(walk, limits, beams, beams.width // beams.groups, [root]) for _ in range(beams.groups)]
        for root in walk.roots()
    ]
    for length in range(1, limits.max_new_tokens + 1):
        added = objective.score(walk.frontier, beta)
        best = _offers(added, most(limits, beams.width // beams.groups))
        for prompt, groups in enumerate(searches):
            _take(groups, walk.frontier, added, best, beams.diversity_penalty)
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


def _take(groups: Sequence[_Search], frontier: Frontier, added: torch.Tensor, best: _Offers, penalty: float) -> None:
    """Extend every group of a prompt in turn; later groups pay for tokens that earlier ones chose."""
    chosen: list[int] = []
    for group in groups:
        if group.done:
            continue
        rows = [branch.row for branch in group.running]
        if penalty and chosen:
            counts = torch.bincount(torch.tensor(chosen, device=added.device), minlength=added.shape[1])
            own = added[torch.tensor(rows, device=added.device)] - penalty * counts
            group.take(frontier, _offers(own, most(group.limits, group.width)))
        else:
            group.take(frontier, [best[row] for row in rows])
        chosen += [branch.tokens[-1] for branch in group.running]


def _offers(added: torch.Tensor, count: int) -> _Offers:
    """Return the best tokens of every row, as (what it adds, token)."""
    found = added.topk(min(count, added.shape[1]))
    return [
        list(zip(gains, tokens, strict=True))
        for gains, tokens in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]
