"""A sweep as a table and as a figure: quality against tokens, with what plain samples reach beside it."""

from collections.abc import Sequence
from pathlib import Path

from tokenq.evaluation.sweep import Beats, Point
from tokenq.report.drawing import save
from tokenq.report.outcome import figure
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Chart, Curve, Table

SHARES = "better / equal, %"
"""Head of the columns that say on which share of prompts a search is better, and on which as good."""


def sweep_table(points: Sequence[Point]) -> str:
    """Return the points as a Markdown table; gains are paired on the same prompts, intervals are 95 %.

    Behind each gain stands on how many of a hundred prompts the search is better, and on how many it is as good.
    """
    names = list(dict.fromkeys(rival.name for point in points for rival in point.rivals))
    head = ["search", "quality", "− greedy", SHARES]
    head += [title for name in names for title in (f"− {name} at its cost", SHARES)]
    head += ["policy tokens", "reference tokens", "seconds", "length", "terminal"]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| --: " * (len(head) - 1) + "|"]
    for point in points:
        rivals = {rival.name: rival for rival in point.rivals}
        cells = [point.setting, _interval(point.quality), _interval(point.gain, "+"), _shares(point.beats_greedy)]
        for rival in (rivals.get(name) for name in names):
            cells += ["", ""] if rival is None else [_interval(rival.gain, "+"), _shares(rival.beats)]
        cells += [f"{point.policy_tokens:.0f}", f"{point.reference_tokens:.0f}", f"{point.seconds:.2f}"]
        cells += [_interval(point.length, digits=1), f"{100 * point.terminal:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sweep_tables(points: Sequence[Point]) -> list[Table]:
    """Return the points as tables for the terminal: quality and gains, how often searches are better, their cost."""
    names = list(dict.fromkeys(rival.name for point in points for rival in point.rivals))
    against = ["greedy", *(f"{name.replace('_', ' ')} at its cost" for name in names)]
    gains: list[list[Cell]] = []
    wins: list[list[Cell]] = []
    costs: list[list[Cell]] = []
    for point in points:
        rivals = {rival.name: rival for rival in point.rivals}
        gained: list[Cell] = [point.gain, *(rivals[name].gain if name in rivals else None for name in names)]
        beats = [point.beats_greedy, *(rivals[name].beats if name in rivals else None for name in names)]
        gains.append([point.setting, point.quality, *gained])
        wins.append([point.setting, *map(_percent, beats)])
        tokens: list[Cell] = [round(point.policy_tokens), round(point.reference_tokens), f"{point.seconds:.2f}"]
        costs.append([point.setting, *tokens, f"{point.length.value:.1f}", f"{100 * point.terminal:.0f} %"])
    note = "Means over prompts, 95 % intervals; differences are paired."
    shares = "Share of prompts on which the search is better / as good, in per cent."
    cost = ["policy tokens", "reference tokens", "seconds", "length", "terminal"]
    return [
        Table("quality", ["search", "quality", *(f"− {one}" for one in against)], gains, note),
        Table("better / equal", ["search", *(f"than {one}" for one in against)], wins, shares),
        Table("cost, a prompt", ["search", *cost], costs),
    ]


def _percent(beats: Beats | None) -> str:
    return "" if beats is None else f"{100 * beats.wins.value:.0f} / {100 * beats.ties.value:.0f}"


def save_sweep_figure(path: Path, points: Sequence[Point], quality: str) -> None:
    """Draw the points to `path`: a line a search of several sizes over policy tokens (log scale), intervals as bars.

    Args:
        path: `.svg`, `.png` or `.pdf`.
        points: the points.
        quality: what is measured, for the axis.

    Raises:
        UserError: matplotlib is not installed, or the place cannot be written.
    """
    curves = []
    for name in dict.fromkeys(map(_family, points)):
        own = sorted((one for one in points if _family(one) == name), key=lambda one: one.policy_tokens)
        curves.append(Curve(name, [point.policy_tokens for point in own], [point.quality for point in own]))
    save(path, figure(Chart("", "tokens through the policy, a prompt", quality, curves, log_x=True)))


def _family(point: Point) -> str:
    """Return a setting without its size: searches that differ in that alone are one line."""
    sizes = ("n=", "width=", "simulations=")
    return " ".join(word for word in point.setting.split() if not word.startswith(sizes))


def _interval(estimate: Estimate | None, sign: str = "", digits: int = 3) -> str:
    if estimate is None:
        return ""
    form = f"{sign}.{digits}f"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _shares(beats: Beats | None) -> str:
    if beats is None:
        return ""
    return " / ".join(
        f"{100 * one.value:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]" for one in (beats.wins, beats.ties)
    )
