"""The training loop: batch → log-probs → loss → backward → step → metrics → evaluation → checkpoint.

One loop serves every loss and every model: it sees a policy that scores packed batches, a reference that does the
same, and a row of the loss table. It never sees a network's inside, a tokenizer or a file of data.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenq.core.packing import pack, plan_pass, plan_step
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.records import TokenGroup
from tokenq.rundir import RunDir
from tokenq.train import checkpoint
from tokenq.train.checks import check_start, not_finite
from tokenq.train.config import TrainConfig
from tokenq.train.monitor import Event, Listener, Meter, silent
from tokenq.train.objective import Objective, add_sums, averages
from tokenq.train.optim import learning_rate, make_optimizer, tell_deepspeed


@dataclass(frozen=True)
class Scored:
    """Data with its reference.

    Attributes:
        groups: the examples.
        reference: gives log π_ref of batches packed from `groups`, or None when the loss needs none.
    """

    groups: Sequence[TokenGroup]
    reference: TokenScorer | None


@dataclass(frozen=True)
class Job:
    """Everything that a run of the loop needs.

    Attributes:
        policy: an `nn.Module` that maps a packed batch to log-probs [N].
        data: training examples with their reference.
        objective: the loss.
        config: optimisation, logging and checkpoint settings.
        run: where metrics and checkpoints go.
        evaluation: held-out examples with their reference, or None.
        start_tolerance: largest mean |log π − log π_ref| of a response's tokens before the first update that is
            rounding; None when the two models are meant to differ.
        work: (batch) → (tokens, positions with padding) of one forward of the policy.
        listener: told about progress.
    """

    policy: nn.Module
    data: Scored
    objective: Objective
    config: TrainConfig
    run: RunDir
    evaluation: Scored | None = None
    start_tolerance: float | None = None
    work: Callable[[PackedBatch], tuple[int, int]] = lambda batch: (len(batch.input_ids), len(batch.input_ids))
    listener: Listener = silent


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        steps: updates done, those before a resume included.
        before: evaluation before the first update (empty without evaluation data or after a resume).
        after: evaluation after the last update.
        last: metrics of the last update.
        policy: the policy as accelerate has wrapped it.
    """

    steps: int
    before: dict[str, float]
    after: dict[str, float]
    last: dict[str, float]
    policy: nn.Module


