"""Runs that can be compared: finished, evaluated, begun from one model with one reference on the same data.

Runs of one configuration under several seeds are one setup. What two runs must share is looked up in their provenance;
where hashes differ for reasons of form (an adapter's random weights, another type of number), what the models say of
the held-out pairs decides.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tokenq.errors import UserError, nearest
from tokenq.rundir import RunDir
from tokenq.runs.held_out import Floats, HeldOutPairs, PairKey, read_held_out
from tokenq.runs.record import RunRecord, read_run
from tokenq.training.recorded import FREE_ON_RESUME

TOLERANCE = 0.01
"""Nats a token by which two models may differ on average and count as one: rounding of half precision is smaller."""

_READING = (
    *("data", "eval_data", "eval_size", "columns", "bad_rows", "pairing", "same_length", "style", "chat_template"),
    *("max_length", "max_prompt_length", "truncation"),
)
"""Settings that decide what a run reads."""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run.

    Attributes:
        name: the end of its path that tells it from the others.
        record: its settings, provenance and metrics.
        pairs: its held-out pairs.
    """

    name: str
    record: RunRecord
    pairs: HeldOutPairs

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.record.config.get("seed", 0))

    def recorded(self, part: str, key: str) -> Any:
        """Return a field of its provenance, None where it has none."""
        return (self.record.provenance.get(part) or {}).get(key)


