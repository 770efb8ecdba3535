"""Reward-guided token search: the policy proposes tokens, and a value of the text with each of them helps to choose.

ARGS (arXiv 2402.01694) with one beam: argmax over the k most likely tokens of log π + w · value(text so far, token).
With more beams the W best by Σ log π + w · value go on. The value is of the whole prefix and is not added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from tokenq.listener import Progress, silent
from tokenq.search.branches import Branch, Walk, grown
from tokenq.search.guidance import Value
from tokenq.search.settings import Lookahead


@dataclass
class _Search:
    """The responses of one prompt."""

    running: list[Branch]
    finished: list[Branch] = field(default_factory=list)


def lookahead_search(
    walk: Walk,
    value: Value,
    lookahead: Lookahead | None = None,
    progress: Progress = silent,
) -> list[list[Branch]]:
    """Return for every prompt the W best responses by Σ log π + w · value, best first.

    Args:
        walk: prompts and limits, at their beginning.
        value: what a prefix is worth.
        lookahead: how wide, and how far.
        progress: told (tokens of the longest response so far, most tokens) after every step.

    Raises:
        UserError: a budget smaller than one step.
    """
    lookahead = lookahead or Lookahead()
    limits = walk.limits
    searches = [_Search([root]) for root in walk.roots()]
    for length in range(1, limits.max_new_tokens + 1):
        offered = _offers(searches, walk, lookahead.lookahead_top_k)
        worth = iter(value([branch for branches in offered for branch in branches]))
        for prompt, (search, branches) in enumerate(zip(searches, offered, strict=True)):
            ranked = [replace(one, score=sum(one.logps) + lookahead.lookahead_weight * next(worth)) for one in branches]
            _keep(search, ranked, walk, lookahead.width)
            if search.running and not walk.may_step(prompt, len(search.running)):
                search.finished, search.running = [*search.finished, *search.running], []
        progress(length, limits.max_new_tokens)
        every = [branch for search in searches for branch in search.running]
        if not every:
            break
        stepped = iter(walk.step(every))
        for search in searches:
            search.running = [next(stepped) for _ in search.running]
    return [sorted(search.finished, key=lambda one: -one.score)[: lookahead.width] for search in searches]


def _offers(searches: Sequence[_Search], walk: Walk, top_k: int) -> list[list[Branch]]:
    """Return for every search its running responses with each of their k most likely next tokens."""
    found = walk.frontier.logps.topk(min(top_k, walk.frontier.logps.shape[1]))
    tokens, logps = found.indices.tolist(), found.values.tolist()
    offers = [
        (branch, token)
        for search in searches
        for branch in search.running
        for token, logp in zip(tokens[branch.row], logps[branch.row], strict=True)
        if logp > -torch.inf
    ]
    offered: list[list[Branch]] = [[] for _ in searches]
    for branch in grown([branch for branch, _ in offers], [token for _, token in offers], walk.frontier):
        offered[branch.prompt].append(branch)
    return offered


def _keep(search: _Search, ranked: list[Branch], walk: Walk, width: int) -> None:
    """Let the W best go on; a response that ends takes its place among them and gives it up for good."""
    room = width - len(search.finished)
    best = sorted(ranked, key=lambda one: -one.score)[: max(0, room)]
    search.running = []
    for branch in best:
        if walk.over(branch):
            walk.end(branch)
            search.finished.append(branch)
        else:
            search.running.append(branch)
