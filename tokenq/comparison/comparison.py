"""Training runs side by side: what each says of the held-out pairs that all of them share, and what it cost.

All numbers are of the same pairs, so differences are paired; intervals resample prompts. Log-ratios log π/π_ref have no
β in them and are on one scale, whatever the losses; implicit rewards β log π/π_ref are on each run's own. A run whose
loss has no reference is read against the reference of the others, else against the model that all began from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tokenq.comparison.compared_runs import ComparedRun, Setup, pooled
from tokenq.errors import UserError
from tokenq.runs.held_out import Floats, PairKey
from tokenq.stats.bootstrap import PLAIN, Estimate, Resampling, difference_interval, mean_interval, ratio

BLOCKS = 100
"""Stretches of neighbouring steps that are resampled together: the time of a step depends on that of the one before."""


class Pairs(NamedTuple):
    """The numbers of one run for N pairs; columns are (chosen, rejected), NaN for pairs that it does not hold out.

    Attributes:
        ratios: [N, 2] log π/π_ref of the responses, in nats.
        drifts: [N, 2] log π − log π before the first update.
        logps: [N, 2] log π.
        tokens: [N, 2].
    """

    ratios: Floats
    drifts: Floats
    logps: Floats
    tokens: Floats


class Measure(NamedTuple):
    """A number of a pair; its mean over pairs is what is shown.

    Attributes:
        label: what tables call it.
        function: [N] of N pairs.
    """

    label: str
    function: Callable[[Pairs], Floats]


def _first_higher(table: Floats) -> Floats:
    """Return 1 where the chosen response has more, else 0: a tie is wrong; NaN for unknown pairs."""
    return np.where(np.isnan(table).any(1), np.nan, table[:, 0] > table[:, 1])


def _longer_preferred(pairs: Pairs) -> Floats:
    """Return 1 where the longer response has the higher reward, 0 where the shorter, ½ for a tie; NaN at one length."""
    margins, longer = pairs.ratios[:, 0] - pairs.ratios[:, 1], pairs.tokens[:, 0] - pairs.tokens[:, 1]
    return np.where(longer == 0, np.nan, (np.sign(margins * np.sign(longer)) + 1) / 2)


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", lambda pairs: _first_higher(pairs.ratios)),
    "margin": Measure("margin", lambda pairs: pairs.ratios[:, 0] - pairs.ratios[:, 1]),
    "kl": Measure("KL estimate", lambda pairs: -pairs.ratios.mean(1)),
    "longer_preferred": Measure("longer preferred", _longer_preferred),
    "chosen": Measure("log π chosen", lambda pairs: pairs.drifts[:, 0]),
    "rejected": Measure("log π rejected", lambda pairs: pairs.drifts[:, 1]),
    "likelihood_accuracy": Measure("by log π", lambda pairs: _first_higher(pairs.logps)),
    "mean_likelihood_accuracy": Measure("by log π a token", lambda pairs: _first_higher(pairs.logps / pairs.tokens)),
}
"""The measures of a pair, by name."""


@dataclass(frozen=True)
class Spread:
    """A mean over seeds.

    Attributes:
        mean: of the runs' means.
        sd: their standard deviation (n − 1).
        values: one a run.
    """

    mean: float
    sd: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Compared:
    """The numbers of a setup.

    Attributes:
        setup: its runs.
        held_out: every measure with its interval over prompts; of several runs, of their mean.
        rewards: the same in implicit rewards at the own β; empty without one.
        difference: every measure minus that of the baseline on the same pairs, None for the baseline itself.
        seeds: every measure over the runs, None for a single one.
        cost: what training took; of several runs their means.
    """

    setup: Setup
    held_out: Mapping[str, Estimate]
    rewards: Mapping[str, Estimate]
    difference: Mapping[str, Estimate] | None
    seeds: Mapping[str, Spread] | None
    cost: Mapping[str, float | Estimate | None]


@dataclass(frozen=True)
class RunComparison:
    """A comparison.

    Attributes:
        baseline: what differences are taken from.
        compared: every setup.
        keys: the pairs that all of them hold out.
        rows: where these came from.
        margins: [N, setups] log-ratio margins, for a look at single pairs.
        chosen_longer: share of the pairs whose chosen response is the longer one.
        against: what log-ratios are taken against: "the reference" or "the start".
    """

    baseline: Setup
    compared: tuple[Compared, ...]
    keys: tuple[PairKey, ...]
    rows: tuple[str, ...]
    margins: Floats
    chosen_longer: float
    against: str


def compare(setups: Sequence[Setup], baseline: Setup, how: Resampling = PLAIN) -> RunComparison:
    """Compare setups on the pairs that all of them hold out.

    Args:
        setups: what to compare, the baseline among them.
        baseline: what differences are taken from.
        how: resamples, confidence, seed.

    Raises:
        UserError: they share fewer than two pairs.
    """
    runs = [run for setup in setups for run in setup.runs]
    references, starts = pooled(runs, "references"), pooled(runs, "starts")
    bases = references or starts
    keys = _shared(setups, baseline, bases)
    base = np.array([bases[key] for key in keys])
    start = np.array([starts.get(key, np.full(2, np.nan)) for key in keys])
    measured = {s.name: np.stack([_measured(run, keys, base, start) for run in s.runs]) for s in setups}
    values = {name: _mean(table) for name, table in measured.items()}
    groups = _groups(keys)

    def compared(setup: Setup) -> Compared:
        own, other = values[setup.name], values[baseline.name]
        held_out = {name: mean_interval(one, groups, how) for name, one in zip(MEASURES, own.T, strict=True)}
        difference = None if setup is baseline else _differences(own, other, groups, how)
        spreads = _spreads(measured[setup.name])
        rewards = {} if setup.config.get("segments") else _rewards(held_out, setup.beta)  # no one β scales them
        return Compared(setup, held_out, rewards, difference, spreads, _cost(setup, how))

    origins = {key: row for run in reversed(runs) for key, row in zip(run.pairs.keys, run.pairs.rows, strict=True)}
    lengths = _mean(np.stack([run.pairs.at(keys).tokens for run in runs]))
    return RunComparison(
        baseline,
        tuple(map(compared, setups)),
        tuple(keys),
        tuple(origins[key] for key in keys),
        np.stack([values[setup.name][:, list(MEASURES).index("margin")] for setup in setups], axis=1),
        float((lengths[:, 0] > lengths[:, 1]).mean()),
        "the reference" if references else "the start",
    )


def _shared(setups: Sequence[Setup], baseline: Setup, known: Collection[PairKey]) -> list[PairKey]:
    """Return the pairs that every setup holds out in any of its runs, in the order of the baseline's."""
    held = [{key for run in setup.runs for key in run.pairs.keys} for setup in setups]
    order = dict.fromkeys(key for run in baseline.runs for key in run.pairs.keys)
    keys = [key for key in order if key in known and all(key in one for one in held)]
    if len(keys) < 2:
        sizes = ", ".join(f"{setup.name} {len(one)}" for setup, one in zip(setups, held, strict=True))
        raise UserError(
            f"The runs hold out {len(keys)} pairs in common (held_out.jsonl: {sizes}).",
            "Give every run the same --eval-data; --eval-size holds out other rows under another seed.",
        )
    return keys


