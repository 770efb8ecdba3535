"""The training loop: batch → log-probs → loss → backward → step → metrics → evaluation → checkpoint.

One loop serves every loss and every model: it sees a policy that scores packed batches, a reference that does the
same, and a row of the loss table. It never sees a network's inside, a tokenizer or a file of data.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import PackedBatch
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.train import checkpoint
from tokenq.train.checks import check_start, not_finite
from tokenq.train.held_out import Kept, write_held_out
from tokenq.train.job import Job, Scored, Summary, step_places, total_steps
from tokenq.train.masters import refuse_sharded_masters
from tokenq.train.micro import Micro, Step, Whole, judge_whole, plan
from tokenq.train.monitor import Event, Meter
from tokenq.train.objective import Outcome, add_sums
from tokenq.train.optim import learning_rate, make_optimizer, parted, tell_deepspeed
from tokenq.train.reward_model import correlations

__all__ = ["Job", "Scored", "Summary", "fit", "step_places", "total_steps"]


def fit(job: Job, accelerator: Accelerator) -> Summary:
    """Train the policy in place and return how it ended.

    Args:
        job: what to train, on what, against what.
        accelerator: devices, precision and trackers.

    Raises:
        UserError: the policy does not start equal to its reference where it should; a loss is not finite.
    """
    config, metrics_file = job.config, JsonLines(job.run.metrics)
    refuse_sharded_masters(accelerator, job.policy)
    optimizer = make_optimizer(job.policy, config, job.values)
    checkpoint.keep_trainable_only(accelerator, job.policy)
    tell_deepspeed(accelerator, config)
    policy, optimizer = accelerator.prepare(job.policy, optimizer)
    policy.train()
    total = total_steps(config, len(job.data.groups))
    step = checkpoint.load_latest(accelerator, job.run.checkpoints, metrics_file) if config.resume else 0
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
        step_plan = plan(data.groups, places, config.tokens_per_batch, self.accelerator)
        rate = learning_rate(config, step, self.total)
        for group in self.optimizer.param_groups:  # before the backward pass, in which DeepSpeed takes its step
            group["lr"] = rate
        totals: dict[str, list[float]] = {}
        if self.job.objective.loss.coupled and step_plan.parted:
            self._together(step_plan, step, totals)
        else:
            self._one_by_one(step_plan, step, totals)
        norms = self._clip()
        if (
            not all(map(math.isfinite, norms.values())) and self.accelerator.scaler is None
        ):  # a gradient scaler skips such steps itself
            self._stop_if_not_finite([data.groups[i].where for i in places], step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = self.job.objective.means(self._reduce(totals))
        metrics = {"learning_rate": rate, **norms, **means, **self._cost()}
        self._log(step + 1, metrics)
        self.job.listener(Event("train", step + 1, self.total, metrics))
        return metrics

    def _one_by_one(self, step_plan: Step, step: int, totals: dict[str, list[float]]) -> None:
        """Do the forward and backward passes of an update, each micro-batch by itself."""
        objective, data = self.job.objective, self.job.data
        weights = self._step_weights(step_plan)
        failed: list[str] = []
        for i, micro in enumerate(step_plan.own):
            last = i == len(step_plan.own) - 1
            with self._accumulating(last):
                outcome = objective(self.policy, data.reference, micro.batch, data.ref_logits)
                self._check_start(outcome, micro.batch, step)
                failed += not_finite(outcome, micro.batch, data.groups) if micro.counts else []
                if last:
                    self._stop_if_not_finite(failed, step)
                share = objective.share(outcome, weights) * micro.counts
                # Data-parallel averages over processes; the step's average is over all examples.
                self.accelerator.backward(share * self.accelerator.num_processes)
            self._count(micro, outcome, totals)

    def _together(self, step_plan: Step, step: int, totals: dict[str, list[float]]) -> None:
        """Do the same for losses that see the whole step at once: forward, losses, and forward again with a graph."""
        objective, data = self.job.objective, self.job.data
        whole = self._whole(step_plan, data)
        self._check_start(whole.outcome, whole.batch, step)
        self._stop_if_not_finite(not_finite(whole.outcome, whole.batch, data.groups), step)
        objective.share(whole.outcome, objective.weights(whole.batch)).backward()  # type: ignore[no-untyped-call]  # torch's
        slopes = iter(whole.slopes())
        for i, micro in enumerate(step_plan.own):
            with self._accumulating(i == len(step_plan.own) - 1):
                scores = objective.score(self.policy, None, micro.batch, data.ref_logits)
                slope, read_slope = next(slopes) if micro.counts else (scores.logps.new_zeros(1), None)
                share = (scores.logps * slope).sum()
                if scores.read is not None and read_slope is not None:
                    share = share + (scores.read * read_slope).sum()
                self.accelerator.backward(share * self.accelerator.num_processes)
            if micro.counts:
                self.meter.count(*self.job.work(micro.batch))
        if self.accelerator.is_main_process:  # every process has the metrics of the whole step
            add_sums(totals, whole.outcome.sums)

    def _whole(self, step_plan: Step, data: Scored) -> Whole:
        """Return the losses of a whole step, computed together."""
        objective = self.job.objective
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):  # the second forward draws the same dropout
            scores = [
                objective.score(self.policy, data.reference, micro.batch, data.ref_logits) for micro in step_plan.own
            ]
        return judge_whole(step_plan, scores, objective, data.groups, self.accelerator)

    @contextlib.contextmanager
    def _accumulating(self, last: bool) -> Iterator[None]:
        """Let gradients of all but the last micro-batch of a step pile up without being exchanged."""
        self.accelerator.sync_gradients = last
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.policy):
            yield

    def _check_start(self, outcome: Outcome, batch: PackedBatch, step: int) -> None:
        if step == 0 and self.job.start_tolerance is not None:
            check_start(outcome, batch, self.job.data.groups, self.job.start_tolerance)

    def _count(self, micro: Micro, outcome: Outcome, totals: dict[str, list[float]]) -> None:
        if micro.counts:
            add_sums(totals, outcome.sums)
            self.meter.count(*self.job.work(micro.batch))

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the averages over the evaluation data, under an `eval_` prefix."""
        evaluation = self.job.evaluation
        if evaluation is None or not evaluation.groups:
            return {}
        totals: dict[str, list[float]] = {}
        kept = Kept([], [])
        self.policy.eval()
        if self.job.objective.loss.coupled:
            rounds = self._evaluate_together(evaluation, totals, kept)
        else:
            rounds = self._evaluate_one_by_one(evaluation, totals, kept)
        self.policy.train()
        if self.accelerator.num_processes > 1:
            kept = Kept(*(self.accelerator.gather_for_metrics(part, True) for part in kept))
        objective = self.job.objective
        if self.accelerator.is_main_process and objective.loss.output == "logps":
            write_held_out(self.job.run, evaluation.groups, objective.loss.unit, kept.rows, step)
        means = objective.means(self._reduce(totals)) | correlations(kept.rated)
        metrics = {f"eval_{name}": value for name, value in means.items()}
        self._log(step, metrics)
        self.job.listener(Event("eval", rounds, rounds, metrics))
        self.meter.restart()
        return metrics

    def _evaluate_one_by_one(self, evaluation: Scored, totals: dict[str, list[float]], kept: Kept) -> int:
        """Add the metrics of the evaluation data to `totals`, its responses to `kept`; return in how many forwards."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        bins = plan_pass([group.n_tokens for group in evaluation.groups], self.job.config.tokens_per_batch)
        rounds: int = -(-len(bins) // world)
        for i in range(rounds):
            # Every process takes part in every forward (sharded weights need that); a surplus one is not counted.
            mine = i * world + rank
            places = bins[min(mine, len(bins) - 1)]
            batch = pack([evaluation.groups[p] for p in places], places).to(self.accelerator.device)
            with torch.no_grad():
                outcome = self.job.objective(self.policy, evaluation.reference, batch, evaluation.ref_logits)
            if mine < len(bins):
                add_sums(totals, outcome.sums)
                kept.add(outcome, batch)
            self.job.listener(Event("eval", i + 1, rounds))
        return rounds

    def _evaluate_together(self, evaluation: Scored, totals: dict[str, list[float]], kept: Kept) -> int:
        """Do the same for losses that see a step at once: in steps of the training's size, in the data's order."""
        size, budget = self.job.config.batch_size, self.job.config.tokens_per_batch
        rounds = math.ceil(len(evaluation.groups) / size)
        for i in range(rounds):
            places = list(range(i * size, min((i + 1) * size, len(evaluation.groups))))
            whole = self._whole(plan(evaluation.groups, places, budget, self.accelerator), evaluation)
            if self.accelerator.is_main_process:
                add_sums(totals, whole.outcome.sums)
                kept.add(whole.outcome, whole.batch)
            self.job.listener(Event("eval", i + 1, rounds))
        return rounds

    def _step_weights(self, step_plan: Step) -> list[float]:
        """Return how much the whole step counts for each loss."""
        objective = self.job.objective
        rows = [[float(w) for w in objective.weights(micro.batch)] for micro in step_plan.own if micro.counts]
        sums = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(objective.loss.terms)).sum(0)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums.to(self.accelerator.device, torch.float32), "sum")
        weights: list[float] = sums.tolist()
        return weights

    def _clip(self) -> dict[str, float]:
        """Clip the gradient, that of a value network by itself, and return the norms before that."""
        limit = self.job.config.max_grad_norm or math.inf
        own, apart = parted(self.policy, self.job.values)
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters() if not apart else own, limit)
        norms = {"grad_norm": float(norm) if norm is not None else float("nan")}
        if apart:  # after accelerate has undone the scale of all gradients, where there is one
            norms["values/grad_norm"] = float(torch.nn.utils.clip_grad_norm_(apart, limit))
        return norms

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