@dataclass(frozen=True, eq=False)
class Setup:
    """One configuration: a run, or several that differ in their seeds alone.

    Attributes:
        name: what it is called.
        runs: its runs.
    """

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings; the seed is that of its first run."""
        return self.runs[0].record.config

    @property
    def beta(self) -> float | None:
        """The temperature of its rewards, None for a loss without a reference."""
        beta = self.runs[0].record.provenance.get("beta")
        return None if beta is None else float(beta)

    @property
    def loss(self) -> str:
        """Its loss with the parameters that were given."""
        options = {name: value for name, value in (self.config.get("loss_options") or {}).items() if name != "beta"}
        return " ".join([str(self.config.get("loss")), *(f"{name}={value}" for name, value in options.items())])


def read_runs(paths: Sequence[str]) -> list[ComparedRun]:
    """Return the runs at `paths`, which are finished, evaluated and share what must be shared.

    Raises:
        UserError: fewer than two; a path twice; no run there; a run that is not finished or was not evaluated; two runs
            that differ in model, data or reference.
    """
    if len(paths) < 2:
        hint = _where_runs_are(Path(paths[0]).expanduser()) if paths else "tokenq compare runs/a runs/b"
        raise UserError("A comparison needs two runs or more.", hint)
    places = [Path(path).expanduser().resolve() for path in paths]
    double = next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if double is not None:
        raise UserError(f"The run {double} is given twice.", "Give each run once.")
    names = short_names(places)
    runs = [_read(path, name) for path, name in zip(paths, names, strict=True)]
    for run in runs[1:]:
        for check in (_same_model, _same_data, _same_reference):
            check(runs[0], run)
    return runs


def short_names(places: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    longest = max(len(place.parts) for place in places)
    for length in range(1, longest + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def setups_of(runs: Sequence[ComparedRun]) -> list[Setup]:
    """Return the runs by configuration, in the order of their first run; a seed is in a setup once."""
    found: dict[tuple[str, int], list[ComparedRun]] = {}
    for run in runs:
        config = {k: v for k, v in run.record.config.items() if k != "seed" and k not in FREE_ON_RESUME}
        text = json.dumps(config, sort_keys=True, default=str)
        turn = 0
        while any(other.seed == run.seed for other in found.get((text, turn), [])):
            turn += 1
        found.setdefault((text, turn), []).append(run)
    names: list[str] = []
    for members in found.values():
        name = _setup_name(members)
        numbered = chain([name], (f"{name} ({number})" for number in count(2)))
        names.append(next(one for one in numbered if one not in names))
    return [Setup(name, tuple(members)) for name, members in zip(names, found.values(), strict=True)]


def find_setup(setups: Sequence[Setup], baseline: str | None) -> Setup:
    """Return the setup that `baseline` names (it, one of its runs, or a run's folder); the first for None.

    Raises:
        UserError: none is called so.
    """
    if baseline is None:
        return setups[0]
    place = Path(baseline).expanduser().resolve()
    for setup in setups:
        named = {setup.name, *(run.name for run in setup.runs)}
        if baseline in named or any(Path(run.record.path).expanduser().resolve() == place for run in setup.runs):
            return setup
    known = [name for setup in setups for name in dict.fromkeys((setup.name, *(run.name for run in setup.runs)))]
    close = nearest(baseline, known)
    guess = f"Did you mean {close!r}? " if close else ""
    raise UserError(f"--baseline {baseline} is none of the runs.", f"{guess}They are {', '.join(known)}.")


def _read(path: str, name: str) -> ComparedRun:
    run = RunDir(Path(path).expanduser())
    if not run.holds_run():
        raise UserError(f"There is no run at {path}.", _where_runs_are(run.path))
    if run.reward_model.exists():
        raise UserError(
            f"The run {path} trained a reward model, and runs of policies are compared: by log-probs that it has not.",
            "tokenq eval preference --reward-model compares reward models, each on the same pairs.",
        )
    record = read_run(run.path)
    last = record.steps[-1]["step"] if record.steps else 0
    planned = record.planned_steps() if not record.finished else last
    if planned is None or last < planned:
        raise UserError(
            f"The run {path} has not finished: its last step is {last}{f' of {planned}' if planned else ''}.",
            f"Continue it with: tokenq train --config {run.config} --resume",
        )
    if not record.evals:
        raise UserError(
            f"The run {path} was trained without held-out data, so there is nothing to compare it by.",
            "Train with --eval-data FILE (or --eval-size N).",
        )
    pairs = read_held_out(run)
    if pairs.step < last:
        raise UserError(
            f"{run.held_out} is of step {pairs.step}, and training went to step {last}.",
            f"Evaluate again with: tokenq train --config {run.config} --resume",
        )
    return ComparedRun(name, record, pairs)


def _where_runs_are(path: Path) -> str:
    """Return a hint: runs inside the folder, else the nearest name beside it."""
    inside = _runs_in(path)
    if inside:
        return f"It holds runs: {' '.join(str(path / name) for name in inside[:8])}"
    close = nearest(path.name, _runs_in(path.parent))
    return f"Did you mean {path.parent / close}?" if close else "Give the --output folders of tokenq train."


def _runs_in(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and RunDir(entry).provenance.exists())


def _same_model(first: ComparedRun, run: ComparedRun) -> None:
    one, other = first.recorded("model", "weights"), run.recorded("model", "weights")
    if one == other or _agree(first, run, "starts"):
        return
    adapters = any(member.record.config.get("lora_rank") for member in (first, run))
    if _agree(first, run, "starts") is None and adapters:
        # A new adapter's random weights are part of the hash, and do nothing before the first update.
        one, other = first.recorded("model", "path"), run.recorded("model", "path")
        if one == other:
            return
    raise _refusal(first, run, "begin from one model", "provenance.json", "model.weights", (one, other))


def _same_reference(first: ComparedRun, run: ComparedRun) -> None:
    one, other = first.recorded("reference", "weights"), run.recorded("reference", "weights")
    if one is None or other is None or one == other or _agree(first, run, "references"):
        return
    raise _refusal(first, run, "have one reference", "provenance.json", "reference.weights", (one, other))


def _same_data(first: ComparedRun, run: ComparedRun) -> None:
    one, other = first.recorded("data", "sha256"), run.recorded("data", "sha256")
    if one == other:
        return
    for name in _READING:
        settings = first.record.config.get(name), run.record.config.get(name)
        if settings[0] != settings[1]:
            raise _refusal(first, run, "train on the same data", "config.yaml", name, settings)
    rows = [(member.recorded("data", "summary") or {}).get("rows") for member in (first, run)]
    drawn = first.seed != run.seed and (first.record.config.get("eval_size") or _sampled(first))
    if rows[0] == rows[1] and (drawn or first.record.loss.selection != run.record.loss.selection):
        return  # the seed chose the rows that are held out or taken, or the loss takes more of each row
    raise _refusal(
        first,
        run,
        "train on the same data (other rows or another tokenizer)",
        "provenance.json",
        "data.sha256",
        (one, other),
    )


def _sampled(run: ComparedRun) -> bool:
    """Return whether a source's weight takes a share of its rows."""
    return any(re.search(r"@\d*\.\d+$", str(source)) for source in run.record.config.get("data") or ())


def _agree(first: ComparedRun, run: ComparedRun, table: str) -> bool | None:
    """Return whether two models say the same of the pairs that both runs hold out, None where that cannot be told."""
    keys = [key for key in first.pairs.keys if key in run.pairs.places()]
    one, other = first.pairs.at(keys), run.pairs.at(keys)
    apart = np.abs(getattr(one, table) - getattr(other, table)) / np.maximum(one.tokens, 1)
    known = apart[np.isfinite(apart)]
    return bool(known.mean() <= TOLERANCE) if known.size else None


def _refusal(
    first: ComparedRun, run: ComparedRun, what: str, file: str, key: str, values: tuple[Any, Any]
) -> UserError:
    said = [_said(value) for value in values]
    return UserError(
        f"These runs cannot be compared: {run.record.path} and {first.record.path} do not {what}; {key} in "
        f"{run.record.path}/{file} is {said[1]}, in {first.record.path}/{file} {said[0]}.",
        "Choose runs that differ only in training settings.",
    )


def _said(value: Any) -> str:
    """Return a value as text, hashes by their first digits."""
    text = "not recorded" if value is None else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{32,}", text) else text


def _setup_name(members: Sequence[ComparedRun]) -> str:
    if len(members) == 1:
        return members[0].name
    columns = zip(*(run.name for run in members), strict=False)
    shared = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, columns))
    return re.sub(r"[-_. /]*(seed|s)?[-_. /=]*$", "", shared) or Setup("", tuple(members)).loss


def pooled(runs: Sequence[ComparedRun], table: str) -> dict[PairKey, Floats]:
    """Return [2] numbers of every pair that any of the runs knows: those of one shared model, whoever recorded them."""
    found: dict[PairKey, Floats] = {}
    for run in runs:
        for key, both in zip(run.pairs.keys, getattr(run.pairs, table), strict=True):
            if np.isfinite(both).all():
                found.setdefault(key, both)
    return found
