"""A sweep as a table and as a figure: quality against tokens, with what plain samples reach beside it."""

from collections.abc import Sequence
from pathlib import Path

from tokenq.errors import UserError
from tokenq.evaluate.bootstrap import Estimate
from tokenq.evaluate.sweep import Point
from tokenq.files import written_aside

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#f0e442")
"""Told apart by everyone (Okabe and Ito)."""


def sweep_table(points: Sequence[Point]) -> str:
    """Return the points as a Markdown table; gains are paired on the same prompts, intervals are 95 %."""
    names = list(dict.fromkeys(rival.name for point in points for rival in point.rivals))
    head = ["search", "quality", "− greedy", *(f"− {name} at its cost" for name in names)]
    head += ["policy tokens", "reference tokens", "seconds", "length", "terminal"]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| --: " * (len(head) - 1) + "|"]
    for point in points:
        gains = {rival.name: rival.gain for rival in point.rivals}
        cells = [point.setting, _interval(point.quality), _interval(point.gain, "+")]
        cells += [_interval(gains.get(name), "+") for name in names]
        cells += [f"{point.policy_tokens:.0f}", f"{point.reference_tokens:.0f}", f"{point.seconds:.2f}"]
        cells += [f"{point.length:.1f}", f"{100 * point.terminal:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save_sweep_figure(path: Path, points: Sequence[Point], quality: str) -> None:
    """Draw the points to `path`: a line a search of several sizes over policy tokens (log scale), intervals as bars.

    Args:
        path: `.svg`, `.png` or `.pdf`.
        points: the points.
        quality: what is measured, for the axis.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise UserError(
            "Figures are drawn by matplotlib, which is missing.", "pip install 'tokenq[plots]'"
        ) from problem
    drawn = Figure(figsize=(9.0, 4.4), layout="constrained")
    axes = drawn.subplots()
    for number, name in enumerate(dict.fromkeys(map(_family, points))):
        own = sorted((one for one in points if _family(one) == name), key=lambda one: one.policy_tokens)
        values = [point.quality for point in own]
        axes.errorbar(
            [point.policy_tokens for point in own],
            [one.value for one in values],
            yerr=[[one.value - one.low for one in values], [one.high - one.value for one in values]],
            label=name,
            color=COLOURS[number % len(COLOURS)],
            marker="osD^v<>Px*"[number % 10],
            linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
            capsize=2,
            linewidth=1.2,
            markersize=5,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("tokens through the policy, a prompt")
    axes.set_ylabel(quality)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with written_aside(path) as aside:
        drawn.savefig(
            aside, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
        )


def _family(point: Point) -> str:
    """Return a setting without its size: searches that differ in that alone are one line."""
    sizes = ("n=", "width=", "simulations=")
    return " ".join(word for word in point.setting.split() if not word.startswith(sizes))


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
