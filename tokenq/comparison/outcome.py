"""A comparison of runs as tables, charts and pairs to look at."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenq.comparison.compared_runs import Setup
from tokenq.comparison.comparison import MEASURES, Compared, RunComparison, numbers_of
from tokenq.comparison.curves import curves_of
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Chart, Curve, ListedExample, Outcome, Table, numbers_first
from tokenq.training.recorded import FREE_ON_RESUME

_FIRST = ("accuracy", "margin", "kl", "longer_preferred")
_ACCURACIES = ("accuracy", "likelihood_accuracy", "mean_likelihood_accuracy")
_DIFFERENCES = ("accuracy", "margin", "kl", "chosen", "rejected")
_SHOWN_APART = {"loss", "beta", "loss_options", "seed"}


def outcome_of(found: RunComparison) -> Outcome:
    """Return a comparison as tables and charts."""
    setups = [one.setup for one in found.compared]
    several = any(len(setup.runs) > 1 for setup in setups)
    tables = [
        _settings(setups),
        _held_out(found),
        *([_differences(found)] if len(setups) > 1 else []),
        _drifts(found),
        _accuracies(found),
        *([_seeds(found)] if several else []),
        _cost(found),
    ]
    examples = [
        ListedExample(
            f"{row} #{number}",
            row,
            {f"margin, {setup.name}": float(margin) for setup, margin in zip(setups, margins, strict=True)},
        )
        for number, (row, margins) in enumerate(zip(found.rows, found.margins, strict=True))
    ]
    examples.sort(key=lambda one: numbers_first(_mean_known(one.numbers.values())))
    charts = [*curves_of(setups), _accuracy_chart(found.compared)]
    return Outcome("compare", numbers_of(found), tables, charts, examples)


def _mean_known(margins: Iterable[float | str | None]) -> float:
    """Return the mean of the margins of those runs that have one, NaN where none has."""
    known = [float(margin) for margin in margins if margin is not None and not math.isnan(float(margin))]
    return sum(known) / len(known) if known else math.nan


def differing_settings(setups: Sequence[Setup]) -> dict[str, dict[str, Any]]:
    """Return the settings in which the setups differ, besides loss and seed, by setup."""
    names = dict.fromkeys(name for setup in setups for name in setup.config)
    looked_at = [name for name in names if name not in FREE_ON_RESUME | _SHOWN_APART]
    texts = {name: {json.dumps(setup.config.get(name), default=str) for setup in setups} for name in looked_at}
    differing = [name for name in looked_at if len(texts[name]) > 1]
    return {setup.name: {name: setup.config.get(name) for name in differing} for setup in setups}


def _settings(setups: Sequence[Setup]) -> Table:
    rows: list[list[Cell]] = []
    for setup, other in zip(setups, differing_settings(setups).values(), strict=True):
        said = " ".join(f"{name}={'none' if value is None else value}" for name, value in other.items())
        beta = "none" if setup.beta is None else f"{setup.beta:g}"
        seeds = ", ".join(str(run.seed) for run in setup.runs)
        folders = ", ".join(run.record.path for run in setup.runs)
        rows.append([setup.name, setup.loss, beta, seeds, said, folders])
    return Table("runs", ("run", "loss", "β", "seed", "further settings that differ", "folder"), rows)


def _held_out(found: RunComparison) -> Table:
    prompts, pairs = len({key.prompt for key in found.keys}), len(found.keys)
    held = {one.setup.name: max(len(run.pairs.keys) for run in one.setup.runs) for one in found.compared}
    more = "".join(f"; {name} holds out {size}" for name, size in held.items() if size > pairs)
    note = (
        f"{pairs} pairs of {prompts} prompts that all runs hold out{more}. Margin and KL are log-ratios against "
        f"{found.against}, in nats per response and without β: on one scale for all losses. The KL estimate is "
        f"KL(π_ref‖π) as far as the responses are samples of the reference. The chosen response is the longer one in a "
        f"share of {found.chosen_longer:.3f}."
    )
    return _table("held-out pairs", found.compared, _FIRST, lambda one: one.held_out, note)


def _differences(found: RunComparison) -> Table:
    others = [one for one in found.compared if one.difference is not None]
    note = "On the same pairs, prompts resampled. With this many comparisons, some intervals exclude 0 by chance."
    title = f"difference from {found.baseline.name}"
    return _table(title, others, _DIFFERENCES, lambda one: one.difference or {}, note)


def _drifts(found: RunComparison) -> Table:
    head = ("run", "log π chosen", "log π rejected", "reward chosen", "reward rejected", "reward margin")
    rows = [
        (
            one.setup.name,
            one.held_out["chosen"],
            one.held_out["rejected"],
            *(one.rewards.get(name) for name in ("chosen", "rejected", "margin")),
        )
        for one in found.compared
    ]
    betas = {one.setup.beta for one in found.compared} - {None}
    scales = "β differs between these runs, so their rewards are on different scales. " if len(betas) > 1 else ""
    none = any(one.setup.beta is None for one in found.compared)
    note = (
        "Since the first update, in nats per response. Rewards are β log π/π_ref, each with its run's own β. "
        f"{scales}{'A loss without a reference has no implicit reward.' if none else ''}"
    )
    return Table("drift of chosen and rejected responses", head, rows, note.strip())


def _accuracies(found: RunComparison) -> Table:
    title = "how often the chosen response scores higher"
    table = _table(title, found.compared, _ACCURACIES, lambda one: one.held_out, "Ties count as wrong.")
    return Table(title, ("run", "by log π/π_ref", *table.head[2:]), table.rows, table.note)


def _seeds(found: RunComparison) -> Table:
    several = [one for one in found.compared if one.seeds is not None]
    rows: list[Sequence[Cell]] = [
        (one.setup.name, len(one.setup.runs), *(_spread(one, name) for name in _DIFFERENCES)) for one in several
    ]
    head = ("run", "runs", *(MEASURES[name].label for name in _DIFFERENCES))
    note = "Mean ± standard deviation of the runs: what a seed moves. Intervals above are over pairs, for these seeds."
    return Table("over seeds", head, rows, note)


def _spread(one: Compared, name: str) -> str:
    spread = (one.seeds or {})[name]
    return f"{spread.mean:.3f}\u00a0±\u00a0{spread.sd:.3f}".replace("-", "−")  # on one line of a narrow page


def _cost(found: RunComparison) -> Table:
    names = ("steps", "seconds", "seconds_a_step", "tokens", "tokens_per_second", "peak_memory_gb")
    head = ("run", "steps", "seconds", "seconds per step", "tokens", "tokens per second", "peak memory, GB")
    rows = [(one.setup.name, *(_cost_cell(one.cost[name]) for name in names)) for one in found.compared]
    records = [run.record.provenance for one in found.compared for run in one.setup.runs]
    machines = {tuple(str(record.get(name)) for name in ("device", "platform", "processors")) for record in records}
    apart = " These runs were on different machines: do not compare their times." if len(machines) > 1 else ""
    note = f"Of training steps: without loading, reference pass and evaluations. Tokens went through the policy.{apart}"
    return Table("cost", head, rows, note)


def _cost_cell(value: "float | Estimate | None") -> Cell:
    """Return whole numbers without decimals."""
    return int(value) if isinstance(value, float) and (value == int(value) or value >= 1000) else value


def _table(title: str, compared: Sequence[Compared], names: Sequence[str], of: Any, note: str) -> Table:
    """Return a table of some measures, a row a setup."""
    rows: list[Sequence[Cell]] = []
    for one in compared:
        numbers: Mapping[str, Estimate] = of(one)
        rows.append((one.setup.name, *(numbers[name] for name in names)))
    return Table(title, ("run", *(MEASURES[name].label for name in names)), rows, note)


def _accuracy_chart(compared: Sequence[Compared]) -> Chart:
    accuracies = [one.held_out["accuracy"] for one in compared]
    curve = Curve("with 95 % interval", [float(place) for place in range(len(accuracies))], accuracies)
    return Chart("accuracy, held-out pairs", "run", "accuracy", [curve], labels=[one.setup.name for one in compared])
