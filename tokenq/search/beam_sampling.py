"""Beam sampling, as transformers' `generate` does it with both beams and sampling.

In beam search the 2 W best continuations of all beams are looked at; here they are drawn, without replacement, each in
proportion to exp of the score that its response would have. The first W of the draw that end are finished; of those
that do not end, the W best go on. Scores are Σ log π of the tempered tokens, not normalised after filters.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import Frontier
from tokenq.listener import Progress, silent
from tokenq.search.beam import Order, beam_search, by_score, most
from tokenq.search.branches import Branch, Walk
from tokenq.search.guidance import SearchObjective
from tokenq.search.sampling import Dice, kept, mixed_seed
from tokenq.search.settings import Beams, Sampling


def beam_sample(
    walk: Walk,
    beams: Beams | None = None,
    sampling: Sampling | None = None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[list[Branch]]:
    """Return W responses to every prompt, best first; their scores are normalised by length.

    What is drawn depends on the seed and on the tokens of the prompt alone, whatever is searched beside it. With a
    temperature of 0 nothing is drawn: the best continuations that top-k, top-p and min-p leave are chosen.

    Args:
        walk: prompts and limits, at their beginning.
        beams: how wide, and when to stop.
        sampling: temperature and filters; every filter leaves one token more than there are ends of responses.
        seed: decides everything that is drawn.
        progress: told (tokens of the longest response so far, most tokens) after every step.

    Raises:
        UserError: a budget smaller than one step.
    """
    sampling = sampling or Sampling()
    least = most(walk.limits, 1)

    def tempered(frontier: Frontier, beta: float) -> Tensor:
        return kept(frontier.logps, sampling, least)

    objective = SearchObjective("likelihood", tempered, reference=False)
    order = drawn([Dice(mixed_seed(seed, prompt, 0)) for prompt in walk.prompts]) if sampling.temperature else by_score
    return beam_search(walk, beams, objective, progress=progress, order=order)


def drawn(dice: Sequence[Dice]) -> Order:
    """Return the order of a draw without replacement: the largest of score + Gumbel noise come first.

    That the k largest of log p + noise are k draws without replacement in their order is the Gumbel-top-k trick
    (arXiv 1903.06059).

    Args:
        dice: of each prompt.
    """

    def order(added: Float[Tensor, "R V"], beams: Sequence[Branch]) -> Float[Tensor, "R V"]:
        left = added > -torch.inf  # a number is drawn for what the filters leave, and for nothing else
        counts = [0 for _ in dice]
        for branch, count in zip(beams, left.sum(-1).tolist(), strict=True):
            counts[branch.prompt] += count
        uniform = torch.cat([one.many(count) for one, count in zip(dice, counts, strict=True)])
        noise = uniform.log_().neg_().log_().neg_().to(added.device)
        keys = added.to(torch.float64, copy=True)
        keys[left] += noise
        return keys

    return order
