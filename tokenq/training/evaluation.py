"""An evaluation within a run: averages over the held-out data, and what each of its responses got."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import nn

from tokenq.core.packing import pack, plan_pass
from tokenq.listener import Event
from tokenq.training.checks import without_noise
from tokenq.training.held_out import EvaluationRows, write_held_out
from tokenq.training.job import Job
from tokenq.training.objective import add_sums
from tokenq.training.source import Offline
from tokenq.training.step import Totals, coupled_step, plan, sum_over_processes


def evaluate(
    job: Job, policy: nn.Module, accelerator: Accelerator, step: int, heed: Callable[[], None], *, same: bool = False
) -> dict[str, float]:
    """Return the averages over the evaluation data under an `eval_` prefix, and write what each response got.

    Args:
        job: the run.
        policy: as accelerate has prepared it, in evaluation mode.
        accelerator: gathers from all processes.
        step: updates done.
        heed: called after every forward; may give the evaluation up.
        same: whether policy and reference are one function.
    """
    totals: Totals = {}
    rows = EvaluationRows([], [])
    run = _together if job.objective.loss.coupled else _one_by_one
    rounds = run(job, policy, accelerator, heed, totals, rows)
    if accelerator.num_processes > 1:
        rows = EvaluationRows(*(accelerator.gather_for_metrics(part, True) for part in rows))
    if accelerator.is_main_process and job.objective.loss.output == "logps":
        write_held_out(job.run, job.evaluation, rows.logps, step)
    means = without_noise(job.objective.means(sum_over_processes(totals, accelerator)), same) | correlations(rows.rated)
    metrics = {f"eval_{name}": value for name, value in means.items()}
    job.listener(Event("eval", rounds, rounds, metrics))
    return metrics


def _one_by_one(
    job: Job,
    policy: nn.Module,
    accelerator: Accelerator,
    heed: Callable[[], None],
    totals: Totals,
    rows: EvaluationRows,
) -> int:
    """Add the metrics of the evaluation data to `totals`, its responses to `rows`; return in how many forwards."""
    rank, world, groups = accelerator.process_index, accelerator.num_processes, job.evaluation
    bins = plan_pass([group.n_tokens for group in groups], job.config.tokens_per_batch)
    rounds: int = -(-len(bins) // world)
    for i in range(rounds):
        # Every process takes part in every forward (sharded weights need that); a surplus one is not counted.
        mine = i * world + rank
        places = bins[min(mine, len(bins) - 1)]
        batch = pack([groups[p] for p in places], places).to(accelerator.device)
        with torch.no_grad():
            result = job.objective(policy, job.reference, batch, job.ref_logits)
        if mine < len(bins):
            add_sums(totals, result.sums)
            rows.add(result, batch.actions)
        job.listener(Event("eval", i + 1, rounds))
        heed()
    return rounds


def _together(
    job: Job,
    policy: nn.Module,
    accelerator: Accelerator,
    heed: Callable[[], None],
    totals: Totals,
    rows: EvaluationRows,
) -> int:
    """Do the same for losses that see a step at once: in steps of the training's size, in the data's order."""
    objective, config = job.objective, job.config
    steps = Offline(job.evaluation, objective.loss.unit, config.batch_size, config.seed).in_order()
    for i, parts in enumerate(steps):
        step = plan(parts, config.tokens_per_batch, accelerator)
        score = partial(objective.score, policy, job.reference, ref_logits=job.ref_logits)
        whole = coupled_step(step, score, objective, accelerator)
        if accelerator.is_main_process:
            add_sums(totals, whole.result.sums)
            rows.add(whole.result, whole.actions)
        job.listener(Event("eval", i + 1, len(steps)))
        heed()
    return len(steps)


def correlations(parts: Iterable[Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation of outputs and ratings for every attribute.

    Args:
        parts: attribute → (output, rating) of responses, as several batches or processes have them.

    Returns:
        `pearson/NAME` and `spearman/NAME`, NaN where either side is constant or there are fewer than two responses.
    """
    together: dict[str, list[Sequence[float]]] = {}
    for part in parts:
        for name, rows in part.items():
            together.setdefault(name, []).extend(rows)
    found: dict[str, float] = {}
    for name, rows in together.items():
        outputs, ratings = np.asarray(rows, np.float64).reshape(-1, 2).T
        varied = len(rows) > 1 and np.ptp(outputs) > 0 and np.ptp(ratings) > 0
        found[f"pearson/{name}"] = float(stats.pearsonr(outputs, ratings).statistic) if varied else float("nan")
        found[f"spearman/{name}"] = float(stats.spearmanr(outputs, ratings).statistic) if varied else float("nan")
    return found
