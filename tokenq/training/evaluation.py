"""An evaluation within a run: averages over the held-out data, and what each of its responses got."""

import math
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from tokenq.core.packing import pack, plan_pass
from tokenq.listener import Event
from tokenq.training.checks import settled
from tokenq.training.held_out import Kept, write_held_out
from tokenq.training.job import Job, Scored
from tokenq.training.micro import plan, reduced, whole_step
from tokenq.training.objective import add_sums
from tokenq.training.order import cut, examples_of
from tokenq.training.reward_model import correlations

Totals = dict[str, list[float]]


def evaluated(
    job: Job,
    evaluation: Scored,
    policy: nn.Module,
    accelerator: Accelerator,
    step: int,
    heed: Callable[[], None],
    *,
    same: bool = False,
) -> dict[str, float]:
    """Return the averages over the evaluation data under an `eval_` prefix, and write what each response got.

    Args:
        job: the run.
        evaluation: its held-out data.
        policy: as accelerate has prepared it, in evaluation mode.
        accelerator: gathers from all processes.
        step: updates done.
        heed: called after every forward; may give the evaluation up.
        same: whether policy and reference are one function.
    """
    totals: Totals = {}
    kept = Kept([], [])
    if job.objective.loss.coupled:
        rounds = _together(job, evaluation, policy, accelerator, heed, totals, kept)
    else:
        rounds = _one_by_one(job, evaluation, policy, accelerator, heed, totals, kept)
    if accelerator.num_processes > 1:
        kept = Kept(*(accelerator.gather_for_metrics(part, True) for part in kept))
    if accelerator.is_main_process and job.objective.loss.output == "logps":
        write_held_out(job.run, evaluation.groups, job.objective.loss.unit, kept.rows, step)
    means = settled(job.objective.means(reduced(totals, accelerator)), same) | correlations(kept.rated)
    metrics = {f"eval_{name}": value for name, value in means.items()}
    job.listener(Event("eval", rounds, rounds, metrics))
    return metrics


def _one_by_one(
    job: Job,
    evaluation: Scored,
    policy: nn.Module,
    accelerator: Accelerator,
    heed: Callable[[], None],
    totals: Totals,
    kept: Kept,
) -> int:
    """Add the metrics of the evaluation data to `totals`, its responses to `kept`; return in how many forwards."""
    rank, world = accelerator.process_index, accelerator.num_processes
    bins = plan_pass([group.n_tokens for group in evaluation.groups], job.config.tokens_per_batch)
    rounds: int = -(-len(bins) // world)
    for i in range(rounds):
        # Every process takes part in every forward (sharded weights need that); a surplus one is not counted.
        mine = i * world + rank
        places = bins[min(mine, len(bins) - 1)]
        batch = pack([evaluation.groups[p] for p in places], places).to(accelerator.device)
        with torch.no_grad():
            outcome = job.objective(policy, evaluation.reference, batch, evaluation.ref_logits)
        if mine < len(bins):
            add_sums(totals, outcome.sums)
            kept.add(outcome, batch)
        job.listener(Event("eval", i + 1, rounds))
        heed()
    return rounds


def _together(
    job: Job,
    evaluation: Scored,
    policy: nn.Module,
    accelerator: Accelerator,
    heed: Callable[[], None],
    totals: Totals,
    kept: Kept,
) -> int:
    """Do the same for losses that see a step at once: in steps of the training's size, in the data's order."""
    size, groups = job.config.batch_size, evaluation.groups
    examples = examples_of(groups, job.objective.loss.unit)
    rounds = math.ceil(examples.total / size)
    for i in range(rounds):
        parts = cut(np.arange(len(groups)), examples.sizes, i * size, size)
        step_plan = plan(groups, parts, examples, job.config.tokens_per_batch, accelerator)
        whole = whole_step(step_plan, policy, evaluation, job.objective, examples, accelerator)
        if accelerator.is_main_process:
            add_sums(totals, whole.outcome.sums)
            kept.add(whole.outcome, whole.batch)
        job.listener(Event("eval", i + 1, rounds))
        heed()
    return rounds
