"""Labels that are probably wrong: margins of pairs, the share of wrong labels by them, and the most suspicious pairs.

Policies that never saw the pairs (`--folds`) give the estimate. A run's margins on rows that it may have learnt do not:
they say which pairs it could not learn, and are named so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenq.curation.audit.collector import Compared
from tokenq.curation.audit.config import AuditConfig
from tokenq.curation.audit.finding import Fault
from tokenq.curation.noise import Floats, NoiseEstimate, estimate_noise
from tokenq.jobs.curation.folds import cross_fitted_margins, loading, named_by_place, read_margins, taken_over
from tokenq.jobs.load import load
from tokenq.jobs.run import Run
from tokenq.listener import Listener
from tokenq.records.traces import TokenTrace
from tokenq.rundir import RunDir
from tokenq.training.recorded import read_config


@dataclass(frozen=True)
class PairMargins:
    """What policies say of the pairs.

    Attributes:
        values: [N] implicit reward of chosen above rejected; NaN for a pair that is too long to be read.
        ref_values: [N] likewise log π_ref, nats.
        unseen: whether each pair was read by a policy that had not seen it.
        noise: the share of wrong labels; None where the pairs may have been learnt.
        runs: [N] the run that read each pair.
    """

    values: Floats
    ref_values: Floats
    unseen: bool
    noise: NoiseEstimate | None
    runs: Sequence[Run]

    def order(self) -> list[int]:
        """Return the places of the pairs that were read, the most suspicious first: the least margin."""
        places = np.argsort(self.values, kind="stable")
        return [int(place) for place in places if np.isfinite(self.values[place])]


def margins_of(config: AuditConfig, pairs: Sequence[Compared], listener: Listener) -> PairMargins:
    """Return the margins that are asked for: of policies that are trained for it, or of a run.

    Raises:
        UserError: there is no run, a model cannot be loaded, or there are too few pairs for the folds.
    """
    examples = [pair.example for pair in pairs]
    if config.folds:
        folder = Path(config.place() or "")
        found = cross_fitted_margins(
            examples, folder, _training(config), folds=config.folds, seed=config.seed, listener=listener
        )
        runs = [found.runs[fold] for fold in found.folds]
        return PairMargins(found.margins, found.ref_margins, True, estimate_noise(found.margins), runs)
    run = Run(Path(config.run or ""))
    reader = load(run, listener=listener, **_reading(config))
    values, refs = read_margins(reader, examples, listener).T
    return PairMargins(values, refs, False, None, [run] * len(pairs))


def _training(config: AuditConfig) -> dict[str, Any]:
    """Return the settings of the trainings of folds: those of a run, or of tokenq train, with what was asked for."""
    recorded = {} if config.run is None else read_config(RunDir(Path(config.run)))
    taken = taken_over(recorded)
    own = {name: getattr(config, name) for name in ("model", "beta", "learning_rate", "epochs", "batch_size")}
    own |= {"device": config.device} | ({} if config.dtype == "auto" else {"dtype": config.dtype})
    own |= {"tokens_per_batch": config.tokens_per_batch} | ({} if taken else {"seed": config.seed})
    return taken | {name: value for name, value in own.items() if value is not None}


def _reading(config: AuditConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("dtype", "device", "tokens_per_batch")}


def suspects(config: AuditConfig, pairs: Sequence[Compared], margins: PairMargins) -> list[tuple[int, Fault]]:
    """Return the pairs whose labels are probably wrong, with their places, the most suspicious first.

    By policies that had not seen them, those whose label is wrong with a probability of one half or more, where it is
    certain that there are wrong ones at all. By a run that may have, the pairs of `--top` whose margin is below 0.
    """
    noise = margins.noise
    if noise is None:
        taken = [place for place in margins.order() if margins.values[place] < 0][: config.top]
        said = "the run puts the rejected response {:.3g} above the chosen one; it may have learnt this row"
        numbers = [{"margin": float(margins.values[place])} for place in taken]
    else:
        wrong = noise.wrong(margins.values)
        taken = [place for place in margins.order() if noise.rate.low > 0 and wrong[place] >= 0.5]
        said = "a policy that never saw the row puts the rejected response {:.3g} above the chosen one"
        numbers = [{"margin": float(margins.values[p]), "wrong": float(wrong[p])} for p in taken]
    return [
        (place, Fault("suspect", pairs[place].rows, said.format(-own["margin"]), pairs[place].rows, own))
        for place, own in zip(taken, numbers, strict=True)
    ]


def noise_fault(margins: PairMargins) -> list[Fault]:
    """Return the finding that labels are wrong, where the interval of their share does not reach 0."""
    noise = margins.noise
    if noise is None or not noise.rate.low > 0:
        return []
    rate, negative = noise.rate, noise.negative
    said = (
        f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] of the labels are wrong, "
        f"by policies that disagree with {negative.value:.0%} of those that they never saw"
    )
    ends = {"rate": rate.value, "low": rate.low, "high": rate.high, "negative_margins": negative.value}
    return [Fault("label_noise", (), said, (), ends)]


def traces_of(
    config: AuditConfig, pairs: Sequence[Compared], margins: PairMargins, places: Sequence[int], listener: Listener
) -> Iterator[tuple[int, TokenTrace, TokenTrace]]:
    """Yield (place, traces of chosen and rejected) of some pairs, read by who gave their margins."""
    for folder in dict.fromkeys(margins.runs[place].folder for place in places):
        own = [place for place in places if margins.runs[place].folder == folder]
        run = Run(folder)
        recorded = loading(read_config(RunDir(folder))) if config.folds else {}
        reader = load(run, listener=listener, **(recorded | _reading(config)))
        rows, _ = reader.rows(named_by_place([pairs[place].example for place in own]), "drop")
        for row, (chosen, rejected, *_) in zip(rows, reader.traces(rows), strict=True):
            yield own[int(row.group.where)], chosen, rejected


def numbers_of(margins: PairMargins) -> Mapping[str, Any]:
    """Return what the margins come to, for JSON: what they are, and the estimate where there is one."""
    known = margins.values[np.isfinite(margins.values)]
    found: dict[str, Any] = {
        "of": "policies that never saw the pairs" if margins.unseen else "a run that may have learnt the pairs",
        "unseen": margins.unseen,
        "pairs": len(known),
        "negative": float((known < 0).mean()) if len(known) else None,
    }
    noise = margins.noise
    if noise is not None:
        rate, negative = noise.rate, noise.negative
        found |= {"negative_low": negative.low, "negative_high": negative.high}
        found |= {"wrong_labels_low": rate.low, "wrong_labels_high": rate.high}
        told = {"wrong_labels": rate.value, "accuracy": noise.accuracy, "slope": noise.slope}
        found |= told if noise.is_told else dict.fromkeys(told)
    return found