def _measured(run: ComparedRun, keys: Sequence[PairKey], base: Floats, start: Floats) -> Floats:
    """Return [N, M] every measure of every pair."""
    own = run.pairs.at(keys)
    pairs = Pairs(own.logps - base, own.logps - start, own.logps, own.tokens)
    return np.stack([measure.function(pairs) for measure in MEASURES.values()], axis=1)


def _mean(stacked: Floats) -> Floats:
    """Return the mean over the first axis of what is known, NaN where nothing is."""
    return ratio(np.nansum(stacked, 0), (~np.isnan(stacked)).sum(0).astype(np.float64))


def _groups(keys: Sequence[PairKey]) -> list[str] | None:
    """Return the prompt of every pair, None where each has its own."""
    prompts = [key.prompt for key in keys]
    return None if len(set(prompts)) == len(prompts) else prompts


def _differences(values: Floats, others: Floats, groups: Sequence[str] | None, how: Resampling) -> dict[str, Estimate]:
    columns = zip(MEASURES, values.T, others.T, strict=True)
    return {name: difference_interval(own, other, groups, how) for name, own, other in columns}


def _rewards(held_out: Mapping[str, Estimate], beta: float | None) -> dict[str, Estimate]:
    """Return margin and drifts in implicit rewards, β times what they are in nats."""
    if beta is None:
        return {}
    scaled = {name: held_out[name] for name in ("margin", "chosen", "rejected")}
    return {n: replace(e, value=beta * e.value, low=beta * e.low, high=beta * e.high) for n, e in scaled.items()}


def _spreads(measured: Floats) -> dict[str, Spread] | None:
    """Return how the runs of a setup [S, N, M] differ in their means over pairs; None for a single run."""
    if len(measured) == 1:
        return None
    means = np.array([_mean(one) for one in measured])
    return {
        name: Spread(float(column.mean()), float(column.std(ddof=1)), tuple(column.tolist()))
        for name, column in zip(MEASURES, means.T, strict=True)
    }


def _cost(setup: Setup, how: Resampling) -> dict[str, float | Estimate | None]:
    """Return steps, seconds of training, tokens through the policy, and the most memory; means over runs."""
    totals = [_run_cost(run) for run in setup.runs]
    seconds = [_column(run, "seconds") for run in setup.runs]
    blocks = [f"{n} {i * BLOCKS // len(one)}" for n, one in enumerate(seconds) for i in range(len(one))]
    means = {name: float(np.mean([row[name] for row in totals])) for name in totals[0]}
    found = {name: value if np.isfinite(value) else None for name, value in means.items()}
    a_step = mean_interval(np.concatenate(seconds), blocks, how) if blocks else None
    return found | {"seconds_a_step": a_step}


def _run_cost(run: ComparedRun) -> dict[str, float]:
    seconds, tokens, memory = (_column(run, name) for name in ("seconds", "tokens", "peak_memory_gb"))
    total = float(seconds.sum()) if seconds.size else np.nan
    passed = float(tokens.max()) if tokens.size else np.nan
    return {
        "steps": float(run.record.steps[-1]["step"]),
        "seconds": total,
        "tokens": passed,
        "tokens_per_second": passed / total if total else np.nan,
        "peak_memory_gb": float(memory.max()) if memory.size else np.nan,
    }


def _column(run: ComparedRun, name: str) -> Floats:
    return np.asarray(run.record.training(name).values)


def numbers_of(found: RunComparison) -> dict[str, Any]:
    """Return all numbers as an artefact holds them."""
    return {
        "baseline": found.baseline.name,
        "against": found.against,
        "pairs": len(found.keys),
        "prompts": len({key.prompt for key in found.keys}),
        "chosen_longer": found.chosen_longer,
        "runs": {
            one.setup.name: {
                "folders": [run.record.path for run in one.setup.runs],
                "seeds": [run.seed for run in one.setup.runs],
                "loss": one.setup.loss,
                "beta": one.setup.beta,
                "held_out": one.held_out,
                "rewards": one.rewards,
                "difference": one.difference,
                "spread": one.seeds,
                "cost": one.cost,
            }
            for one in found.compared
        },
    }
