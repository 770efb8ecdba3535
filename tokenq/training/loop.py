"""The training loop: batch → log-probs → loss → backward → step → metrics → evaluation → checkpoint.

One loop serves every loss, model and source of examples: it sees a policy that gives outputs of a batch, a reference
and a row of the loss table, and asks for the examples of a step; never a network's inside, a tokenizer or a data file.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from tokenq.core.tensors import Actions
from tokenq.errors import Interrupted, UserError
from tokenq.files import JsonLines
from tokenq.listener import Event
from tokenq.training import checkpoint, optim, stopping
from tokenq.training.checks import apart_at_start, not_finite, raise_together, refuse_not_finite, without_noise
from tokenq.training.evaluation import evaluate
from tokenq.training.job import Job, Summary
from tokenq.training.monitor import Meter, cost_of
from tokenq.training.objective import BatchResult, add_sums
from tokenq.training.recorded import evaluations_of, refuse_fewer_steps, still_holds
from tokenq.training.source import total_steps
from tokenq.training.step import (
    MicroBatch,
    Step,
    Totals,
    coupled_step,
    examples,
    plan,
    share_of,
    step_weights,
    sum_over_processes,
)


def fit(job: Job, accelerator: Accelerator) -> Summary:
    """Train the policy in place and return how it ended.

    Args:
        job: what to train, on what, against what.
        accelerator: devices, precision and trackers.

    Raises:
        UserError: the policy does not start equal to its reference where it should; a loss is not finite.
        Interrupted: a signal asked it to stop; what was done is in a checkpoint.
    """
    config, metrics_file = job.config, JsonLines(job.run.metrics)
    optim.refuse_sharded_masters(accelerator, job.policy)
    optimizer, masters = optim.make_optimizer(job.policy, config, job.networks)
    peaks = [group["lr"] for group in optimizer.param_groups]
    checkpoint.hand_over_weights(accelerator)
    optim.tell_deepspeed(accelerator, config)
    policy, optimizer = accelerator.prepare(job.policy, optimizer)
    policy.train()
    trained = None if job.files is None else checkpoint.Trained(policy, job.files, job.networks, masters)
    total = total_steps(config, job.source.per_epoch)
    step = checkpoint.load_latest(accelerator, trained, job.run, metrics_file) if config.resume and trained else 0
    refuse_fewer_steps(step, total)
    trainer = _Trainer(job, accelerator, policy, optimizer, peaks, metrics_file, total, trained)
    if accelerator.is_main_process:
        metrics_file.keep(lambda record: still_holds(record, step, total))
        trainer.meter.total = int(max((r.get(job.counted, 0) for r in metrics_file.read()), default=0))
    accelerator.wait_for_everyone()  # the first process has cut the file back
    trainer.watch.found.update(evaluations_of(metrics_file.read()))
    with stopping.catch_signals(job.request, job.listener.say):
        try:
            summary = trainer.run(step)
        except stopping.Abandoned:
            raise trainer.stopped(trainer.done, job.request.signum) from None
    optim.release_masters(masters)
    return summary


@dataclass
class _Trainer:
    """The prepared pieces of a run and the verbs of the loop."""

    job: Job
    accelerator: Accelerator
    policy: nn.Module
    optimizer: Any
    peaks: Sequence[float]
    metrics_file: JsonLines
    total: int
    trained: checkpoint.Trained | None
    done: int = 0
    saved: int = 0

    def __post_init__(self) -> None:
        self.meter = Meter(self.job.counted)
        self.per_epoch = self.job.source.per_epoch
        self.watch = stopping.Watch(self.job.config.keep_best, self.job.config.early_stopping_patience, {})
        self.clipped = list(self.policy.parameters()), *optim.split_weights(self.policy, self.job.networks)

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after so many updates."""
        every = self.job.config.save_steps or self.per_epoch
        return every is not None and step % every == 0

    def run(self, step: int) -> Summary:
        """Do what is left after so many updates, and return how it ended."""
        config = self.job.config
        self.done = self.saved = step
        before = self.evaluate(step) if step == 0 else {}
        if step and self._evaluates(step) and step not in self.watch.found:  # stopped before it, and resumed
            self.evaluate(step)
        last: dict[str, float] = {}
        self.meter.restart()
        while self.done < self.total and not self.watch.stalled():
            last = self.update(self.done) or last
            self.done += 1
            if signum := stopping.common_signal(self.job.request, self.accelerator):
                raise self.stopped(self.done, signum)
            evaluated = self._evaluates(self.done) and self.evaluate(self.done)
            improved = evaluated and self._best(self.done) == self.done
            if config.keep_checkpoints and (self.is_due(self.done) or improved):
                self.save()
        if self.saved < self.done and config.keep_checkpoints:
            self.save()
        if self.done < self.total:
            self.job.listener.say(self.watch.reason())
        after = dict(self.watch.found.get(self.done, {})) or self.evaluate(self.done)
        if config.keep_best:
            checkpoint.prune(self.accelerator, self.job.run, config.keep_checkpoints, self._best())
        return Summary(self.done, before, after, last, self.policy, self.watch.account(self._best()))

    def save(self) -> Path:
        """Write a checkpoint of where the run is."""
        if self.trained is None:
            raise ValueError("a run without files of its policy has --keep-checkpoints 0")
        config, run = self.job.config, self.job.run
        content: checkpoint.Content = "policy" if config.save_only_model else "all"
        place = checkpoint.save(self.accelerator, self.trained, run, self.done, content)
        checkpoint.prune(self.accelerator, run, config.keep_checkpoints, self._best())
        self.saved = self.done
        self.meter.restart()
        return place

    def _best(self, *more: int) -> int | None:
        """Return the best of the steps that have a checkpoint, and of others."""
        return self.watch.best({*self.job.run.steps(), *more})

    def stopped(self, step: int, signum: int) -> Interrupted:
        """Write a checkpoint of what was done, and return the exception that ends a run that a signal stops."""
        said = f"Stopped after step {step} of {self.total}"
        if not step:
            return Interrupted(signum, "Stopped before the first step.")
        if not self.job.config.keep_checkpoints:
            return Interrupted(signum, f"{said}, without a checkpoint (--keep-checkpoints 0).")
        if self.saved < step:
            self.save()
        alone = " of its policy alone (--save-only-model)" if self.job.config.save_only_model else " of it"
        return Interrupted(signum, f"{said}, with a checkpoint{alone}.")

    def _same(self, step: int) -> bool:
        """Return whether policy and reference are one function after so many updates: none has moved a weight yet."""
        rates = (optim.learning_rate(self.job.config, earlier, self.total) for earlier in range(step))
        return self.job.start_tolerance is not None and not any(rates)

    def _evaluates(self, step: int) -> bool:
        """Return whether an evaluation is due within the run after so many updates."""
        every = self.job.config.eval_steps
        return every is not None and step % every == 0 and step < self.total

    def update(self, step: int) -> dict[str, float]:
        """Do one update and return its metrics."""
        config = self.job.config
        parts = examples(self.job.source, step, self.accelerator, lambda: self.stopped(step, 0).said)
        if not parts:
            self._log(step + 1, {"loss": math.nan})  # and no update
            return {}
        self.job.move(step)
        step_plan = plan(parts, lambda some: self.job.pack(some, step), self.job.most, self.accelerator)
        optim.set_rates(self.optimizer, self.peaks, config, step, self.total)
        totals: Totals = {}
        if self.job.objective.loss.coupled and step_plan.has_several:
            self._together(step_plan, step, totals)
        else:
            self._one_by_one(step_plan, step, totals)
        norms = optim.clip_gradients(self.accelerator, self.clipped, self.job.networks, config.max_grad_norm)
        unscaled = self.accelerator.scaler is None  # a gradient scaler skips steps that are not finite itself
        if unscaled and not all(map(math.isfinite, norms.values())):
            self._stop_if_not_finite([part.group.where for part in parts], step, clipped=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = self.job.objective.means(sum_over_processes(totals, self.accelerator))
        means = without_noise(means, self._same(step))
        rates = optim.learning_rates(config, self.job.networks, step, self.total)
        metrics = {**rates, **norms, **means, **cost_of(self.meter, self.accelerator)}
        self._log(step + 1, metrics)
        self.job.listener(Event("train", step + 1, self.total, metrics))
        return metrics

    def _one_by_one(self, step_plan: Step, step: int, totals: Totals) -> None:
        """Do the forward and backward passes of an update, each micro-batch by itself."""
        job, objective = self.job, self.job.objective
        weights = step_weights(step_plan, objective, self.accelerator)
        failed: list[str] = []
        apart: UserError | None = None
        for i, micro in enumerate(step_plan.own):
            last = i == len(step_plan.own) - 1
            with self._accumulating(last):
                result = objective(self.policy, job.reference, micro.batch, job.ref_logits)
                apart = apart or self._apart(result, micro.batch.actions, step)
                failed += not_finite(result, micro.batch.actions) if micro.counts else []
                if last:
                    self._stop_if_apart(apart, step)
                    self._stop_if_not_finite(failed, step)
                share = objective.share(result, weights) * micro.counts
                # Data-parallel averages over processes; the step's average is over all examples.
                self.accelerator.backward(share * self.accelerator.num_processes)
            self._count(micro, result, totals)

    def _together(self, step_plan: Step, step: int, totals: Totals) -> None:
        """Do the same for losses that see the whole step at once: forward, losses, and forward again with a graph."""
        job, objective = self.job, self.job.objective
        score = partial(objective.score, self.policy, ref_logits=job.ref_logits)
        whole = coupled_step(step_plan, partial(score, job.reference), objective, self.accelerator)
        self._stop_if_apart(self._apart(whole.result, whole.actions, step), step)
        self._stop_if_not_finite(not_finite(whole.result, whole.actions), step)
        objective.share(whole.result, objective.weights(whole.actions)).backward()  # type: ignore[no-untyped-call]  # torch's
        slopes = iter(whole.slopes())
        for i, micro in enumerate(step_plan.own):
            with self._accumulating(i == len(step_plan.own) - 1):
                share = share_of(score(None, micro.batch), next(slopes) if micro.counts else {})
                self.accelerator.backward(share * self.accelerator.num_processes)
            if micro.counts:
                self.meter.count(*self.job.work(micro.batch))
        if self.accelerator.is_main_process:  # every process has the metrics of the whole step
            add_sums(totals, whole.result.sums)

    def _give_up_if_asked(self) -> None:
        """Give an evaluation up where a signal asks for it; several processes finish it, as none may leave alone."""
        if self.job.request.signum and self.accelerator.num_processes == 1:
            raise stopping.Abandoned

    @contextlib.contextmanager
    def _accumulating(self, last: bool) -> Iterator[None]:
        """Let gradients of all but the last micro-batch of a step pile up without being exchanged."""
        self.accelerator.sync_gradients = last
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.policy):
            yield

    def _apart(self, result: BatchResult, actions: Actions, step: int) -> UserError | None:
        """Return an error when the policy does not start equal to its reference."""
        if step or self.job.start_tolerance is None:
            return None
        return apart_at_start(result.outputs, actions, self.job.start_tolerance)

    def _stop_if_apart(self, problem: UserError | None, step: int) -> None:
        """Stop on all processes where one of them does not start equal to its reference."""
        if step == 0 and self.job.start_tolerance is not None:
            raise_together(problem, self.accelerator)

    def _count(self, micro: MicroBatch, result: BatchResult, totals: Totals) -> None:
        if micro.counts:
            add_sums(totals, result.sums)
            self.meter.count(*self.job.work(micro.batch))

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the averages over the evaluation data, under an `eval_` prefix."""
        if not self.job.evaluation:
            return {}
        self.policy.eval()
        metrics = evaluate(self.job, self.policy, self.accelerator, step, self._give_up_if_asked, same=self._same(step))
        self.policy.train()
        self._log(step, metrics)
        self.watch.add(step, metrics)
        self.meter.restart()
        return metrics

    def _stop_if_not_finite(self, failed: list[str], step: int, *, clipped: bool = False) -> None:
        stepped = clipped and self.accelerator.distributed_type == DistributedType.DEEPSPEED
        refuse_not_finite(failed, step, lambda: self._keep_weights(stepped=stepped), self.accelerator)

    def _keep_weights(self, *, stepped: bool) -> str:
        """Keep the weights before a step that failed, and say where they are."""
        self.optimizer.zero_grad()
        if stepped:  # DeepSpeed steps within the backward pass: the weights are spoilt by the time anybody looks
            return "DeepSpeed may have taken that step already: go on from the last checkpoint with --resume."
        if not self.job.config.keep_checkpoints:
            return "No checkpoint was written (--keep-checkpoints 0)."
        return f"The weights before it are kept in {self.save()}."

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            epoch = {} if self.per_epoch is None else {"epoch": round(step / self.per_epoch, 6)}
            self.metrics_file.append({"step": step, **epoch, **metrics})
        self.accelerator.log(metrics, step=step)
