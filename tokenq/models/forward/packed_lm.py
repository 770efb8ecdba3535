"""The shared forward: a causal LM of transformers as a scorer of packed batches, as fast as its architecture allows.

Four ways of computing the same log-probs stand in one table, fastest first. Which of them hold for a given model is
not guessed from its name: `tokenq.models.forward.proof` compares each with the model's own forward on unpadded rows,
and the first that agrees is used.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.core.logits import FullLogits, HeadLogits, Logits
from tokenq.core.logps import KEEP_BYTES, Head, Workspace
from tokenq.core.tensors import Outputs, PackedBatch
from tokenq.errors import UserError, reason, unknown_name
from tokenq.models.forward import attention
from tokenq.models.forward.single_rows import beyond, one_by_one, set_attention


class PackedLM(nn.Module):
    """A causal LM that maps a packed batch to the log-probs of its targets.

    Args:
        model: the language model, bare or wrapped by peft.
        way: a key of `WAYS`.
        limit: tokens up to which the way is exact for a row; None where it always is. In a batch with a longer row, all
            rows go through the model by themselves, unpadded.
        steps: whether single steps with kept keys and values say what whole rows say.
    """

    def __init__(self, model: nn.Module, way: str = "plain", limit: int | None = None, *, steps: bool = True) -> None:
        super().__init__()
        if way not in WAYS:
            raise unknown_name("attention", way, WAYS)
        attention.register()
        self.model = model
        self.way, self.limit, self.steps = way, limit, steps
        self.grad_in_place = False
        self.keep_bytes = KEEP_BYTES
        self.workspace = Workspace(reserve=KEEP_BYTES)
        # Where accelerate looks for the layers that FSDP shards one by one.
        self._no_split_modules = self.lm._no_split_modules
        self.own_attention: str | None = self.lm.config._attn_implementation
        set_attention(self.lm, WAYS[way].attention or self.own_attention)

    @property
    def lm(self) -> PreTrainedModel:
        """The transformers model inside any adapter wrapper (adapter layers included)."""
        return bare(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def forward(self, batch: PackedBatch, read: Callable[[Logits], Float[Tensor, " N"]] | None = None) -> Outputs:
        """Return log π of every target of the batch, float32 or better, where the weights are.

        Args:
            batch: the batch, on any device.
            read: reads one more number off the logits of each target.
        """
        batch = batch.to(self.device)
        logits = self.logits(batch)
        logps = logits.logps(batch.targets)
        return Outputs(logps, readouts=None if read is None else read(logits).to(logps.dtype))

    def logits(self, batch: PackedBatch, behind: int = 1) -> Logits:
        """Return the logits at every target's position, computed tile by tile.

        Args:
            batch: the batch, on any device.
            behind: tokens of each row behind the last that is an input: none for texts that are still being written.
        """
        batch = batch.to(self.device)
        if not beyond(batch, self.limit):
            return WAYS[self.way].compute(self, batch)
        head = None if self.way == "full" else self.head()
        if head is None:
            return FullLogits(one_by_one(self.lm, batch, self.own_attention, "logits", behind))
        states = one_by_one(self.lm.base_model, batch, self.own_attention, "last_hidden_state", behind)
        return HeadLogits(states, head)

    def states(self, batch: PackedBatch) -> Float[Tensor, "N H"]:
        """Return the hidden state at every target's position, for a head of another kind, where the weights are.

        All tokens of a row are inputs.
        """
        batch = batch.to(self.device)
        if beyond(batch, self.limit):
            return one_by_one(self.lm.base_model, batch, self.own_attention, "last_hidden_state", 0)
        return WAYS[self.way].states(self.lm.base_model, batch)[batch.predictors]

    def work(self, batch: PackedBatch) -> tuple[int, int]:
        """Return how many tokens, and positions with padding, a forward of this batch computes."""
        if WAYS[self.way].shares_prompts:
            return len(batch.input_ids), len(batch.input_ids)
        rows = _padded_rows(batch)
        return int(rows.attention_mask.sum()), rows.attention_mask.numel()

    def head(self) -> Head | None:
        """Return the output projection, or None when it is more than a linear layer."""
        projection: Any = self.lm.get_output_embeddings()
        if type(projection) is not nn.Linear:
            return None
        softcap = self._softcap
        sink = _grad_buffer(projection.weight) if self.grad_in_place and torch.is_grad_enabled() else None
        return Head(projection.weight, projection.bias, softcap, sink, self.keep_bytes, self.workspace)

    @cached_property
    def _softcap(self) -> float | None:
        softcap: float | None = self.lm.config.get_text_config().to_dict().get("final_logit_softcapping")
        return softcap

    def accumulate_in_place(self) -> None:
        """Add the gradients of head and embeddings to `.grad` directly, without a buffer of vocabulary size each time.

        The gradient is the same. Only for one process without gradient hooks and with one compute type: nobody else
        is told when this gradient arrives.
        """
        projection: Any = self.lm.get_output_embeddings()
        embeddings: Any = self.lm.get_input_embeddings()
        if type(projection) is not nn.Linear or not projection.weight.requires_grad:
            return
        self.grad_in_place = True
        if isinstance(embeddings, nn.Embedding) and embeddings.weight is projection.weight:
            # Tied: the head has made the dense buffer by the time that the rows of the embedding are added to it.
            embeddings.sparse = True

    def release(self) -> nn.Module:
        """Restore the model's own attention and return the model."""
        set_attention(self.lm, self.own_attention)
        return self.model

    @contextlib.contextmanager
    def own_attention_restored(self) -> Iterator[nn.Module]:
        """Restore the model's own attention inside the block, and yield the model."""
        usual: str | None = self.lm.config._attn_implementation
        try:
            yield self.release()
        finally:
            set_attention(self.lm, usual)


