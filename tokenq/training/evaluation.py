"""An evaluation within a run: averages over the held-out data, and what each of its responses got.

Averages in `metrics.jsonl` cannot be paired. `held_out.jsonl` keeps what each response got, and what it had before the
first update, so that two runs can be compared pair by pair without their weights. Responses are told by their tokens.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import nn

from tokenq.core.packing import plan_pass
from tokenq.core.tensors import Actions, Outputs
from tokenq.files import JsonLines, write_json_lines
from tokenq.listener import Event
from tokenq.records.examples import Group
from tokenq.rundir import RunDir
from tokenq.training.checks import without_noise
from tokenq.training.job import Job
from tokenq.training.objective import BatchResult, add_sums
from tokenq.training.source import Offline, Part
from tokenq.training.step import Totals, coupled_step, plan, sum_over_processes

LogpRow = tuple[int, int, float, float | None]
"""(example, place of the response in it, log π, log π_ref or None)."""


class EvaluationRows(NamedTuple):
    """The findings of one process in an evaluation, beside averages.

    Attributes:
        logps: what each response got.
        rated: by attribute (output, rating) of responses, for a reward model.
    """

    logps: list[LogpRow]
    rated: list[Mapping[str, list[list[float]]]]

    def add(self, result: BatchResult, actions: Actions) -> None:
        """Add what a batch gave."""
        self.rated.append(result.rated)
        self.logps.extend(rows_of(result.outputs, actions))


def rows_of(outputs: Outputs, actions: Actions) -> list[LogpRow]:
    """Return Σ_t log π and Σ_t log π_ref over the policy's own tokens of each response of a batch, in nats.

    Outputs of a reward model are no log-probs, and have no rows.
    """
    if outputs.logps is None:
        return []
    logps = actions.pad(outputs.logps).sums().tolist()
    if outputs.ref_logps is None:
        return [(*member, logp, None) for member, logp in zip(actions.members, logps, strict=True)]
    ref_logps = actions.pad(outputs.ref_logps.to(outputs.logps.dtype)).sums().tolist()
    return [(*member, *both) for member, *both in zip(actions.members, logps, ref_logps, strict=True)]


def write_held_out(run: RunDir, groups: Sequence[Group], rows: Sequence[LogpRow], step: int) -> None:
    """Write what every held-out response got, over what an earlier evaluation wrote.

    Log-probs of the start are those of step 0, and afterwards those that the file already holds; None where it was
    lost.

    Args:
        run: where to.
        groups: the evaluation data.
        rows: of every response.
        step: updates done.
    """
    rows = sorted(rows, key=lambda row: row[:2])
    old = JsonLines(run.held_out).read() if step else []
    known = [line["start_logp"] for line in old] if len(old) == len(rows) else [None] * len(rows)
    starts = known if step else [row[2] for row in rows]
    pairs = zip(rows, starts, strict=True)
    write_json_lines(run.held_out, (_line(groups, row, start, step) for row, start in pairs))


def _line(groups: Sequence[Group], row: LogpRow, start: float | None, step: int) -> dict[str, Any]:
    example, place, logp, ref_logp = row
    group = groups[example]
    response = group.responses[place]
    return {
        "step": step,
        "example": example,
        "row": group.where,
        "prompt": _key(group.prompt_bytes()),
        "response": _key(response.content_bytes()),
        "side": response.role if response.role in ("chosen", "rejected") else None,
        "tokens": response.n_actions,
        "logp": logp,
        "start_logp": start,
        "ref_logp": ref_logp,
    }


def _key(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


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
    bins = plan_pass([group.cost for group in groups], job.most)
    rounds: int = -(-len(bins) // world)
    for i in range(rounds):
        # Every process takes part in every forward (sharded weights need that); a surplus one is not counted.
        mine = i * world + rank
        places = bins[min(mine, len(bins) - 1)]
        parts = [Part(groups[p], p, tuple(range(len(groups[p].responses)))) for p in places]
        batch = job.pack(parts, None).to(accelerator.device)
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
        step = plan(parts, lambda some: job.pack(some, None), job.most, accelerator)
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
