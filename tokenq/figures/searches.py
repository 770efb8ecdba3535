"""What does search buy? Sweeps of one or several policies as one figure, with the claim that it stands for.

Beside greedy decoding, because a gain over samples alone is determinism; and beside samples of the same cost, because
tokens are what search spends.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tokenq.evaluation.sweep import Point
from tokenq.figures.section import Link, Section, Verdict
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Chart, Curve, Table

CLAIM = (
    "Likelihood search over a DPO policy is search for reward: five beams win 10 to 15 % more often than one, and with "
    "more beams responses grow long and win less (arXiv 2404.12358, §5.2 and figure 2; the beams were perhaps sampled, "
    "T = 1 and top-k 50)."
)

FEW = 5
"""Beams up to which the claim has search gain."""


@dataclass(frozen=True)
class Sweep:
    """What was searched with one policy.

    Attributes:
        name: of the policy, or of who labelled its preferences.
        points: the searches; "greedy" is among them.
        quality: what is measured.
        judged: whether that is a judgement; without one the claim is not tested.
    """

    name: str
    points: Sequence[Point]
    quality: str
    judged: bool = True


@dataclass(frozen=True)
class _Family:
    """Searches that differ in their size alone."""

    name: str
    method: str
    option: str
    holds: Callable[[Mapping[str, str]], bool]

    def of(self, points: Sequence[Point]) -> list[tuple[float, Point]]:
        """Return (size, point) of its searches, smallest first."""
        found = []
        for point in points:
            method, *words = point.setting.split()
            options = dict(word.split("=", 1) for word in words)
            if method == self.method and self.option in options and self.holds(options):
                found.append((float(options[self.option]), point))
        return sorted(found, key=lambda both: both[0])


_BEAMS = _Family("beams", "beam", "width", lambda options: len(options) == 1)
_UNNORMALISED = _Family(
    "beams, no length penalty", "beam", "width", lambda options: options.get("length_penalty") == "0"
)
_SAMPLED = _Family("sampled beams", "beam_sample", "width", lambda _: True)
_BY_WIDTH = (_BEAMS, _UNNORMALISED, _SAMPLED)
_BY_COST = (
    _BEAMS,
    _Family("best of n by implicit reward", "best_of_n", "n", lambda options: "ranking" not in options),
    _Family("best of n by mean likelihood", "best_of_n", "n", lambda options: "ranking" in options),
    _Family("tree search", "mcts", "simulations", lambda _: True),
)


def searches(sweeps: Sequence[Sweep], *, exact: Table | None = None, links: Sequence[Link] = ()) -> Section:
    """Return the figure of search: the first sweep is that of the claim.

    Args:
        sweeps: what was searched, one for each policy.
        exact: the same quantities in worlds that can be solved exactly.
        links: pages with more.
    """
    first = sweeps[0]
    return Section(
        name="search",
        title="What does search buy?",
        claim=CLAIM,
        verdict=_verdict(first.points) if first.judged else "not tested",
        reading="\n".join(_reading(sweep) for sweep in sweeps),
        tables=[_table(sweep) for sweep in sweeps],
        charts=[chart for sweep in sweeps for chart in _charts(sweep)],
        exact=exact,
        links=links,
    )


def _best(points: Sequence[Point]) -> tuple[float, Point] | None:
    """Return the width up to `FEW` whose beams gain most over greedy decoding, and the point."""
    few = [(width, point) for width, point in _BEAMS.of(points) if 1 < width <= FEW and point.gain is not None]
    return max(few, key=lambda both: both[1].quality.value, default=None)


def _verdict(points: Sequence[Point]) -> Verdict:
    best = _best(points)
    if best is None or best[1].gain is None:
        return "not tested"
    if best[1].gain.low <= 0:
        return "not reproduced"
    wide = [point for width, point in _BEAMS.of(points) if width > FEW]
    verbose = any(p.length.low > best[1].length.high and p.quality.value < best[1].quality.value for p in wide)
    return "reproduced" if verbose else "in part"


def _reading(sweep: Sweep) -> str:
    best, widest = _best(sweep.points), _BEAMS.of(sweep.points)[-1:]
    greedy = next((point for point in sweep.points if point.setting == "greedy"), None)
    if best is None or greedy is None:
        return f"{sweep.name}: no beams were searched beside greedy decoding."
    width, point = best
    said = [
        f"{sweep.name}: {width:g} beams gain {_gain(point.gain)} over greedy decoding, {_shares(point)}",
        f"length {greedy.length.value:.1f} → {point.length.value:.1f}",
    ]
    for size, wide in (both for both in widest if both[0] > width):
        said.append(f"{size:g} beams gain {_gain(wide.gain)} at length {wide.length.value:.1f}")
    for rival in (one for one in greedy.rivals if one.name == "sample"):
        said.append(
            f"greedy decoding alone gains {_gain(rival.gain)} over one sample, which is determinism, not search"
        )
    return "; ".join(said)[:1].upper() + "; ".join(said)[1:] + "."


def _gain(estimate: Estimate | None) -> str:
    """Return a gain with its interval: as many decimals as it takes to tell both ends from 0 and from each other."""
    if estimate is None:
        return "nothing known"
    ends = [abs(end) for end in (estimate.value, estimate.low, estimate.high) if end and math.isfinite(end)]
    places = min(8, max(2, 1 - math.floor(math.log10(max(ends))))) if ends else 2
    texts = [f"{end:+.{places}f}" for end in (estimate.value, estimate.low, estimate.high)]
    value, low, high = (text.replace("-", "−") if float(text) else text[1:] for text in texts)
    return f"{value} [{low}, {high}]"


def _shares(point: Point) -> str:
    beats = point.beats_greedy
    return (
        "" if beats is None else f"better on {100 * beats.wins.value:.0f} % and equal on {100 * beats.ties.value:.0f} %"
    )


def _charts(sweep: Sweep) -> list[Chart]:
    greedy = [point for point in sweep.points if point.setting == "greedy"]

    def by_width(value: Callable[[Point], Estimate]) -> list[Curve]:
        return [
            Curve(family.name, [size for size, _ in found], [value(point) for _, point in found])
            for family in _BY_WIDTH
            if (found := family.of(sweep.points))
        ]

    by_cost = [
        Curve(family.name, [p.policy_tokens for _, p in found], [p.quality for _, p in found])
        for family in _BY_COST
        if (found := family.of(sweep.points))
    ]
    by_cost += [Curve("greedy", [point.policy_tokens for point in greedy], [point.quality for point in greedy])]
    return [
        Chart(f"{sweep.name}: {sweep.quality} by width", "beams", sweep.quality, by_width(lambda p: p.quality), True),
        Chart(f"{sweep.name}: length by width", "beams", "tokens", by_width(lambda p: p.length), True),
        Chart(f"{sweep.name}: {sweep.quality} by cost", "tokens through the policy", sweep.quality, by_cost, True),
    ]


def _table(sweep: Sweep) -> Table:
    names = list(dict.fromkeys(rival.name for point in sweep.points for rival in point.rivals))
    head = ["search", sweep.quality, "− greedy", "better than greedy", "equal"]
    head += [f"− {name.replace('_', ' ')} at its cost" for name in names]
    head += ["length", "tokens through the policy"]
    rows: list[list[Cell]] = []
    for point in sweep.points:
        rivals = {rival.name: rival.gain for rival in point.rivals}
        beats = point.beats_greedy
        cells: list[Cell] = [point.setting, point.quality, point.gain]
        cells += [None, None] if beats is None else [beats.wins, beats.ties]
        rows.append([*cells, *(rivals.get(name) for name in names), point.length, round(point.policy_tokens)])
    note = "Means over prompts, 95 % intervals, differences paired; “at its cost”: what samples reach for the tokens."
    return Table(sweep.name, head, rows, note)
