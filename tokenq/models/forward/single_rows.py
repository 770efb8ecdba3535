"""Run rows through a model one by one, unpadded and with its own attention."""

from bisect import bisect_right
from collections import defaultdict

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenq.core.tensors import PackedBatch
from tokenq.models.forward.lengths import forget_lengths


def beyond(batch: PackedBatch, limit: int | None) -> bool:
    """Return whether some row of a batch, with its last token, is longer than `limit` tokens."""
    lengths = (s.prefix_stop - s.prefix_start + s.stop - s.start + 1 for s in batch.segments)
    return limit is not None and max(lengths, default=0) > limit


def one_by_one(model: PreTrainedModel, batch: PackedBatch, own: str | None, output: str, behind: int) -> Tensor:
    """Return an output [N, …] of the model at every target's position, each response in a row of its own.

    Args:
        model: a model, with its head or without.
        batch: the batch, where the weights are.
        own: name of the attention that the model came with.
        output: name of what the model returns.
        behind: tokens of a row behind the last that is an input (which one does not matter: nothing sees it).
    """
    found: dict[int, Tensor] = {}
    usual = model.config._attn_implementation
    set_attention(model, own)
    try:
        for row, targets in _rows(batch):
            ids = batch.input_ids[torch.tensor([*row, *row[-1:] * behind], device=batch.input_ids.device)]
            forget_lengths(model)
            values = model(input_ids=ids[None], use_cache=False)[output][0]
            found |= {target: values[place] for target, place in targets}
    finally:
        set_attention(model, usual)
    return torch.stack([found[target] for target in range(len(batch.targets))])


def set_attention(model: PreTrainedModel, name: str | None) -> None:
    """Set the attention function of a model and of its sub-models."""
    model.config._attn_implementation = name
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation = name


def _rows(batch: PackedBatch) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Return (places of its tokens in the flat row, (target, its place among them)) of every response with targets."""
    predictors, columns = batch.predictors.tolist(), batch.actions.places.tolist()
    of_response = defaultdict(list)
    for target, response in enumerate(batch.actions.responses.tolist()):
        of_response[response].append(target)
    starts = [segment.start for segment in batch.segments]
    rows = []
    for targets in of_response.values():
        # Tokens behind the first are predicted within the response's own run, the first by the end of the prompt.
        last = targets[-1]
        run = batch.segments[bisect_right(starts, predictors[last]) - 1]
        stop = run.stop if columns[last] else predictors[last] + 1
        row = [*range(run.prefix_start, run.prefix_stop), *range(run.start, stop)]
        places = {index: place for place, index in enumerate(row)}
        rows.append((row, [(target, places[predictors[target]]) for target in targets]))
    return rows
