"""A sequence classifier on packed batches: its head is read at every target."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.core.packing import at_own_state, every_token, pack
from tokenq.core.tensors import Outputs, PackedBatch
from tokenq.errors import UserError, unknown_name
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.proof import Proof
from tokenq.records.examples import TokenGroup


class RewardLM(nn.Module):
    """A classifier that maps a packed batch to the outputs of its head at every target.

    Args:
        packed: the classifier behind a way of batching, as `fastest_exact` with the proof `REWARDS` gives it.
    """

    def __init__(self, packed: PackedLM) -> None:
        super().__init__()
        self.packed = packed
        # Where accelerate looks for the layers that FSDP shards one by one.
        self._no_split_modules = packed._no_split_modules

    def forward(self, batch: PackedBatch) -> Outputs:
        """Return the outputs at every target of the batch as rewards, float32 or better."""
        return Outputs(rewards=_outputs(self.packed, batch))

    @property
    def model(self) -> nn.Module:
        """The classifier, bare or wrapped by peft."""
        return self.packed.model

    @property
    def way(self) -> str:
        """The way of batching in use."""
        return self.packed.way

    @property
    def limit(self) -> int | None:
        """The row length up to which that way is exact."""
        return self.packed.limit

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.packed.device

    @property
    def attributes(self) -> list[str]:
        """The names of the outputs."""
        return outputs_of(self.packed.lm)

    def work(self, batch: PackedBatch) -> tuple[int, int]:
        """Return how many tokens, and positions with padding, a forward of this batch computes."""
        return self.packed.work(batch)

    def release(self) -> nn.Module:
        """Restore the classifier's own attention and return it."""
        return self.packed.release()

    def own_attention_restored(self) -> AbstractContextManager[nn.Module]:
        """Restore the classifier's own attention inside the block, and yield the classifier."""
        return self.packed.own_attention_restored()


def outputs_of(model: PreTrainedModel) -> list[str]:
    """Return the names of a classifier's outputs, in their order."""
    return [str(model.config.id2label[number]) for number in range(model.config.num_labels)]


def output_weights(names: Sequence[str], weights: Mapping[str, str | float] | None, path: str) -> tuple[float, ...]:
    """Return the weight of each output of a reward model in its reward.

    Args:
        names: the outputs.
        weights: by name; an output that is not named weighs nothing. None or none: only one output needs no weight.
        path: of the model, for errors.

    Raises:
        UserError: several outputs and no weights, an output that the model does not have, a weight that is no number.
    """
    if not weights:
        if len(names) == 1:
            return (1.0,)
        example = " ".join(f"{name}=1" for name in names[:2])
        raise UserError(
            f"{path} has {len(names)} outputs ({', '.join(names)}), and one number is needed.",
            f"Weigh them: --reward-weights {example}. HelpSteer2's: helpfulness=0.65 correctness=0.8 coherence=0.45.",
        )
    found = dict.fromkeys(names, 0.0)
    for name, weight in weights.items():
        if name not in found:
            raise unknown_name(f"output of {path}", name, names)
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise UserError(f"--reward-weights {name}={weight}: that is no number.", "Give a number.")
    return tuple(found.values())


def _outputs(packed: PackedLM, batch: PackedBatch) -> Tensor:
    states = packed.states(batch)
    head: Any = packed.lm.score  # within peft a wrapper around the trained copy
    outputs: Tensor = head(states)
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _packed_outputs(packed: PackedLM, groups: Sequence[TokenGroup]) -> Tensor:
    return _outputs(packed, pack([at_own_state(group, every_token) for group in groups]).to(packed.device))


def _own_outputs(packed: PackedLM, groups: Sequence[TokenGroup]) -> Tensor:
    """Return the outputs at all tokens by the classifier's own layers, one row at a time: the truth."""
    found = []
    head: Any = packed.lm.score
    for group in groups:
        for response in group.responses:
            ids = torch.from_numpy(np.concatenate((group.prompt_ids, response.ids)).astype(np.int64)).to(packed.device)
            states = packed.lm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
            found.append(head(states[0, len(group.prompt_ids) :]))
    outputs = torch.cat(found)
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


REWARDS = Proof(_packed_outputs, _own_outputs, ("flex", "segments", "plain"))
"""Outputs of a classifier's head at every token."""
