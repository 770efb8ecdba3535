"""Quality against cost: many searches of the same prompts, each beside what plain samples reach for the same tokens.

A search is compared on every prompt with as many of a common pool of samples as the tokens that it spent there would
have paid for: with their mean, their best by reward and their majority. A method is worth its tokens where it beats
the best of these, and a gain over single samples alone is determinism, not search.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenq.evaluation.task_generation import Quality, qualities
from tokenq.records.results import Candidate, Cost, SearchResult
from tokenq.search.config import SearchConfig
from tokenq.search.methods import METHODS, Aids
from tokenq.search.outcome import ranked
from tokenq.stats.bootstrap import PLAIN, Estimate, Floats, Resampling, difference_interval, mean_interval

POOLED = ("sample", "best_of_n", "majority", "weighted_vote")
"""Methods whose results can be read off a larger number of samples."""


@dataclass(frozen=True)
class Beats:
    """How often one search is better than another, prompt by prompt; the three shares sum to 1.

    Where one of them is a number of samples, each of these counts, averaged within the prompt.

    Attributes:
        wins: share of prompts on which it is better.
        ties: on which both are as good, but for rounding.
        losses: on which it is worse.
    """

    wins: Estimate
    ties: Estimate
    losses: Estimate


@dataclass(frozen=True)
class Rival:
    """What samples of the same cost reach.

    Attributes:
        name: "sample" (their mean), "best_of_n" or "majority".
        quality: its mean over prompts.
        gain: the search's quality less this one's, on the same prompts.
        beats: how often the search is better; for "sample" than a single one of them.
    """

    name: str
    quality: Estimate
    gain: Estimate
    beats: Beats


@dataclass(frozen=True)
class Point:
    """A search as a point of the curve.

    Attributes:
        setting: as it was asked for, such as "beam width=5".
        method: its name.
        quality: of the best candidate, its mean over prompts; for "sample" the mean over all candidates.
        gain: its quality less that of greedy decoding, on the same prompts; None where greedy was not among them.
        beats_greedy: how often it is better than greedy decoding; None where greedy was not among them.
        rivals: what samples of the same cost reach.
        policy_tokens: mean tokens per prompt through the policy.
        reference_tokens: mean tokens per prompt through the reference.
        value_tokens: mean tokens per prompt that a judge of prefixes was shown.
        seconds: mean seconds per prompt.
        length: mean tokens of the best candidate; for "sample" of all candidates.
        terminal: share of these that end in EOS.
    """

    setting: str
    method: str
    quality: Estimate
    gain: Estimate | None
    beats_greedy: Beats | None
    rivals: tuple[Rival, ...]
    policy_tokens: float
    reference_tokens: float
    value_tokens: float
    seconds: float
    length: Estimate
    terminal: float


def first_samples(result: SearchResult, count: int, config: SearchConfig) -> SearchResult:
    """Apply a method to the first samples of a pool, at the cost of these samples alone.

    Args:
        result: samples of one prompt, in the order in which they were drawn.
        count: how many of them.
        config: a method of `POOLED` and its settings; answers are those of the candidates.

    Raises:
        UserError: a ranking or a vote misses what it needs.
    """
    kept = result.candidates[:count]
    answers = {one.token_ids: one.answer for one in kept}
    aids, rank = Aids(answer=lambda branch: answers[branch.tokens]), METHODS[config.method].rank
    share = len(kept) / max(1, len(result.candidates))
    cost = Cost(
        _prompt_tokens(result) + sum(map(_stepped, kept)),
        _prompt_tokens(result) + sum(map(_stepped, kept)) if result.cost.reference_tokens else 0,
        round(result.cost.value_tokens * share),
        result.cost.seconds * share,
        result.cost.peak_memory,
    )
    best = kept if rank is None else ranked(kept, lambda branches: rank(branches, config, aids))
    return replace(result, method=config.method, candidates=best, cost=cost)


def affordable(pool: SearchResult, tokens: int) -> int:
    """Return how many samples of a pool so many policy tokens pay for, the prompt included; one at least."""
    spent, count = _prompt_tokens(pool), 0
    for candidate in pool.candidates:
        spent += _stepped(candidate)
        if spent > tokens and count:
            break
        count += 1
    return max(1, count)


def point(
    setting: str,
    results: Sequence[SearchResult],
    quality: Quality,
    greedy: Sequence[SearchResult] | None,
    rivals: dict[str, list[SearchResult]],
    how: Resampling = PLAIN,
) -> Point:
    """Return one search as a point.

    Args:
        setting: as it was asked for.
        results: what it found, one a prompt.
        quality: how good a candidate is.
        greedy: what greedy decoding found for the same prompts.
        rivals: by name, what samples of the same cost made of the same prompts.
        how: how intervals are made.
    """
    own = qualities(results, quality)
    single = _one_by_one(results, quality)
    beaten = tuple(
        Rival(
            name,
            mean_interval(theirs, how=how),
            difference_interval(own, theirs, how=how),
            beats(single, _one_by_one(found, quality), how),
        )
        for name, found, theirs in ((name, found, qualities(found, quality)) for name, found in rivals.items())
    )
    costs = [one.cost for one in results]
    judged = [_judged(one) for one in results]
    lengths = [np.mean([len(one.token_ids) for one in some]) if some else np.nan for some in judged]
    ends = [np.mean([one.terminal for one in some]) for some in judged if some]
    return Point(
        setting=setting,
        method=results[0].method,
        quality=mean_interval(own, how=how),
        gain=None if greedy is None else difference_interval(own, qualities(greedy, quality), how=how),
        beats_greedy=None if greedy is None else beats(single, _one_by_one(greedy, quality), how),
        rivals=beaten,
        policy_tokens=float(np.mean([cost.policy_tokens for cost in costs])),
        reference_tokens=float(np.mean([cost.reference_tokens for cost in costs])),
        value_tokens=float(np.mean([cost.value_tokens for cost in costs])),
        seconds=float(np.mean([cost.seconds for cost in costs])),
        length=mean_interval(np.array(lengths), how=how),
        terminal=float(np.mean(ends)) if ends else 0.0,
    )


def beats(ours: Sequence[Floats], theirs: Sequence[Floats], how: Resampling = PLAIN) -> Beats:
    """Return how often the first of two searches is better, as good, and worse.

    Args:
        ours: by prompt, the quality of each response that counts; every one is compared with every one of the other.
        theirs: likewise, for the same prompts.
        how: how intervals are made.
    """
    shares = np.empty((len(ours), 3))
    for row, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        apart = own[:, None] - other[None, :]
        near = 1e-9 * np.maximum(1.0, np.maximum(np.abs(own[:, None]), np.abs(other[None, :])))
        shares[row] = np.mean(apart > near), np.mean(np.abs(apart) <= near), np.mean(apart < -near)
    wins, ties, losses = (mean_interval(share, how=how) for share in shares.T)
    return Beats(wins, ties, losses)


def _judged(result: SearchResult) -> tuple[Candidate, ...]:
    """Return the candidates whose quality counts: all samples, else the best."""
    return result.candidates if result.method == "sample" else result.candidates[:1]


def _one_by_one(results: Sequence[SearchResult], quality: Quality) -> list[Floats]:
    """Return by prompt the quality of each candidate that counts; one of 0 where nothing was found."""
    return [np.array([quality(one, candidate) for candidate in _judged(one)] or [0.0]) for one in results]


def rivals_of(
    results: Sequence[SearchResult], pool: Sequence[SearchResult], searches: Sequence[SearchConfig]
) -> dict[str, list[SearchResult]]:
    """Return the results of samples on the same prompts that cost no more than each given result.

    Args:
        results: what a search found, one a prompt.
        pool: samples of the same prompts, in their order.
        searches: methods of `POOLED` and their settings.
    """
    counts = [affordable(samples, one.cost.policy_tokens) for one, samples in zip(results, pool, strict=True)]
    return {
        one.method: [first_samples(samples, count, one) for samples, count in zip(pool, counts, strict=True)]
        for one in searches
    }


def _stepped(candidate: Candidate) -> int:
    """Return how many tokens of a response went through the policy: the last one need not."""
    return len(candidate.token_ids) - 1


def _prompt_tokens(pool: SearchResult) -> int:
    return pool.cost.policy_tokens - sum(map(_stepped, pool.candidates))
