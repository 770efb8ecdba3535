"""The rules by which pairs are chosen: a function of what is known about them each, and a row of `RULES`.

A rule gives every pair a number; those of the largest are kept, and equal ones in an order that the seed draws. What
is known about pairs (margins, duplicates) is an attribute of `Evidence`, which a rule names and never computes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.curation.noise import estimate_noise
from tokenq.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known about N pairs; None where nobody asked.

    Attributes:
        count: N.
        margins: [N] implicit reward of the chosen response above that of the rejected one, β Δ log π/π_ref.
        references: [N] Δ log π_ref, nats.
        fitted: [N] implicit margins by policies that never saw the pair.
        firsts: [N] place of the first pair that says the same: its own where nothing before it does.
    """

    count: int
    margins: Floats | None = None
    references: Floats | None = None
    fitted: Floats | None = None
    firsts: NDArray[np.int64] | None = None


class Worth(NamedTuple):
    """What a rule says of pairs.

    Attributes:
        numbers: [N], larger is kept first; −∞ is never kept.
        found: what it found out on the way, by name.
    """

    numbers: Floats
    found: Mapping[str, float | str] = {}


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        worth: (evidence) → what every pair is worth.
        says: what is kept first, for messages and help.
        needs: the evidence that it goes by, attributes of `Evidence`.
        source: of the rule.
        share: of the pairs, kept where none is asked for; all by rules that put none before another.
    """

    worth: Callable[[Evidence], Worth]
    says: str
    needs: tuple[str, ...] = ()
    source: str = ""
    share: float = 0.25


MEASURES = {
    "margins": "implicit margins of the run",
    "references": "margins of the reference",
    "fitted": "implicit margins by policies that never saw the pair",
}
"""Numbers of `Evidence`, in words."""

MANY_FLIPS = 0.45
"""Where the interval of the share of wrong labels reaches this, labels may be as good as drawn: agreement then says
little, and the largest margins say most. Chosen on the first seed of the study in docs/experiments.md, where pairs of
small margins were worth least at every share."""


def _needed(evidence: Evidence, name: str) -> Floats:
    found: Floats | None = vars(evidence)[name]
    if found is None:
        raise ValueError(f"nobody has measured the {MEASURES[name]}")
    return found


def _large(name: str) -> Callable[[Evidence], Worth]:
    return lambda evidence: Worth(_needed(evidence, name))


def _small(name: str) -> Callable[[Evidence], Worth]:
    return lambda evidence: Worth(-np.abs(_needed(evidence, name)))


def _agreement(evidence: Evidence) -> Worth:
    agrees = _needed(evidence, "fitted") > 0
    return Worth(agrees.astype(np.float64), {"share in agreement": float(agrees.mean())})


def _deduplicated(evidence: Evidence) -> Worth:
    if evidence.firsts is None:
        raise ValueError("nobody has looked for duplicates")
    repeated = evidence.firsts != np.arange(evidence.count)
    return Worth(np.where(repeated, -np.inf, 0.0), {"duplicates": int(repeated.sum())})


def _by_flip_rate(evidence: Evidence) -> Worth:
    """Return large margins where about as many labels may be wrong as right, and any that agree elsewhere."""
    margins = _needed(evidence, "fitted")
    rate = estimate_noise(margins).rate
    if np.isnan(rate.value):
        raise UserError(
            "The margins say nothing about how many labels are wrong.", "Take another rule, or more pairs and folds."
        )
    said = {"flip rate": rate.value, "flip rate, at least": rate.low, "flip rate, at most": rate.high}
    if rate.high >= MANY_FLIPS:
        return Worth(margins, {**said, "side": "large"})
    agreement = _agreement(evidence)
    return Worth(agreement.numbers, {**said, **agreement.found, "side": "agreement"})


_LESS, _HARD, _DIFFICULT = "arXiv 2502.14560", "arXiv 2508.04149", "arXiv 2502.09650"

RULES: dict[str, Rule] = {
    "random": Rule(lambda evidence: Worth(np.zeros(evidence.count)), "any", share=1.0),
    "large_margin": Rule(_large("margins"), "the largest implicit margins", ("margins",), _LESS),
    "small_margin": Rule(_small("margins"), "the implicit margins nearest to 0", ("margins",), _HARD),
    "large_reference_margin": Rule(_large("references"), "the largest margins of the reference", ("references",)),
    "small_reference_margin": Rule(_small("references"), "the margins of the reference nearest to 0", ("references",)),
    "agreement": Rule(_agreement, "any whose label policies that never saw it agree with", ("fitted",)),
    "easy": Rule(_large("fitted"), "the least loss under policies that never saw it", ("fitted",), _DIFFICULT),
    "deduplicated": Rule(_deduplicated, "any, one of each set of duplicates", ("firsts",), share=1.0),
    "flip_rate": Rule(_by_flip_rate, "any that agree, or large margins where half may be wrong", ("fitted",)),
}
"""Every rule by the name that --rule has for it."""


def refuse_useless(evidence: Evidence) -> None:
    """Refuse margins that are no numbers, or all the same.

    Raises:
        UserError: names them.
    """
    for name, words in MEASURES.items():
        numbers: Floats | None = vars(evidence)[name]
        if numbers is None:
            continue
        if not np.isfinite(numbers).all():
            place = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise UserError(
                f"The {words} are no finite numbers: pair {place} has {numbers[place]}.", "Look at the run."
            )
        if np.ptp(numbers) == 0:
            raise UserError(
                f"The {words} are all {numbers[0]:g}: a rule has nothing to go by.",
                "A policy that is its reference has margins of 0: take one that was trained, or --rule random.",
            )


def best(worth: Floats, count: int, seed: int) -> NDArray[np.int64]:
    """Return the places of the largest numbers, ascending; equal ones are drawn by the seed, −∞ is never taken.

    Args:
        worth: [N].
        count: how many, fewer where fewer can be taken.
        seed: of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(len(worth))
    order = drawn[np.argsort(-worth[drawn], kind="stable")]
    return np.sort(order[: min(count, int((worth > -np.inf).sum()))])
