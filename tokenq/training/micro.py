"""A step in parts: micro-batches of bounded size over processes, and losses that must see the whole step at once.

A loss whose values depend on the other examples of the step (`coupled`) sees all log-probs of the step together, on
every process; their gradients then go back through a second forward of each micro-batch. So neither the size of a
micro-batch nor the number of processes changes the result, as for any other loss; the price is one more forward, which
a step of a single micro-batch does not pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenq.core.packing import pack, plan_step
from tokenq.core.tensors import PackedBatch
from tokenq.records import TokenGroup
from tokenq.training.job import Scored
from tokenq.training.objective import Objective, Outcome, Scores
from tokenq.training.order import Examples, Part, taken
from tokenq.training.reward_model import RewardObjective


@dataclass(frozen=True)
class Micro:
    """A micro-batch, and whether it counts (0 for one that only keeps a process busy in collective calls)."""

    batch: PackedBatch
    counts: int


@dataclass(frozen=True)
class Step:
    """A step as one process sees it.

    Attributes:
        own: its micro-batches.
        bins: [process][micro-batch] → what each holds; empty where a process is only kept busy.
    """

    own: tuple[Micro, ...]
    bins: tuple[tuple[tuple[Part, ...], ...], ...]

    @property
    def parted(self) -> bool:
        """Whether the step is more than one micro-batch."""
        return sum(map(len, self.bins)) > 1


def plan(
    groups: Sequence[TokenGroup], parts: Sequence[Part], examples: Examples, budget: int, accelerator: Accelerator
) -> Step:
    """Return the step over `parts` of the data, as this process sees it.

    Args:
        groups: the data.
        parts: what the step holds.
        examples: what the loss counts in the data.
        budget: most tokens in one micro-batch.
        accelerator: says how many processes share the step, and where this one computes.
    """
    lengths = [taken(groups, part, examples)[0].n_tokens for part in parts]
    found = plan_step(lengths, budget, accelerator.num_processes)
    bins = tuple(tuple(tuple(parts[i] for i in bin_) for bin_ in process) for process in found)
    own = []
    for bin_ in bins[accelerator.process_index]:
        batch = packed(groups, list(bin_) or [parts[0]], examples).to(accelerator.device)
        own.append(Micro(batch, counts=1 if bin_ else 0))
    return Step(tuple(own), bins)


def packed(groups: Sequence[TokenGroup], parts: Sequence[Part], examples: Examples) -> PackedBatch:
    """Return parts of the data as one batch, whose members point into the whole groups."""
    held = [taken(groups, part, examples) for part in parts]
    return pack([group for group, _ in held], [part.place for part in parts], [which for _, which in held])


@dataclass(frozen=True)
class Whole:
    """A step whose losses were computed together.

    Attributes:
        batch: all examples of the step.
        outcome: losses and metrics of the whole step.
        scores: the log-probs that they were computed from, as leaves.
        sizes: targets of each micro-batch of this process that count.
        start: where those stand among the step's.
    """

    batch: PackedBatch
    outcome: Outcome
    scores: Scores
    sizes: tuple[int, ...]
    start: int

    def slopes(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return, for each counting micro-batch, the gradient at its log-probs and at what was read besides."""
        own = slice(self.start, self.start + sum(self.sizes))

        def split(leaf: Tensor | None) -> list[Tensor] | list[None]:
            if leaf is None or leaf.grad is None:
                return [None] * len(self.sizes)
            return list(torch.split(leaf.grad[own], list(self.sizes)))

        logps, read = split(self.scores.logps), split(self.scores.read)
        zeros = self.scores.logps.new_zeros(1)
        return [(zeros if one is None else one, other) for one, other in zip(logps, read, strict=True)]


def whole_step(
    step: Step,
    policy: nn.Module,
    data: Scored,
    objective: Objective | RewardObjective,
    examples: Examples,
    accelerator: Accelerator,
) -> Whole:
    """Return the losses of a whole step, computed together from a forward without a graph.

    Args:
        step: the step.
        policy: scores a batch.
        data: what the step was taken from.
        objective: the losses.
        examples: what the loss counts in the data.
        accelerator: gathers from all processes.
    """
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):  # the second forward draws the same dropout
        scores = [objective.score(policy, data.reference, micro.batch, data.ref_logits) for micro in step.own]
    return judge_whole(step, scores, objective, data.groups, examples, accelerator)


def reduced(totals: dict[str, list[float]], accelerator: Accelerator) -> dict[str, list[float]]:
    """Return the totals of all processes added up."""
    if accelerator.num_processes == 1:
        return totals
    names = sorted({name for part in accelerator.gather_for_metrics([list(totals)], True) for name in part})
    table = torch.tensor([totals.get(name, [0.0, 0.0]) for name in names], dtype=torch.float64)
    summed: Tensor = accelerator.reduce(table.to(accelerator.device), "sum")
    return dict(zip(names, summed.tolist(), strict=True))


def judge_whole(
    step: Step,
    scores: Sequence[Scores],
    objective: Objective | RewardObjective,
    groups: Sequence[TokenGroup],
    examples: Examples,
    accelerator: Accelerator,
) -> Whole:
    """Return the losses of a whole step from what the models say of its micro-batches.

    Args:
        step: the step.
        scores: of this process's micro-batches, without a graph.
        objective: the losses.
        groups: the data.
        examples: what the loss counts in it.
        accelerator: gathers from all processes.
    """
    parts = [part for process in step.bins for bin_ in process for part in bin_]
    batch = packed(groups, parts, examples).to(accelerator.device)
    counted = [one for one, micro in zip(scores, step.own, strict=True) if micro.counts]
    held = [name for name in ("logps", "ref_logps", "read") if getattr(scores[0], name) is not None]
    dtype = scores[0].logps.dtype
    rows = [torch.cat([getattr(one, name).to(dtype) for one in counted] or [scores[0].logps[:0]]) for name in held]
    sizes = [_targets(groups, [part for bin_ in process for part in bin_], examples) for process in step.bins]
    together = dict(zip(held, _gathered(torch.stack(rows), sizes, accelerator), strict=True))
    leaves = {name: together[name].detach().requires_grad_() for name in ("logps", "read") if name in together}
    whole = Scores(leaves["logps"], together.get("ref_logps"), leaves.get("read"))
    with torch.enable_grad():
        outcome = objective.judge(whole, batch)
    start = sum(sizes[: accelerator.process_index])
    return Whole(batch, outcome, whole, tuple(len(one.logps) for one in counted), start)


def _targets(groups: Sequence[TokenGroup], parts: Sequence[Part], examples: Examples) -> int:
    held = (taken(groups, part, examples)[0] for part in parts)
    return sum(int(response.mask.sum()) for group in held for response in group.responses)


def _gathered(rows: Tensor, sizes: Sequence[int], accelerator: Accelerator) -> Tensor:
    """Return the rows [k, n] of all processes side by side, given how long those of each are."""
    if accelerator.num_processes == 1:
        return rows
    padded = torch.nn.functional.pad(rows, (0, max(sizes) - rows.shape[1]))
    found: Any = accelerator.gather(padded[None])
    return torch.cat([part[:, :size] for part, size in zip(found, sizes, strict=True)], 1)
