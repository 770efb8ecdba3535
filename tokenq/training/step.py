"""A step in parts: micro-batches of bounded size over processes, and losses that must see the whole step at once.

A loss whose values depend on the other examples of the step (`coupled`) sees all log-probs of the step together, on
every process; their gradients then go back through a second forward of each micro-batch. So neither the size of a
micro-batch nor the number of processes changes the result, as for any other loss; the price is one more forward, which
a step of a single micro-batch does not pay.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tokenq.core.packing import plan_step
from tokenq.core.tensors import Actions, Batch, Outputs
from tokenq.errors import UserError
from tokenq.training.checks import together
from tokenq.training.objective import BatchResult, Objective
from tokenq.training.source import Part, Source

Totals = dict[str, list[float]]
"""Metric name → [sum, count]."""

Pack = Callable[[Sequence[Part]], Batch]
"""Makes a batch of parts of the data."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, and whether it counts (0 for one that only keeps a process busy in collective calls)."""

    batch: Batch
    counts: int


@dataclass(frozen=True)
class Step:
    """A step as one process sees it.

    Attributes:
        own: its micro-batches.
        bins: [process][micro-batch] → what each holds; empty where a process is only kept busy.
        pack: makes a batch of what one holds.
    """

    own: tuple[MicroBatch, ...]
    bins: tuple[tuple[tuple[Part, ...], ...], ...]
    pack: Pack

    @property
    def has_several(self) -> bool:
        """Whether the step is more than one micro-batch."""
        return sum(map(len, self.bins)) > 1


def examples(source: Source, number: int, accelerator: Accelerator, keep: Callable[[], str]) -> list[Part]:
    """Return the examples of an update; a stream that fails stops the run.

    Args:
        source: gives them.
        number: of the update.
        accelerator: tells of the other processes, each of which reads a stream for itself.
        keep: keeps what was done, and says how.

    Raises:
        UserError: the stream fails, has ended, or has a bad row.
    """
    if source.per_epoch is not None:
        return source.step(number)
    try:
        return together(partial(source.step, number), accelerator)
    except UserError as error:
        raise UserError(f"{error.message} {keep()}", error.hint) from error


def plan(parts: Sequence[Part], pack: Pack, budget: int, accelerator: Accelerator) -> Step:
    """Return the step over parts of the data, as this process sees it.

    Args:
        parts: what the step holds.
        pack: makes a batch of some of them.
        budget: most of their cost in one micro-batch.
        accelerator: says how many processes share the step, and where this one computes.
    """
    found = plan_step([part.group.cost for part in parts], budget, accelerator.num_processes)
    bins = tuple(tuple(tuple(parts[i] for i in bin_) for bin_ in process) for process in found)
    own = []
    for bin_ in bins[accelerator.process_index]:
        batch = pack(list(bin_) or [parts[0]]).to(accelerator.device)
        own.append(MicroBatch(batch, counts=1 if bin_ else 0))
    return Step(tuple(own), bins, pack)


@dataclass(frozen=True)
class CoupledStep:
    """A step whose losses were computed together.

    Attributes:
        actions: all examples of the step.
        result: losses and metrics of the whole step.
        outputs: what the losses were computed from, as leaves.
        sizes: actions of each micro-batch of this process that count.
        start: where those stand among the step's.
    """

    actions: Actions
    result: BatchResult
    outputs: Outputs
    sizes: tuple[int, ...]
    start: int

    def slopes(self) -> list[dict[str, Tensor]]:
        """Return, for each counting micro-batch, the gradient at each of its outputs that has one."""
        own = slice(self.start, self.start + sum(self.sizes))
        grads = {name: leaf.grad for name, leaf in self.outputs.given().items()}
        parts = {name: torch.split(grad[own], list(self.sizes)) for name, grad in grads.items() if grad is not None}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(self.sizes))]


def share_of(outputs: Outputs, slopes: Mapping[str, Tensor]) -> Tensor:
    """Return a number with these gradients at these outputs.

    What has no gradient counts 0 times: every network is to be heard of by processes that wait for all of them.
    """
    given = outputs.given()
    products = [(given[name] * slope).sum() for name, slope in slopes.items()]
    products += [(one * one.new_zeros(1)).sum() for name, one in given.items() if name not in slopes]
    return sum(products[1:], products[0])


def coupled_step(
    step: Step, score: Callable[[Any], Outputs], objective: Objective, accelerator: Accelerator
) -> CoupledStep:
    """Return the losses of a whole step, computed together from a forward without a graph.

    Args:
        step: the step.
        score: gives what the models say of a batch.
        objective: the losses.
        accelerator: gathers from all processes.
    """
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):  # the second forward draws the same dropout
        outputs = [score(micro.batch) for micro in step.own]
    return judge_step(step, outputs, objective, accelerator)


def sum_over_processes(totals: Totals, accelerator: Accelerator) -> Totals:
    """Return the totals of all processes added up."""
    if accelerator.num_processes == 1:
        return totals
    names = sorted({name for part in accelerator.gather_for_metrics([list(totals)], True) for name in part})
    table = torch.tensor([totals.get(name, [0.0, 0.0]) for name in names], dtype=torch.float64)
    summed: Tensor = accelerator.reduce(table.to(accelerator.device), "sum")
    return dict(zip(names, summed.tolist(), strict=True))


def judge_step(step: Step, outputs: Sequence[Outputs], objective: Objective, accelerator: Accelerator) -> CoupledStep:
    """Return the losses of a whole step from what the models say of its micro-batches.

    Args:
        step: the step.
        outputs: of this process's micro-batches, without a graph.
        objective: the losses.
        accelerator: gathers from all processes.
    """
    actions = step.pack([part for process in step.bins for bin_ in process for part in bin_]).actions
    actions = actions.to(accelerator.device)
    counted = [one.given() for one, micro in zip(outputs, step.own, strict=True) if micro.counts]
    first = outputs[0].given()
    dtype = next(iter(first.values())).dtype
    rows = [torch.cat([one[name].to(dtype) for one in counted] or [first[name][:0]]) for name in first]
    sizes = [_actions_in(part for bin_ in process for part in bin_) for process in step.bins]
    together = dict(zip(first, _gathered(torch.stack(rows), sizes, accelerator), strict=True))
    leaves = {name: value.detach().requires_grad_(name != "ref_logps") for name, value in together.items()}
    whole = Outputs(**leaves)
    with torch.enable_grad():
        result = objective.judge(whole, actions)
    start = sum(sizes[: accelerator.process_index])
    return CoupledStep(actions, result, whole, tuple(len(one["logps"]) for one in counted), start)


def step_weights(step: Step, objective: Objective, accelerator: Accelerator) -> list[float]:
    """Return the weight of the whole step in each loss."""
    rows = [[float(w) for w in objective.weights(micro.batch.actions)] for micro in step.own if micro.counts]
    sums = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(objective.loss.terms)).sum(0)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum")
    weights: list[float] = sums.tolist()
    return weights


def _actions_in(parts: Iterable[Part]) -> int:
    return sum(response.n_actions for part in parts for response in part.group.responses)


def _gathered(rows: Tensor, sizes: Sequence[int], accelerator: Accelerator) -> Tensor:
    """Return the rows [k, n] of all processes side by side, given how long those of each are."""
    if accelerator.num_processes == 1:
        return rows
    padded = torch.nn.functional.pad(rows, (0, max(sizes) - rows.shape[1]))
    found: Any = accelerator.gather(padded[None])
    return torch.cat([part[:, :size] for part, size in zip(found, sizes, strict=True)], 1)
