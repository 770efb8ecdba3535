"""How the compared runs came to where they are: margin, drifts and KL over the steps, one chart each for all runs.

Numbers are log-ratios in nats per response, without β. They are of the held-out pairs where every run evaluated often
enough for a curve, else of the training batches, averaged over neighbouring steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.comparison.compared_runs import Setup
from tokenq.runs.held_out import Floats
from tokenq.runs.record import RunRecord
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Chart, Curve

MOST_POINTS = 60
"""Points of a curve; a longer run is averaged to so many."""

ENOUGH = 3
"""Evaluations that make a curve."""

Points = dict[int, dict[str, float]]
"""Step → numbers at that step, by the names of `CURVES`."""

CURVES: Mapping[str, tuple[str, str]] = {
    "margin": ("margin of log-ratios", "margin of log-ratios"),
    "kl": ("KL estimate", "KL estimate"),
    "chosen": ("drift of log π, chosen", "log π/π_ref, chosen"),
    "rejected": ("drift of log π, rejected", "log π/π_ref, rejected"),
}
"""The curves, with their titles for held-out pairs (since the start) and for training batches (against π_ref)."""


def curves_of(setups: Sequence[Setup]) -> list[Chart]:
    """Return a chart for each of `CURVES`; of several seeds the mean is drawn, with the range of the runs."""
    records = [run.record for setup in setups for run in setup.runs]
    often = all(len(record.evals) >= ENOUGH for record in records)
    # Without rewards only an evaluation before the first update says how far log-probs have gone.
    measured = often or not all(_beta(record) for record in records)
    points: Callable[[RunRecord], Points] = _held_out if measured else _training
    where = "held-out pairs" if measured else "training batches"
    charts = []
    for name, titles in CURVES.items():
        title = titles[0 if measured else 1]
        drawn = [_curve(setup.name, [points(run.record) for run in setup.runs], name) for setup in setups]
        shown = [curve for curve in drawn if len(curve.x)]
        if shown:
            charts.append(Chart(f"{title}, {where}", "optimiser steps", "nats per response", shown))
    return charts


def _beta(record: RunRecord) -> float | None:
    return record.provenance.get("beta")


def _held_out(record: RunRecord) -> Points:
    """Return log-probs minus those before the first update, at every evaluation."""
    rows = [{key.removeprefix("eval_"): value for key, value in row.items()} for row in record.evals]
    if not rows or rows[0]["step"] != 0:
        return {}
    found: Points = {}
    for row in rows:
        sides = [_minus(row, rows[0], f"logps/{side}") for side in ("chosen", "rejected")]
        found[int(row["step"])] = _numbers(sides, row.get("kl"))
    return found


def _training(record: RunRecord) -> Points:
    """Return log-ratios of the batches of every step, measured before its update."""
    beta, found = _beta(record), {}
    for row in record.steps:
        sides = [_ratio(row.get(f"rewards/{side}"), beta) for side in ("chosen", "rejected")]
        found[int(row["step"]) - 1] = _numbers(sides, row.get("kl"))
    return found


def _numbers(sides: Sequence[float], kl: float | None) -> dict[str, float]:
    chosen, rejected = sides
    mean = -(chosen + rejected) / 2
    return {"margin": chosen - rejected, "chosen": chosen, "rejected": rejected, "kl": mean if kl is None else kl}


def _minus(row: Mapping[str, Any], first: Mapping[str, Any], name: str) -> float:
    now, then = row.get(name), first.get(name)
    return np.nan if now is None or then is None else float(now) - float(then)


def _ratio(reward: float | None, beta: float | None) -> float:
    return np.nan if reward is None or not beta else reward / beta


def _curve(name: str, runs: Sequence[Points], number: str) -> Curve:
    """Return the curve of one number: its mean over runs at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(points) for points in runs)))
    table: Floats = np.array([[points[step][number] for step in steps] for points in runs]).reshape(len(runs), -1)
    kept = np.isfinite(table).all(0)
    if not kept.any():
        return Curve(name, [], [])
    places, table = np.array(steps, np.float64)[kept], table[:, kept]
    parts = np.array_split(np.arange(len(places)), min(MOST_POINTS, len(places)))
    x = [float(places[part].mean()) for part in parts]
    y = np.stack([table[:, part].mean(1) for part in parts], axis=1)
    if len(runs) == 1:
        return Curve(name, x, y[0].tolist())
    return Curve(name, x, [Estimate(float(c.mean()), float(c.min()), float(c.max()), len(runs)) for c in y.T])
