"""Beams of chunks: W responses are each continued K times by sampling, and the W best by reward go on.

Weak-to-strong search (arXiv 2405.19262): the samples come from one model (the stepper's reference, or a large model
steered by nothing), and the reward is a small pair's Σ β log π/π_ref.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokenq.core.tensors import Stepper
from tokenq.errors import UserError
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.sampling import Sampling, draw, filtered, mixed_seed


@dataclass(frozen=True)
class Chunks:
    """How wide, and how often it is chosen.

    Attributes:
        width: responses that go on, W.
        samples: continuations of each, K.
        length: tokens of a chunk, L.
        sample_from: "policy" or "reference": whose distribution chunks are drawn from.
    """

    width: int = 4
    samples: int = 4
    length: int = 5
    sample_from: str = "policy"

    def __post_init__(self) -> None:
        """Refuse chunks that are none."""
        if min(self.width, self.samples, self.length) < 1:
            raise UserError("width, samples and length of chunks are 1 or more.", "Weak-to-strong search took 4, 4, 5.")
        if self.sample_from not in ("policy", "reference"):
            raise UserError(f"Chunks come from policy or reference, not {self.sample_from!r}.", "Name one of the two.")


def chunk_search(
    stepper: Stepper,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    chunks: Chunks | None = None,
    sampling: Sampling | None = None,
    *,
    beta: float = 1.0,
    seed: int = 0,
) -> list[list[Branch]]:
    """Return for every prompt the W best responses by Σ β log π/π_ref, best first.

    Args:
        stepper: policy and reference.
        prompts: token ids of every prompt, searched one after the other.
        limits: where responses end. When the budget of a prompt is spent, responses stay as they are.
        chunks: how wide, and how often it is chosen.
        sampling: temperature and filters.
        beta: KL temperature.
        seed: decides everything that is drawn.

    Raises:
        UserError: a budget smaller than one step, or a stepper without reference.
    """
    chunks, sampling = chunks or Chunks(), sampling or Sampling()
    return [_search(stepper, prompt, limits, chunks, sampling, beta, seed) for prompt in prompts]


def _search(
    stepper: Stepper,
    prompt: Sequence[int],
    limits: Limits,
    chunks: Chunks,
    sampling: Sampling,
    beta: float,
    seed: int,
) -> list[Branch]:
    walk = Walk(stepper, [prompt], limits)
    dice = torch.Generator().manual_seed(mixed_seed(seed, prompt, 0))
    running: list[Branch] = [Branch()]
    finished: list[Branch] = []
    while running:
        grown = [branch for branch in running for _ in range(chunks.samples)]
        complete: list[Branch] = []
        for _ in range(chunks.length):
            grown, ended, stopped = _one_token(walk, grown, limits, chunks, sampling, beta, dice)
            complete += ended
            if stopped or not grown:
                break
        candidates = sorted([*finished, *complete, *grown], key=lambda branch: -branch.score)[: chunks.width]
        finished = [branch for branch in candidates if branch not in grown]
        running = [] if stopped else [branch for branch in candidates if branch in grown]
        if stopped:
            finished = candidates
    return sorted(finished, key=lambda branch: -branch.score)


def _one_token(
    walk: Walk,
    branches: list[Branch],
    limits: Limits,
    chunks: Chunks,
    sampling: Sampling,
    beta: float,
    dice: torch.Generator,
) -> tuple[list[Branch], list[Branch], bool]:
    """Return (branches with one more token, those that ended with it, whether the budget is spent)."""
    frontier = walk.frontier
    if frontier.ref_logps is None:
        raise UserError("Chunks are chosen by reward, which needs a reference.", "Name one with --reference.")
    source = frontier.logps if chunks.sample_from == "policy" else frontier.ref_logps
    tokens = draw(filtered(source, sampling), [branch.row for branch in branches], [dice] * len(branches))
    going: list[Branch] = []
    ended: list[Branch] = []
    for branch, token in zip(branches, tokens, strict=True):
        gain = float(frontier.logps[branch.row, token] - frontier.ref_logps[branch.row, token])
        after = branch.with_token(token, frontier, branch.score + beta * gain)
        (ended if limits.ends(token, len(after.tokens)) else going).append(after)
    if going and not walk.may_step(len(going)):
        return going, ended, True
    return (walk.step(going) if going else []), ended, False
