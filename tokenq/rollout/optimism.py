"""Where optimism has no minimum: responses that pairs are calibrated on more often than their wins can hold.

A calibrated loss that lowers log π of a response y, `vpo_online`, `selm` or `xpo`, falls by a β for each pair that is
calibrated on y when log π(y) falls by 1; a is α, for XPO α/β. DPO's loss rises by β σ(−margin) < β for each pair
that y wins, and in the end by nothing for one that it loses. So where y wins no more than a times the pairs that it
calibrates, the loss falls for ever as π(y) goes to 0, and only the length of training holds it back. It may have no
minimum elsewhere too: responses that only lose to each other and to y can fall together with it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tokenq.core.losses import LossSum
from tokenq.records.examples import TokenGroup

SOURCES = {"given": ("calibration",), "chosen": ("chosen",), "rejected": ("rejected",), "both": ("chosen", "rejected")}
"""The roles of the responses that each choice of `--loss-options calibration=…` calibrates on, in equal parts."""


class Optimism(NamedTuple):
    """What a loss lowers.

    Attributes:
        weight: a, what calibration weighs beside a pair's own loss.
        roles: of the responses that it lowers.
    """

    weight: float
    roles: tuple[str, ...]


def optimism_of(loss: LossSum) -> Optimism | None:
    """Return what a loss lowers; None for one without optimism, or whose other terms hold it in their own way."""
    (term, *others) = loss.terms
    weigh = _WEIGHTS.get(term.name)
    if weigh is None or others:
        return None
    numbers = term.loss.parameters()
    weight = weigh(numbers["alpha"], numbers["beta"])
    return Optimism(weight, SOURCES[term.loss.source("calibration")]) if weight > 0 else None


_WEIGHTS = {
    "vpo_online": lambda alpha, beta: alpha,
    "selm": lambda alpha, beta: alpha,
    "xpo": lambda alpha, beta: alpha / beta,
}
"""(α, β) → a, by the name of the loss."""


def beyond_limit(groups: Sequence[TokenGroup], optimism: Optimism) -> tuple[int, int]:
    """Return how many prompts have a response that is lowered without end, and how many have pairs at all.

    Args:
        groups: the pairs that a round learns from.
        optimism: what the loss lowers.
    """
    won: dict[tuple[int, ...], Counter[bytes]] = {}
    lowered: dict[tuple[int, ...], Counter[bytes]] = {}
    for group in groups:
        prompt = tuple(group.prompt_ids.tolist())
        for response in group.responses:
            if response.role == "chosen":
                won.setdefault(prompt, Counter())[response.ids.tobytes()] += 1
            if response.role in optimism.roles:
                lowered.setdefault(prompt, Counter())[response.ids.tobytes()] += 1
    part = optimism.weight / len(optimism.roles)
    beyond = [any(won[prompt][one] <= part * count for one, count in some.items()) for prompt, some in lowered.items()]
    return sum(beyond), len(won)