def is_peft(model: nn.Module) -> bool:
    """Return whether `model` is wrapped by peft, without importing peft."""
    peft: Any = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def bare(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a peft wrapper (its adapter layers stay in place), or the model itself."""
    wrapped: Any = model
    inner = wrapped.get_base_model() if is_peft(model) else model
    if not isinstance(inner, PreTrainedModel):
        raise UserError(f"{type(inner).__name__} is no transformers model.", "Load it through transformers.")
    return inner


def _grad_buffer(weight: Tensor) -> Tensor:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _packed_states(body: nn.Module, batch: PackedBatch) -> Tensor:
    output = body(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        use_cache=False,
        tokenq_layout=attention.Layout.of(batch),
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def _plain_states(body: nn.Module, batch: PackedBatch) -> Tensor:
    rows = _padded_rows(batch)
    output = _asked(body, rows)
    states: Tensor = output.last_hidden_state.flatten(0, 1)[rows.places]
    return states


def _by_states(lm: PackedLM, batch: PackedBatch) -> Logits:
    return _project(lm, WAYS[lm.way].states(lm.lm.base_model, batch), batch)


def _full(lm: PackedLM, batch: PackedBatch) -> Logits:
    rows = _padded_rows(batch)
    logits = _asked(lm.lm, rows).logits
    return FullLogits(logits.flatten(0, 1)[rows.places[batch.predictors]])


def _asked(model: nn.Module, rows: "PaddedRows") -> Any:
    """Run a model on padded rows; some types take certain lengths only."""
    try:
        return model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False)
    except ValueError as problem:
        said = f"{type(model).__name__} refuses rows of {rows.input_ids.shape[1]} tokens: {reason(problem)}"
        raise UserError(said, "What it takes is said in the documentation of its type in transformers.") from problem


def _project(lm: PackedLM, hidden: Tensor, batch: PackedBatch) -> Logits:
    """Return the logits of the targets' positions from the states [T, H] of the flat row."""
    head = lm.head()
    if head is None:
        raise UserError("The output layer is not a linear layer.", "Use --attention full.")
    return HeadLogits(hidden[batch.predictors], head)


@dataclass(frozen=True)
class PaddedRows:
    """Ordinary right-padded rows, one per response, for models that cannot share prompts.

    Attributes:
        input_ids: [R, L].
        attention_mask: [R, L], 1 = token.
        places: [T] index into the flattened rows of every token of the packed row (of the prompt's tokens, in the
            first of its rows).
    """

    input_ids: Tensor
    attention_mask: Tensor
    places: Tensor


def _padded_rows(batch: PackedBatch) -> PaddedRows:
    """Return the packed batch as ordinary rows: [prompt | response] for each response."""
    # A prompt whose first response has one token is a run of its own: other rows hold it, where there are any.
    prompts = {(s.prefix_start, s.prefix_stop) for s in batch.segments}
    rows = [s for s in batch.segments if (s.start, s.stop) not in prompts]
    spans = [torch.arange(s.prefix_start, s.prefix_stop).tolist() + list(range(s.start, s.stop)) for s in rows]
    longest = max(map(len, spans))
    index = np.zeros((len(spans), longest), dtype=np.int64)
    mask = np.zeros_like(index)
    places = np.zeros(len(batch.input_ids), dtype=np.int64)
    for r in range(len(spans) - 1, -1, -1):
        index[r, : len(spans[r])] = spans[r]
        mask[r, : len(spans[r])] = 1
        places[spans[r]] = r * longest + np.arange(len(spans[r]))
    device = batch.input_ids.device
    attention_mask = torch.from_numpy(mask).to(device)
    input_ids = batch.input_ids[torch.from_numpy(index).to(device)] * attention_mask
    return PaddedRows(input_ids, attention_mask, torch.from_numpy(places).to(device))


@dataclass(frozen=True)
class Way:
    """One way to compute logits.

    Attributes:
        compute: (model, batch) → logits at the position of every target.
        states: (model without its head, batch) → states [T, H] of the flat row.
        attention: name of the attention function it needs; None for the model's own.
        shares_prompts: whether a prompt is computed once for all its responses (else rows are padded).
    """

    compute: Callable[[PackedLM, PackedBatch], Logits]
    states: Callable[[nn.Module, PackedBatch], Tensor]
    attention: str | None
    shares_prompts: bool


WAYS: dict[str, Way] = {
    "flex": Way(_by_states, _packed_states, attention.FLEX, shares_prompts=True),
    "segments": Way(_by_states, _packed_states, attention.SEGMENTS, shares_prompts=True),
    "plain": Way(_by_states, _plain_states, None, shares_prompts=False),
    "full": Way(_full, _plain_states, None, shares_prompts=False),
}
"""flex: one block-sparse kernel. segments: one SDPA call per run. plain: padded rows, response-only head. full: padded
rows and the model's own logits, the slow truth that holds for every causal LM."""
