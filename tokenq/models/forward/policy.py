"""A policy with its reference: the policy with its adapter off, a frozen copy of its weights, or another model."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenq.core.readout import Logits, Readout, read_out
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.models.forward.packed_lm import PackedLM, is_peft


@dataclass(frozen=True)
class ReferencedPolicy:
    """A policy and the reference that it is read against.

    Attributes:
        policy: the model under study.
        reference: the other model; None for the policy with its adapter switched off.
    """

    policy: PackedLM
    reference: PackedLM | None

    def read(self, batch: PackedBatch, k: int) -> Readout:
        """Return the readout of both models at every target of the batch, with k alternatives each."""
        batch = batch.to(self.policy.device)
        with torch.no_grad():
            own = self.policy.logits(batch)
            if self.reference is None:
                with without_adapter(self.policy.model):
                    other = self.policy.logits(batch)
            else:
                other = self.reference.logits(batch)
            return read_out(own, other, batch.targets, k)


def frozen_model(policy: PackedLM) -> PackedLM:
    """Return a frozen copy of the policy's current weights."""
    model = copy.deepcopy(policy.model).requires_grad_(False)
    model.eval()
    lm = PackedLM(model, policy.way, policy.limit, steps=policy.steps)
    lm.own_attention = policy.own_attention
    return lm


def frozen_copy(policy: PackedLM) -> TokenScorer:
    """Return a scorer with a frozen copy of the policy's current weights."""
    return no_grad(frozen_model(policy))


def logits_of(lm: PackedLM) -> Callable[[PackedBatch], Logits]:
    """Return a function from a batch to the model's logits, without gradients."""

    def logits(batch: PackedBatch) -> Logits:
        with torch.no_grad():
            return lm.logits(batch)

    return logits


def logits_without_adapter(policy: PackedLM) -> Callable[[PackedBatch], Logits]:
    """Return a function from a batch to the logits of the policy with its adapter off."""

    def logits(batch: PackedBatch) -> Logits:
        with torch.no_grad(), without_adapter(policy.model):
            return policy.logits(batch)

    return logits


def adapter_off(policy: PackedLM) -> TokenScorer:
    """Return a scorer with the policy's adapter off.

    Raises:
        UserError: when the policy has no adapter.
    """
    if not is_peft(policy.model):
        raise UserError("The policy has no adapter to switch off.", "Train with --lora-rank, or name a --reference.")

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad(), without_adapter(policy.model):
            logps: Tensor = policy(batch).logps
        return logps

    return score


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switch the adapter of a peft model off for the duration of the block; a bare model is left as it is."""
    if is_peft(model):
        wrapped: Any = model
        with wrapped.disable_adapter():
            yield
    else:
        yield


def no_grad(lm: PackedLM) -> TokenScorer:
    """Return the model as a scorer without gradients."""

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad():
            logps: Tensor = lm(batch).logps
        return logps

    return score
