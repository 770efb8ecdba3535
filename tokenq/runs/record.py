"""A run as an examination sees it: what its folder holds, and what was measured beside it.

`read_run` reads the files of a run directory and nothing else. What needs the data, the models or samples of the
policy is measured by the caller and put beside it (`tokenq.runs.facts`); each may be missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tokenq.core.losses import LossSum, find_sum
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.errors import UserError
from tokenq.rundir import RunDir
from tokenq.runs.facts import DataFacts, ModelNow, Moved, RolloutFacts, Samples, Scored
from tokenq.training.recorded import read_config, read_metrics, read_provenance

TAIL = 0.1
"""Share of the steps that stands for the end of a run without an evaluation: one step is one small batch."""


class Series(NamedTuple):
    """A metric over the run, without the steps in which it is missing or not finite.

    Attributes:
        steps: [n] optimiser steps taken.
        values: [n].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.values)


class State(NamedTuple):
    """The metrics at one moment of a run, under their names without `eval_`.

    Attributes:
        values: the metrics.
        step: optimiser steps taken, None for what is measured now.
        where: what they were measured on.
        pairs: pairs behind them, where these are the same in every evaluation; else 0.
    """

    values: Mapping[str, float]
    step: int | None
    where: str
    pairs: int = 0

    def length(self) -> float:
        """Return the mean length of the responses in tokens, at least 1."""
        lengths = [value for name, value in self.values.items() if name.startswith("response_length")]
        return max(1.0, sum(lengths) / len(lengths)) if lengths else 1.0

    def rewards(self) -> dict[str, float]:
        """Return the mean reward of the chosen and of the rejected responses, as far as there were any.

        Labelled responses come in batches that may hold one label only.
        """
        known = {side: self.values.get(f"rewards/{side}") for side in ("chosen", "rejected")}
        return {side: value for side, value in known.items() if value is not None}


