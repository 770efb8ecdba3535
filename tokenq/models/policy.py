"""The policy with its reference, however the reference is kept.

Four ways, one type: the reference's log-probs from the store (no second model in memory), the policy with its adapter
switched off, a frozen copy of the policy's live weights, or another model.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.models.forward import PackedLM, is_peft


@dataclass(frozen=True)
class ReferencedPolicy:
    """A policy and what its log-probs are compared with.

    Attributes:
        policy: the model under training or under study.
        reference: gives log π_ref for the same batches.
        same_start: whether reference and policy are the same function before the first update, so that all rewards
            are 0 and the DPO loss is ln 2.
    """

    policy: PackedLM
    reference: TokenScorer
    same_start: bool


def frozen_copy(policy: PackedLM) -> TokenScorer:
    """Return the policy as it is now: a copy of the live weights, never a second load from a path."""
    model = copy.deepcopy(policy.model).requires_grad_(False)
    model.eval()
    lm = PackedLM(model, policy.way)
    lm.own_attention = policy.own_attention
    return no_grad(lm)


def adapter_off(policy: PackedLM) -> TokenScorer:
    """Return the base below the policy's adapter, computed with the policy's own weights.

    Raises:
        UserError: when the policy has no adapter.
    """
    if not is_peft(policy.model):
        raise UserError("The policy has no adapter to switch off.", "Train with --lora-rank, or name a --reference.")

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad(), without_adapter(policy.model):
            logps: Tensor = policy(batch)
        return logps

    return score


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switch the adapter of a peft model off for the duration of the block; a bare model is left as it is."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield
    else:
        yield


def no_grad(lm: PackedLM) -> TokenScorer:
    """Return the model as a scorer that records no graph."""

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad():
            logps: Tensor = lm(batch)
        return logps

    return score
