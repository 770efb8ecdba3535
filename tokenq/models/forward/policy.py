"""The policy with its reference: the policy with its adapter off, a frozen copy of its live weights, another model."""

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
        """Return what both models say at every target of the batch, with k alternatives each."""
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
    """Return the policy as it is now: a copy of the live weights, never a second load from a path."""
    model = copy.deepcopy(policy.model).requires_grad_(False)
    model.eval()
    lm = PackedLM(model, policy.way, policy.limit, steps=policy.steps)
    lm.own_attention = policy.own_attention
    return lm


def frozen_copy(policy: PackedLM) -> TokenScorer:
    """Return what scores with the policy as it is now."""
    return no_grad(frozen_model(policy))


def logits_of(lm: PackedLM) -> Callable[[PackedBatch], Logits]:
    """Return what gives a model's logits, without a graph."""

    def logits(batch: PackedBatch) -> Logits:
        with torch.no_grad():
            return lm.logits(batch)

    return logits


def logits_without_adapter(policy: PackedLM) -> Callable[[PackedBatch], Logits]:
    """Return what gives the logits of the base below the policy's adapter (which leaves the head as it is)."""

    def logits(batch: PackedBatch) -> Logits:
        with torch.no_grad(), without_adapter(policy.model):
            return policy.logits(batch)

    return logits


def adapter_off(policy: PackedLM) -> TokenScorer:
    """Return the base below the policy's adapter, computed with the policy's own weights.

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
    """Return the model as a scorer that records no graph."""

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad():
            logps: Tensor = lm(batch).logps
        return logps

    return score