@dataclass(frozen=True)
class RunRecord:
    """Everything that checks look at.

    Attributes:
        path: the folder of the run, or the policy's.
        config: its settings; empty for a policy without a run.
        provenance: where it comes from; empty for a policy without a run.
        steps: the lines of metrics.jsonl that a step wrote.
        evals: the lines that an evaluation wrote.
        rounds: the lines that rounds of an online run wrote.
        evaluations: the lines of what it wrote to held-out prompts, that of the start first.
        coverage: the lines that say whether the policy still plays the episodes of its pairs.
        finished: whether the policy was written.
        checkpoints: steps whose checkpoint is there.
        data: counts of the training data.
        held_out: counts of the evaluation data.
        models: the run's models as they are today.
        scored: what the models say of pairs now.
        samples: what the models write now.
        rollouts: what was found of a round's responses.
    """

    path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()
    evals: Sequence[Mapping[str, Any]] = ()
    rounds: Sequence[Mapping[str, Any]] = ()
    evaluations: Sequence[Mapping[str, Any]] = ()
    coverage: Sequence[Mapping[str, Any]] = ()
    finished: bool = False
    checkpoints: Sequence[int] = ()
    data: DataFacts | None = None
    held_out: DataFacts | None = None
    models: tuple[ModelNow, ...] = ()
    moved: Moved | None = None
    scored: Scored | None = None
    samples: Samples | None = None
    rollouts: RolloutFacts | None = None

    @property
    def loss(self) -> LossSum:
        """The loss with its parameters bound; DPO for a policy without a run."""
        # Runs before there were options have one of their own.
        alone = {name: self.config[name] for name in ("beta", "label_smoothing") if self.config.get(name) is not None}
        text = self.config.get("loss", "dpo")
        if find_sum(text).unit.asks == "rollouts":  # a policy gradient has the weight of its KL penalty in its text
            alone.pop("beta", None)
        return find_sum(text, {**alone, **(self.config.get("loss_options") or {})})

    @property
    def beta(self) -> float:
        """KL temperature, the loss's own where none was given."""
        given = self.config.get("beta")
        return self.loss.beta if given is None else float(given)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The account of the training data: as counted now, else as the run recorded it."""
        return self.data.summary if self.data else (self.provenance.get("data") or {}).get("summary", {})

    @property
    def eval_pairs(self) -> int:
        """Number of held-out pairs, 0 where there are none."""
        return int(((self.provenance.get("eval_data") or {}).get("summary") or {}).get("pairs", 0))

    def training(self, name: str) -> Series:
        """Return a metric of the optimiser steps."""
        return _series(self.steps, name)

    def evaluation(self, name: str) -> Series:
        """Return a metric of the evaluations; `name` without `eval_`."""
        return _series(self.evals, f"eval_{name}")

    def start(self) -> State | None:
        """Return the metrics before the first update: an evaluation at step 0, else what step 1 measured first."""
        if self.evals and self.evals[0]["step"] == 0:
            return State(_numbers(self.evals[0]), 0, "held-out data", self.eval_pairs)
        if self.steps and self.steps[0]["step"] == 1:
            return State(_numbers(self.steps[0]), 0, "the first batch")
        return None

    def end(self) -> State | None:
        """Return the metrics at the end: as measured now, of the last evaluation, else the mean of the last steps."""
        if self.scored is not None:
            return State(self.scored.values, None, "the data, scored now", self.scored.pairs)
        if self.evals and self.evals[-1]["step"] > 0:
            return State(_numbers(self.evals[-1]), self.evals[-1]["step"], "held-out data", self.eval_pairs)
        if not self.steps:
            return None
        last = self.steps[-max(1, math.ceil(TAIL * len(self.steps))) :]
        rows = [_numbers(row) for row in last]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        return State(means, self.steps[-1]["step"], f"the last {len(last)} steps")

    def planned_steps(self) -> int | None:
        """Return how many optimiser steps the settings ask for, None where that cannot be told."""
        if self.config.get("max_steps") is not None:
            return int(self.config["max_steps"])
        examples = self.summary.get(self.loss.unit.account)
        if not examples or not self.config.get("batch_size"):
            return None
        return math.ceil(
            float(self.config.get("epochs", 1.0)) * math.ceil(int(examples) / int(self.config["batch_size"]))
        )

    def start_loss(self) -> float | None:
        """Return the loss where policy = reference (ln 2 for DPO), None where that is no one number."""
        plain = [term for term in self.loss.terms if term.loss.reference and not term.loss.inputs]
        if len(plain) < len(self.loss.terms) or self.loss.unit.name != "pairs":
            return None
        nothing = TokenLogps(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
        pair = PairLogps(nothing, nothing)
        return sum(term.weight * float(term.loss.function(pair, pair)[0]) for term in plain)


def read_run(path: Path) -> RunRecord:
    """Return the record of the run directory at `path`.

    Raises:
        UserError: there is no run, or it has not come to its first step, or a file of it is broken.
    """
    run = RunDir(path)
    provenance = read_provenance(run)
    lines = read_metrics(run)
    if not lines:
        raise UserError(
            f"{run.metrics} holds no step yet.", "Give a run that has begun to train, or name --policy and --data."
        )
    return RunRecord(
        path=str(path),
        config=_config(run, provenance),
        provenance=provenance,
        steps=tuple(line for line in lines if "loss" in line and not _is_empty(line)),
        evals=tuple(line for line in lines if "eval_loss" in line),
        rounds=tuple(line for line in lines if "round" in line),
        evaluations=tuple(line for line in lines if "eval/prompts" in line),
        coverage=tuple(line for line in lines if "covered/change" in line),
        finished=run.policy.exists() or run.reward_model.exists(),
        checkpoints=run.steps(),
    )


def _is_empty(line: Mapping[str, Any]) -> bool:
    """Return whether a step made no update, since its round had no more pairs."""
    return line["loss"] is None and "grad_norm" not in line


def _config(run: RunDir, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings: of config.yaml, which a resumed run may have changed, else of provenance."""
    return read_config(run) if run.config.exists() else dict(provenance["config"])


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> Series:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return Series(np.array([step for step, _ in found], np.int64), np.array([value for _, value in found], np.float64))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a line that are numbers, without `eval_`."""
    return {name.removeprefix("eval_"): value for name, value in row.items() if value is not None}
