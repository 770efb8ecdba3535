"""The inputs of a run of the loop, and its summary: plain values, no behaviour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from tokenq.core.logits import Logits
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.listener import SILENCE, Listener
from tokenq.records.examples import TokenGroup
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig
from tokenq.training.objective import Objective
from tokenq.training.source import Source


@dataclass(frozen=True)
class Job:
    """Everything that a run of the loop needs.

    Attributes:
        policy: an `nn.Module` that maps a packed batch to `Outputs`.
        source: gives the examples of every step.
        objective: the loss.
        config: optimisation, logging and checkpoint settings.
        run: where metrics and checkpoints go.
        evaluation: held-out examples.
        reference: computes log π_ref of a batch; None where that is the column `ref_logps` of the data, or the loss
            needs none.
        ref_logits: gives the reference's logits, for a loss that reads the whole vocabulary.
        start_tolerance: largest mean |log π − log π_ref| of a response's tokens before the first update that is
            rounding; None when the two models are meant to differ.
        values: the value network within `policy`: an optimiser group and a limit of the gradient of its own. None
            without one.
        work: (batch) → (tokens, positions with padding) of one forward of the policy.
        listener: told about progress, and what a signal will do.
    """

    policy: nn.Module
    source: Source
    objective: Objective
    config: TrainConfig
    run: RunDir
    evaluation: Sequence[TokenGroup] = ()
    reference: TokenScorer | None = None
    ref_logits: Callable[[PackedBatch], Logits] | None = None
    start_tolerance: float | None = None
    values: nn.Module | None = None
    work: Callable[[PackedBatch], tuple[int, int]] = lambda batch: (len(batch.input_ids), len(batch.input_ids))
    listener: Listener = SILENCE


@dataclass(frozen=True)
class Summary:
    """The end of a run.

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
