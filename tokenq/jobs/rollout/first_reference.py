"""The first reference of an online run: the model that KL is measured from, and whose log-probs its losses read."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import nn

from tokenq.core.tensors import TokenScorer
from tokenq.jobs.training.opening import OpenRun
from tokenq.jobs.training.reference import START_TOLERANCE, autocast, compute_dtype, find_reference
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import frozen_model, no_grad, without_adapter
from tokenq.models.identity import ModelIdentity, identify
from tokenq.rollout.config import OnlineConfig


@dataclass(frozen=True)
class FirstReference:
    """The reference that a run begins with; it stays in memory.

    Attributes:
        identity: which model it is.
        scorer: log π_ref of a batch.
        lm: the model: another one, a frozen copy of the policy, or the policy itself below its adapter.
        prepared: a block in which `lm` is the reference.
        tolerance: see `Job.start_tolerance`.
    """

    identity: ModelIdentity
    scorer: TokenScorer
    lm: PackedLM
    prepared: Callable[[], AbstractContextManager[None]]
    tolerance: float | None


def first_reference(
    run: OpenRun[OnlineConfig], policy: PackedLM, identity: ModelIdentity, tokenizer: Any
) -> FirstReference:
    """Return the reference that a run asks for, else the policy as it is now.

    Raises:
        UserError: it cannot be loaded, or reads token ids otherwise than the policy's tokenizer wrote them.
    """
    config, accelerator = run.config, run.accelerator
    if config.reference is not None:
        found = find_reference(run, policy, identity, tokenizer)
        assert found.model is not None  # it is named
        assert found.online is not None
        assert found.identity is not None
        prepared = partial(written_in, accelerator)
        return FirstReference(found.identity, found.online, found.model, prepared, found.tolerance)
    tolerance = START_TOLERANCE[compute_dtype(policy, config)] if config.lora_dropout == 0 else None
    if config.lora_rank:
        below = identify(policy.model, config.model, adapter="off")
        scorer = autocast(no_grad(policy, "off"), accelerator)
        return FirstReference(below, scorer, policy, partial(_below, policy, accelerator), tolerance)
    frozen = frozen_model(policy)
    run.listener.say("reference: a frozen copy of the policy stays in memory")
    scorer = autocast(no_grad(frozen), accelerator)
    return FirstReference(identity, scorer, frozen, partial(written_in, accelerator), tolerance)


@contextlib.contextmanager
def written_in(accelerator: Accelerator, policy: nn.Module | None = None) -> Iterator[None]:
    """Compute in the precision of the training inside the block, the policy in evaluation mode."""
    training = policy is not None and policy.training
    if policy is not None:
        policy.eval()
    try:
        with accelerator.autocast():
            yield
    finally:
        if policy is not None:
            policy.train(training)


@contextlib.contextmanager
def _below(policy: PackedLM, accelerator: Accelerator) -> Iterator[None]:
    with written_in(accelerator, policy), without_adapter(policy.model):
        yield
