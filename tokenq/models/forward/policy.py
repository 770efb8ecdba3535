"""A policy with its reference: the policy with its adapter off, a frozen copy of its weights, or another model."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tokenq.core.logits import Logits
from tokenq.core.readout import Readout, read_logps, read_out
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
        return read_out(*self._logits(batch), batch.targets.to(self.policy.device), k)

    def read_logps(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return the log-probs of both models at every target of the batch, to the bit those of `read`."""
        return read_logps(*self._logits(batch), batch.targets.to(self.policy.device))

    def _logits(self, batch: PackedBatch) -> tuple[Logits, Logits]:
        batch = batch.to(self.policy.device)
        with torch.no_grad():
            own = self.policy.logits(batch)
            if self.reference is not None:
                return own, self.reference.logits(batch)
            with without_adapter(self.policy.model):
                return own, self.policy.logits(batch)


@dataclass(frozen=True)
class MovingReference:
    """A reference that some of the policy is mixed into every so many updates.

    Attributes:
        policy: trained weights of the policy.
        reference: the reference's weights of the same names.
        every: updates between two moves.
        alpha: the policy's share.
    """

    policy: Mapping[str, Tensor]
    reference: Mapping[str, Tensor]
    every: int
    alpha: float

    @torch.no_grad()
    def move(self, step: int) -> None:
        """Set reference ← α · policy + (1 − α) · reference if a move is due after so many updates; arXiv 2404.09656.

        In float32 or better; with α = 1 the reference is the policy, to the last bit.
        """
        if step == 0 or step % self.every:
            return
        for name, own in self.policy.items():
            other = self.reference[name]
            wide = torch.promote_types(other.dtype, torch.float32)
            other.copy_(other.to(wide).lerp(own.to(other.device, wide), self.alpha))


def frozen_model(policy: PackedLM) -> PackedLM:
    """Return a frozen copy of the policy's current weights."""
    model = copy.deepcopy(policy.model).requires_grad_(False)
    model.eval()
    lm = PackedLM(model, policy.way, policy.limit, steps=policy.steps)
    lm.own_attention = policy.own_attention
    return lm


def no_grad(lm: PackedLM, adapter: Literal["on", "off"] = "on") -> TokenScorer:
    """Return the model as a scorer without gradients, its adapter on or off.

    Raises:
        UserError: there is no adapter to switch off.
    """
    if adapter == "off" and not is_peft(lm.model):
        raise UserError("The policy has no adapter to switch off.", "Train with --lora-rank, or name a --reference.")

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad(), _switched(lm, adapter):
            logps: Tensor = lm(batch).logps
        return logps

    return score


def no_grad_with(lm: PackedLM, weights: Mapping[str, Tensor]) -> TokenScorer:
    """Return the model as a scorer without gradients and without dropout, some of its weights exchanged for others.

    Args:
        lm: the model, whose own weights stay as they are.
        weights: the others, by name, as they are when the scorer is called.
    """

    def score(batch: PackedBatch) -> Tensor:
        training = lm.training
        lm.eval()
        with torch.no_grad():
            logps: Tensor = functional_call(lm, dict(weights), (batch,)).logps
        lm.train(training)
        return logps

    return score


def logits_of(lm: PackedLM, adapter: Literal["on", "off"] = "on") -> Callable[[PackedBatch], Logits]:
    """Return a function from a batch to the model's logits without gradients, its adapter (on layers) on or off."""

    def logits(batch: PackedBatch) -> Logits:
        with torch.no_grad(), _switched(lm, adapter):
            return lm.logits(batch)

    return logits


def _switched(lm: PackedLM, adapter: Literal["on", "off"]) -> contextlib.AbstractContextManager[None]:
    return without_adapter(lm.model) if adapter == "off" else contextlib.nullcontext()


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switch the adapter of a peft model off for the duration of the block; a bare model is left as it is."""
    if is_peft(model):
        wrapped: Any = model
        with wrapped.disable_adapter():
            yield
    else:
        yield
