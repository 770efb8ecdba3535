"""The inputs of a run of the loop, and its summary: plain values, no behaviour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokenq.core.logits import Logits
from tokenq.core.tensors import Batch
from tokenq.listener import SILENCE, Listener
from tokenq.records.examples import Group
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig
from tokenq.training.objective import Objective
from tokenq.training.optim import Exact
from tokenq.training.source import Part, Source, pack_parts
from tokenq.training.stopping import Request


class PolicyFiles(NamedTuple):
    """How the policy, or reward model, becomes a folder that anybody loads, and is read from it again.

    Attributes:
        write: (folder, step, exact, gathered) fills a folder; `gathered` are its weights where they are spread over
            processes, None to take them as they are in memory.
        read: (folder, exact) copies the weights in a folder into those in memory.
        beside: (exact) → trained weights in memory that the folder does not give back, by name.
    """

    write: Callable[[Path, int, Exact, Mapping[str, Tensor] | None], None]
    read: Callable[[Path, Exact], None]
    beside: Callable[[Exact], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Job:
    """Everything that a run of the loop needs.

    Attributes:
        policy: an `nn.Module` that maps a batch to `Outputs`.
        source: gives the examples of every step.
        objective: the loss.
        config: optimisation, logging and checkpoint settings.
        run: where metrics and checkpoints go.
        files: the folders of the policy; None where no checkpoint is written.
        evaluation: held-out examples.
        reference: computes log π_ref of a batch; None where that is the column `ref_logps` of the data, or the loss
            needs none.
        ref_logits: gives the reference's logits, for a loss that reads the whole vocabulary.
        start_tolerance: largest mean |log π − log π_ref| of a response's tokens before the first update that is
            rounding; None when the two models are meant to differ.
        move: (updates done) moves the reference before the next update, where that is due.
        networks: what is trained beside the policy within `policy`, by name: each has groups in the optimiser and a
            limit of the gradient of its own.
        pack: (parts, updates done) → their batch; None instead of a number for an evaluation, which is to be the same
            whenever it is done. The same arguments give the same batch.
        budget: most of `Group.cost` in one micro-batch; None for the configuration's tokens.
        work: (batch) → (tokens, positions with padding) of one forward of the policy.
        counted: what `work` counts, as metrics name it.
        listener: told about progress, and what a signal will do.
        request: where a signal that asks the run to stop is noted.
    """

    policy: nn.Module
    source: Source
    objective: Objective
    config: TrainConfig
    run: RunDir
    files: PolicyFiles | None = None
    evaluation: Sequence[Group] = ()
    reference: Callable[[Any], Tensor] | None = None
    ref_logits: Callable[[Any], Logits] | None = None
    start_tolerance: float | None = None
    move: Callable[[int], None] = lambda step: None
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    pack: Callable[[Sequence[Part], int | None], Batch] = pack_parts
    budget: int | None = None
    work: Callable[[Any], tuple[int, int]] = lambda batch: (len(batch.input_ids), len(batch.input_ids))
    counted: str = "tokens"
    listener: Listener = SILENCE
    request: Request = field(default_factory=Request)

    @property
    def most(self) -> int:
        """Most of `Group.cost` in one micro-batch."""
        return self.config.tokens_per_batch if self.budget is None else self.budget


@dataclass(frozen=True)
class Summary:
    """The end of a run.

    Attributes:
        steps: updates done, those before a resume included.
        before: evaluation before the first update (empty without evaluation data or after a resume).
        after: evaluation after the last update.
        last: metrics of the last update.
        policy: the policy as accelerate has wrapped it.
        best: `metric`, `step` and `value` of the best checkpoint by `--keep-best`, None without one.
    """

    steps: int
    before: dict[str, float]
    after: dict[str, float]
    last: dict[str, float]
    policy: nn.Module
    best: Mapping[str, Any] | None = None