def total_steps(config: TrainConfig, examples: int) -> int:
    """Return the number of updates of a run over so many examples."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * math.ceil(examples / config.batch_size))


def step_places(config: TrainConfig, examples: int, step: int) -> list[int]:
    """Return the examples of an update: the epoch's permutation, cut into batches; the last may be smaller.

    Args:
        config: seed and batch size.
        examples: how many there are.
        step: updates done before this one.
    """
    per_epoch = math.ceil(examples / config.batch_size)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(examples)
    return [int(i) for i in order[place * config.batch_size : (place + 1) * config.batch_size]]


def fit(job: Job, accelerator: Accelerator) -> Summary:
    """Train the policy in place and return how it ended.

    Args:
        job: what to train, on what, against what.
        accelerator: devices, precision and trackers.

    Raises:
        UserError: the policy does not start equal to its reference where it should; a loss is not finite.
    """
    config, metrics_file = job.config, JsonLines(job.run.metrics)
    optimizer = make_optimizer(job.policy, config)
    checkpoint.keep_trainable_only(accelerator, job.policy)
    tell_deepspeed(accelerator, config)
    policy, optimizer = accelerator.prepare(job.policy, optimizer)
    policy.train()
    total = total_steps(config, len(job.data.groups))
    step = checkpoint.load_latest(accelerator, job.run.checkpoints) if config.resume else 0
    trainer = _Trainer(job, accelerator, policy, optimizer, metrics_file, total)
    if accelerator.is_main_process:
        metrics_file.keep(lambda record: _still_holds(record, step, total))
        trainer.meter.total_tokens = int(max((r.get("tokens", 0) for r in metrics_file.read()), default=0))
    before = trainer.evaluate(step) if step == 0 else {}
    after, last, saved = before, {}, step
    trainer.meter.restart()
    while step < total:
        last = trainer.update(step)
        step += 1
        if config.eval_steps and step % config.eval_steps == 0 and step < total:
            after = trainer.evaluate(step)
        if config.keep_checkpoints and trainer.is_due(step):
            checkpoint.save(accelerator, job.run.checkpoints, step, config.keep_checkpoints)
            saved = step
            trainer.meter.restart()
    if saved < step and config.keep_checkpoints:
        checkpoint.save(accelerator, job.run.checkpoints, step, config.keep_checkpoints)
    after = trainer.evaluate(step)
    return Summary(step, before, after, last, policy)


@dataclass
class _Trainer:
    """The prepared pieces of a run and the verbs of the loop."""

    job: Job
    accelerator: Accelerator
    policy: nn.Module
    optimizer: Any
    metrics_file: JsonLines
    total: int

    def __post_init__(self) -> None:
        self.meter = Meter()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after so many updates."""
        per_epoch = math.ceil(len(self.job.data.groups) / self.job.config.batch_size)
        return step % (self.job.config.save_steps or per_epoch) == 0

    def update(self, step: int) -> dict[str, float]:
        """Do one update and return its metrics."""
        config, data = self.job.config, self.job.data
        places = step_places(config, len(data.groups), step)
        batches, weight = self._micro_batches(places)
        rate = learning_rate(config, step, self.total)
        for group in self.optimizer.param_groups:  # before the backward pass, in which DeepSpeed takes its step
            group["lr"] = rate
        totals: dict[str, list[float]] = {}
        failed: list[str] = []
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            self.accelerator.sync_gradients = last
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.policy):
                outcome = self.job.objective(self.policy, data.reference, batch.batch)
                if step == 0 and self.job.start_tolerance is not None:
                    check_start(outcome, batch.batch, data.groups, self.job.start_tolerance)
                failed += not_finite(outcome, batch.batch, data.groups) if batch.counts else []
                if last:
                    self._stop_if_not_finite(failed, step)
                share = outcome.losses.sum() * batch.counts / weight
                # Data-parallel averages over processes; the step's average is over all examples.
                self.accelerator.backward(share * self.accelerator.num_processes)
            if batch.counts:
                add_sums(totals, outcome.sums)
                self.meter.count(*self.job.work(batch.batch))
        norm = self._clip()
        if not math.isfinite(norm) and self.accelerator.scaler is None:  # a gradient scaler skips such steps itself
            self._stop_if_not_finite([data.groups[i].where for i in places], step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = averages(self._reduce(totals))
        metrics = {"learning_rate": rate, "grad_norm": norm, **means, **self._cost()}
        self._log(step + 1, metrics)
        self.job.listener(Event("train", step + 1, self.total, metrics))
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the averages over the evaluation data, under an `eval_` prefix."""
        evaluation = self.job.evaluation
        if evaluation is None or not evaluation.groups:
            return {}
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        plan = plan_pass([group.n_tokens for group in evaluation.groups], self.job.config.tokens_per_batch)
        totals: dict[str, list[float]] = {}
        self.policy.eval()
        rounds = math.ceil(len(plan) / world)
        for i in range(rounds):
            # Every process takes part in every forward (sharded weights need that); a surplus one is not counted.
            mine = i * world + rank
            places = plan[min(mine, len(plan) - 1)]
            batch = pack([evaluation.groups[p] for p in places], places).to(self.accelerator.device)
            with torch.no_grad():
                outcome = self.job.objective(self.policy, evaluation.reference, batch)
            if mine < len(plan):
                add_sums(totals, outcome.sums)
            self.job.listener(Event("eval", i + 1, rounds))
        self.policy.train()
        metrics = {f"eval_{name}": value for name, value in averages(self._reduce(totals)).items()}
        self._log(step, metrics)
        self.job.listener(Event("eval", rounds, rounds, metrics))
        self.meter.restart()
        return metrics

    def _micro_batches(self, places: list[int]) -> tuple[list["_Micro"], int]:
        """Return this process's micro-batches of a step, and the weight of the whole step."""
        groups, objective = self.job.data.groups, self.job.objective
        lengths = [groups[p].n_tokens for p in places]
        plan = plan_step(lengths, self.job.config.tokens_per_batch, self.accelerator.num_processes)
        mine = []
        for bin_ in plan[self.accelerator.process_index]:
            chosen = [places[i] for i in bin_] or places[:1]
            batch = pack([groups[p] for p in chosen], chosen).to(self.accelerator.device)
            mine.append(_Micro(batch, counts=1 if bin_ else 0))
        weight = sum(objective.weight(micro.batch) * micro.counts for micro in mine)
        if self.accelerator.num_processes > 1:
            local = torch.tensor(float(weight), device=self.accelerator.device)
            weight = int(self.accelerator.reduce(local, "sum").item())
        return mine, weight

    def _clip(self) -> float:
        """Clip the gradient and return its norm before that."""
        limit = self.job.config.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), limit)
        return float(norm) if norm is not None else float("nan")

    def _stop_if_not_finite(self, failed: list[str], step: int) -> None:
        bad = torch.tensor(float(len(failed)), device=self.accelerator.device)
        if self.accelerator.reduce(bad, "sum").item() == 0:
            return
        self.optimizer.zero_grad()
        folder, keep = self.job.run.checkpoints, self.job.config.keep_checkpoints
        kept = "No checkpoint was written (--keep-checkpoints 0)."
        if keep:
            place = checkpoint.save(self.accelerator, folder, step, keep)
            kept = f"The weights before it are kept in {place}."
        rows = ", ".join(failed[:8]) + (f" and {len(failed) - 8} more" if len(failed) > 8 else "")
        raise UserError(
            f"Loss or gradient of step {step + 1} is not finite: {rows or 'rows of another process'}. {kept}",
            "Lower --learning-rate, compute in float32, or look at these rows.",
        )

    def _reduce(self, totals: dict[str, list[float]]) -> dict[str, list[float]]:
        """Add the totals of all processes."""
        if self.accelerator.num_processes == 1:
            return totals
        names = sorted({name for part in self.accelerator.gather_for_metrics([list(totals)], True) for name in part})
        table = torch.tensor([totals.get(name, [0.0, 0.0]) for name in names], dtype=torch.float64)
        summed: Tensor = self.accelerator.reduce(table.to(self.accelerator.device), "sum")
        return dict(zip(names, summed.tolist(), strict=True))

    def _cost(self) -> dict[str, float]:
        cost = self.meter.read(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            row = torch.tensor([cost["tokens"], cost["tokens_per_second"]], dtype=torch.float64)
            row = row.to(self.accelerator.device)
            cost["tokens"], cost["tokens_per_second"] = self.accelerator.reduce(row, "sum").tolist()
        return cost

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        per_epoch = math.ceil(len(self.job.data.groups) / self.job.config.batch_size)
        if self.accelerator.is_main_process:
            self.metrics_file.append({"step": step, "epoch": round(step / per_epoch, 6), **metrics})
        self.accelerator.log(metrics, step=step)


def _still_holds(record: Mapping[str, float], step: int, total: int) -> bool:
    """Return whether a line of `metrics.jsonl` holds when the run goes on after `step` updates.

    Evaluations within the run came before their checkpoint; the one at the start and the one at the end come again.
    """
    return record["step"] < step or (record["step"] == step and ("loss" in record or 0 < step < total))


@dataclass(frozen=True)
class _Micro:
    """A micro-batch, and whether it counts (0 for one that only keeps a process busy in collective calls)."""

    batch: PackedBatch
    counts: int
