"""Beams of chunks: W responses are each continued K times by sampling, and the W best by reward go on.

Weak-to-strong search (arXiv 2405.19262): the samples come from one model (the stepper's reference, or a large model
steered by nothing), and the reward is a small pair's Σ β log π/π_ref.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenq.errors import UserError
from tokenq.listener import Progress, silent
from tokenq.search.branches import Branch, Walk, grown
from tokenq.search.guidance import reward
from tokenq.search.sampling import Dice, draw, filtered, mixed_seed
from tokenq.search.settings import Chunks, Sampling


@dataclass
class _Search:
    """The responses of one prompt: those that run, and those that are complete."""

    dice: Dice
    running: list[Branch]
    finished: list[Branch] = field(default_factory=list)

    def choose(self, width: int) -> None:
        """Let the W best of all different responses go on."""
        kept = sorted(self._different(), key=lambda branch: -branch.score)[:width]
        self.finished = [branch for branch in kept if branch not in self.running]
        self.running = [branch for branch in kept if branch in self.running]

    def stop(self, width: int) -> None:
        """Keep the W best as they stand: those that are complete, then those that were being written."""
        kept = sorted(self._different(), key=lambda branch: (branch in self.running, -branch.score))
        self.finished, self.running = kept[:width], []

    def _different(self) -> list[Branch]:
        return list({branch.tokens: branch for branch in (*self.finished, *self.running)}.values())


def chunk_search(
    walk: Walk,
    chunks: Chunks | None = None,
    sampling: Sampling | None = None,
    *,
    beta: float = 1.0,
    seed: int = 0,
    progress: Progress = silent,
) -> list[list[Branch]]:
    """Return for every prompt the W best responses by Σ β log π/π_ref, best first.

    Args:
        walk: prompts and limits, at their beginning.
        chunks: how wide, and how often it is chosen.
        sampling: temperature and filters.
        beta: KL temperature.
        seed: decides everything that is drawn.
        progress: told (tokens of the longest response so far, most tokens) after every step.

    Raises:
        UserError: a budget smaller than one step, or a stepper without reference.
    """
    chunks, sampling = chunks or Chunks(), sampling or Sampling()
    limits = walk.limits
    searches = [
        _Search(Dice(mixed_seed(seed, prompt, 0)), [root])
        for prompt, root in zip(walk.prompts, walk.roots(), strict=True)
    ]
    for length in range(limits.max_new_tokens):
        if length % chunks.chunk_length == 0:
            for search in searches:
                search.choose(chunks.width)
                search.running = [branch for branch in search.running for _ in range(chunks.chunk_samples)]
        going = [search for search in searches if search.running]
        if not going:
            break
        _one_token(going, walk, chunks.chunk_from, sampling, beta)
        progress(length + 1, limits.max_new_tokens)
        for prompt, search in enumerate(searches):
            if search.running and not walk.may_step(prompt, len(search.running)):
                search.stop(chunks.width)
        every = [branch for search in searches for branch in search.running]
        if every:
            stepped = iter(walk.step(every))
            for search in searches:
                search.running = [next(stepped) for _ in search.running]
    for search in searches:
        search.stop(chunks.width)
    return [search.finished for search in searches]


def _one_token(searches: Sequence[_Search], walk: Walk, source: str, sampling: Sampling, beta: float) -> None:
    """Give every running response one more token."""
    frontier = walk.frontier
    if frontier.ref_logps is None:
        raise UserError("Chunks are chosen by reward, which needs a reference.", "Name one with --reference.")
    drawn_from = filtered(frontier.logps if source == "policy" else frontier.ref_logps, sampling)
    running = [branch for search in searches for branch in search.running]
    dice = [search.dice for search in searches for _ in search.running]
    tokens = draw(drawn_from, [branch.row for branch in running], dice)
    longer = iter(grown(running, tokens, frontier, reward(frontier, beta)))
    for search in searches:
        after = [next(longer) for _ in search.running]
        search.running = []
        for branch in after:
            if walk.over(branch):
                walk.end(branch)
                search.finished.append(branch)
            else:
                search.running.append(branch)
