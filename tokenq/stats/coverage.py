"""Does a policy still do what it was taught from? How likely the episodes of pairs are under it and its reference.

A policy that pairs teach too little of may give probability to episodes that no pair has shown, and there nothing says
what they are worth: it can fall below the reference that wrote the pairs. What the pairs have shown becomes less likely
then, which is seen without a return.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np

from tokenq.stats.bootstrap import Estimate, mean_interval

MOVED = 0.1
"""Nats by which the pairs' episodes must be less likely: less than a tenth is no move."""


class Shown(NamedTuple):
    """An episode that a pair has shown.

    Attributes:
        prompt: what it begins with.
        response: tells it from the others that begin so.
        logp: Σ log π of its actions, in nats.
        ref_logp: Σ log π_ref of its actions, in nats.
    """

    prompt: Hashable
    response: Hashable
    logp: float
    ref_logp: float


class Coverage(NamedTuple):
    """How much of what policy and reference play the pairs have shown.

    Attributes:
        episodes: different ones.
        policy: mean over prompts of Σ π(episode) over their different episodes.
        reference: the same of π_ref.
        change: mean over prompts of log(Σ π / Σ π_ref), in nats, with its interval (bootstrap over prompts).
    """

    episodes: int
    policy: float
    reference: float
    change: Estimate

    @property
    def lost(self) -> bool:
        """Whether the policy has moved to what no pair has shown: for certain, or by the one prompt that there is."""
        return (self.change.value if np.isnan(self.change.high) else self.change.high) < -MOVED


def coverage_of(episodes: Iterable[Shown]) -> Coverage:
    """Return the coverage by some episodes, at least one; each counts once, as often as it may stand there."""
    logps = dict[Hashable, dict[Hashable, tuple[float, float]]]()
    for one in episodes:
        logps.setdefault(one.prompt, {})[one.response] = one.logp, one.ref_logp
    sums = np.array([np.logaddexp.reduce([*some.values()], 0) for some in logps.values()])
    policy, reference = np.exp(sums).mean(0)
    change = mean_interval(sums[:, 0] - sums[:, 1])
    return Coverage(sum(map(len, logps.values())), float(policy), float(reference), change)
