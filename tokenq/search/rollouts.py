"""Rollouts: responses that are written to their end from the leaves of a tree, so that a leaf can be valued by them."""

from collections.abc import Callable, Sequence

from torch import Tensor

from tokenq.core.tensors import Frontier
from tokenq.search.branches import Branch, Walk, grown
from tokenq.search.sampling import Dice, draw, filtered
from tokenq.search.settings import Sampling


def written(
    branches: Sequence[Branch],
    walk: Walk,
    sampling: Sampling,
    added: Callable[[Frontier], Tensor | None],
    dice: Sequence[Dice],
    count: int,
) -> tuple[list[Branch], list[int]]:
    """Return a few responses from each of some branches, written to their end, and whose continuation each of them is.

    Where a limit cuts the search of a prompt, its responses are returned as they stand.

    Args:
        branches: from where, at their rows of the walk's frontier.
        walk: goes on from them.
        sampling: how tokens are drawn.
        added: (frontier) → [B, V] what each token adds to the score, None for nothing.
        dice: of every prompt.
        count: responses from each.
    """
    running = {(number, copy): branch for number, branch in enumerate(branches) for copy in range(count)}
    responses: list[Branch] = []
    owners: list[int] = []
    while running:
        frontier = walk.frontier
        now = list(running.values())
        logps = filtered(frontier.logps, sampling)
        tokens = draw(logps, [branch.row for branch in now], [dice[branch.prompt] for branch in now])
        longer: dict[tuple[int, int], Branch] = {}
        for place, after in zip(running, grown(now, tokens, frontier, added(frontier)), strict=True):
            if walk.over(after) or not walk.may_step(after.prompt, count):
                responses.append(after)
                owners.append(place[0])
            else:
                longer[place] = after
        running = dict(zip(longer, walk.step(list(longer.values())), strict=True)) if longer else {}
    return responses, owners
