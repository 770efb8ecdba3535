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
    """Draw the points to `path`: a line a method over policy tokens (log scale), intervals as bars.

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
    drawn = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawn.subplots()
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        own = sorted((point for point in points if point.method == method), key=lambda point: point.policy_tokens)
        values = [point.quality for point in own]
        axes.errorbar(
            [point.policy_tokens for point in own],
            [one.value for one in values],
            yerr=[[one.value - one.low for one in values], [one.high - one.value for one in values]],
            label=method,
            color=COLOURS[number % len(COLOURS)],
            marker="osD^v<>Px"[number % 9],
            capsize=2,
            linewidth=1.2,
            markersize=5,
        )
    axes.set_xscale("log")
    axes.set_xlabel("tokens through the policy, a prompt")
    axes.set_ylabel(quality)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    with written_aside(path) as aside:
        drawn.savefig(
            aside, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
        )


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
