"""Bradley-Terry strengths: one scale for several systems that were compared in pairs, not all of them with each other.

P(i preferred over j) = σ(θ_i − θ_j); a tie is half a win for each. Strengths are log-odds, in nats, and have mean zero;
only their differences mean anything. What has no finite answer is refused in words. Nothing here reads files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from tokenq.errors import UserError
from tokenq.stats.bootstrap import Floats, Resampling
from tokenq.stats.win_rate import checked

THOUSAND = Resampling(resamples=1000)
"""Every resample is a fit."""


@dataclass(frozen=True)
class Match:
    """One judgement between two systems.

    Attributes:
        first: name of a system.
        second: name of another.
        preference: share of the first: 1, 0, ½ for a tie, anything between; None when the judgement was unusable.
        prompt: which prompt it was; matches on one prompt are resampled together.
    """

    first: str
    second: str
    preference: float | None
    prompt: str


@dataclass(frozen=True)
class Strength:
    """One system on the common scale.

    Attributes:
        system: its name.
        strength: log-odds against the average system, in nats.
        interval: bootstrap over prompts, percentiles; infinite at an end where too many resamples have no finite
            answer to tell.
        n: judgements it took part in.
        win_rate: its mean preference in them, whoever the others were.
    """

    system: str
    strength: float
    interval: tuple[float, float]
    n: int
    win_rate: float


@dataclass(frozen=True)
class BradleyTerry:
    """Several systems on one scale.

    Attributes:
        systems: the strongest first.
        n: judgements used.
        unusable: judgements left out.
        prompts: how many prompts they are about.
        resamples: how often the prompts were drawn anew.
        unbounded: resamples without finite strengths. They count at both ends of every interval.
    """

    systems: tuple[Strength, ...]
    n: int
    unusable: int
    prompts: int
    resamples: int
    unbounded: int


def bradley_terry(matches: Sequence[Match], how: Resampling = THOUSAND) -> BradleyTerry:
    """Return maximum likelihood strengths, without penalty, and their bootstrap intervals over prompts.

    Args:
        matches: judgements; two systems may meet on many prompts, and on one prompt more than once.
        how: resamples of the prompts, confidence, seed.

    Raises:
        UserError: a system meets itself, there is nothing to compare, nothing joins two groups of systems, or a group
            never (or always) beats the rest, so that its strength is infinite.
    """
    preferences = checked([match.preference for match in matches])
    usable = ~np.isnan(preferences)
    used = [match for match, kept in zip(matches, usable, strict=True) if kept]
    games = _Games.of(used, preferences[usable])
    wins = games.wins(np.ones(len(games.prompts)))
    _refuse_what_has_no_answer(wins, games.systems)
    best = _strengths(wins, np.zeros(len(games.systems)))
    generator = np.random.default_rng(how.seed)
    draws = [games.redrawn(generator, best) for _ in range(how.resamples)]
    finite = [draw for draw in draws if draw is not None]
    unbounded = how.resamples - len(finite)
    ends = np.full((unbounded, len(best)), math.inf)
    rows = np.array(finite).reshape(-1, len(best))
    tail = (1 - how.confidence) / 2
    low = np.quantile(np.concatenate([rows, -ends]), tail, axis=0, method="lower")
    high = np.quantile(np.concatenate([rows, ends]), 1 - tail, axis=0, method="higher")
    met, won = (wins + wins.T).sum(axis=1), wins.sum(axis=1)
    return BradleyTerry(
        systems=tuple(
            Strength(
                system=games.systems[i],
                strength=float(best[i]),
                interval=(float(low[i]), float(high[i])),
                n=round(met[i]),
                win_rate=float(won[i] / met[i]),
            )
            for i in np.argsort(-best, kind="stable")
        ),
        n=len(used),
        unusable=len(matches) - len(used),
        prompts=len(games.prompts),
        resamples=how.resamples,
        unbounded=unbounded,
    )


@dataclass(frozen=True)
class _Games:
    """Judgements as columns.

    Attributes:
        systems: names, sorted.
        prompts: names, sorted.
        pair: number of the pair (first · systems + second), a judgement.
        prompt: number of the prompt, a judgement.
        preference: share of the first, a judgement.
    """

    systems: tuple[str, ...]
    prompts: tuple[str, ...]
    pair: NDArray[np.int64]
    prompt: NDArray[np.int64]
    preference: Floats

    @classmethod
    def of(cls, matches: Sequence[Match], preferences: Floats) -> "_Games":
        if not matches:
            raise UserError("There is no judgement to compare systems by.", "Look at why none could be used.")
        for match in matches:
            if match.first == match.second:
                raise UserError(
                    f"System {match.first!r} was compared with itself on prompt {match.prompt!r}.",
                    "Leave such judgements out.",
                )
        systems = tuple(sorted({name for match in matches for name in (match.first, match.second)}))
        prompts = tuple(sorted({match.prompt for match in matches}))
        number, place = ({name: i for i, name in enumerate(names)} for names in (systems, prompts))
        pair = [number[match.first] * len(systems) + number[match.second] for match in matches]
        return cls(systems, prompts, np.array(pair), np.array([place[m.prompt] for m in matches]), preferences)

    def wins(self, weights: Floats) -> Floats:
        """Return how often each system (row) was preferred over each other (column), prompts weighted."""
        n = len(self.systems)
        weight = weights[self.prompt]
        won = np.bincount(self.pair, weight * self.preference, n * n).reshape(n, n)
        lost = np.bincount(self.pair, weight * (1 - self.preference), n * n).reshape(n, n)
        return np.asarray(won + lost.T, dtype=np.float64)

    def redrawn(self, generator: np.random.Generator, start: Floats) -> Floats | None:
        """Return the strengths from prompts drawn with replacement, or None where they are not finite."""
        n = len(self.prompts)
        wins = self.wins(generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
        groups, _ = connected_components(wins > 0, connection="strong")
        return _strengths(wins, start) if groups == 1 else None


def _strengths(wins: Floats, start: Floats) -> Floats:
    """Return the maximum likelihood strengths; the caller has made sure that they are finite.

    The likelihood is concave, and strictly so once the first system is held at zero: Newton steps in a trust region
    find its top from anywhere.
    """
    games = wins + wins.T
    total = games.sum() / 2

    def chances(free: Floats) -> tuple[Floats, Floats]:
        strengths = np.concatenate([[0.0], free])
        apart = strengths[:, None] - strengths[None, :]
        return apart, expit(apart)

    def loss(free: Floats) -> tuple[float, Floats]:
        apart, chance = chances(free)
        slope = (games * chance - wins).sum(axis=1) / total
        return float((wins * np.logaddexp(0, -apart)).sum() / total), slope[1:]

    def curvature(free: Floats) -> Floats:
        _, chance = chances(free)
        weight = games * chance * (1 - chance) / total
        return np.asarray((np.diag(weight.sum(axis=1)) - weight)[1:, 1:])

    found = minimize(loss, start[1:] - start[0], jac=True, hess=curvature, method="trust-exact", tol=1e-10)
    strengths = np.concatenate([[0.0], found.x])
    return np.asarray(strengths - strengths.mean())


def _refuse_what_has_no_answer(wins: Floats, systems: Sequence[str]) -> None:
    """Raise unless every system beats every other through a chain of wins (Ford 1957): else a strength is infinite."""
    groups, group = connected_components(wins + wins.T > 0, directed=False)
    if groups > 1:
        apart = [_names(systems, group == number) for number in range(groups)]
        raise UserError(
            f"No comparison joins {' with '.join(apart)}: their strengths have no common scale.",
            "Compare a system of each group with one of another, or estimate the groups apart.",
        )
    groups, group = connected_components(wins > 0, connection="strong")
    if groups == 1:
        return
    beaten = [bool(wins[group != number][:, group == number].any()) for number in range(groups)]
    winning = [bool(wins[group == number][:, group != number].any()) for number in range(groups)]
    on_top, below = group == beaten.index(False), group == winning.index(False)
    if on_top.sum() > 1 and below.sum() == 1:
        story = f"{_names(systems, below)} lost every comparison: its strength is minus infinity"
    elif on_top.sum() == 1:
        story = f"{_names(systems, on_top)} won every comparison: its strength is infinite"
    else:
        story = f"{_names(systems, on_top)} won every comparison with {_names(systems, ~on_top)}: infinitely stronger"
    raise UserError(f"{story}.", "Compare on more prompts, or leave it out and report win rates.")


def _names(systems: Sequence[str], which: NDArray[np.bool_]) -> str:
    return ", ".join(repr(name) for name, kept in zip(systems, which, strict=True) if kept)
