"""Floating-point operations that a pass over pairs needs, whoever computes it.

A prompt counts once for its two responses, only tokens of responses meet the vocabulary, padding counts nothing:

    forward(pairs) = 2 P_body T + 2 P_head N + 4 W Σ_layers Σ_t min(position_t + 1, window_layer)

with T the tokens of the prefix-shared rows, N the tokens of responses, P_body the weights of the layers' matrices
(embeddings are looked up, not multiplied), P_head = vocabulary × width, and W = heads × head size; the last term is
attention, one product for the scores and one for the values. A forward and backward pass needs three times that, so
6 P_body T + 6 P_head N + …; a reference pass needs it once. Whatever a system computes twice to save memory is done but
not needed: it is not counted, and `repeated_head_flops` reports it beside.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from tokenq.core.tensors import PackedBatch


@dataclass(frozen=True)
class ModelShape:
    """What the count depends on.

    Attributes:
        body: weights of the matrices of all layers.
        head: weights of the output projection.
        vocabulary: its rows.
        attention_width: heads × head size.
        windows: for every layer how far a token sees; None for everything.
    """

    body: int
    head: int
    vocabulary: int
    attention_width: int
    windows: tuple[int | None, ...]


def model_shape(model: PreTrainedModel) -> ModelShape:
    """Return the shape of a language model of transformers."""
    config = model.config.get_text_config()
    values = config.to_dict()
    head = model.get_output_embeddings().weight
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in looked_up and p is not head]
    size = values.get("head_dim") or config.hidden_size // config.num_attention_heads
    kinds = values.get("layer_types") or ["full_attention"] * config.num_hidden_layers
    windows = tuple(values.get("sliding_window") if kind == "sliding_attention" else None for kind in kinds)
    body = sum(p.numel() for p in matrices)
    return ModelShape(body, head.numel(), head.shape[0], config.num_attention_heads * size, windows)


def forward_flops(shape: ModelShape, batch: PackedBatch) -> int:
    """Return the operations of one forward pass over a batch."""
    seen = batch.position_ids + 1
    attended = sum(int((seen if window is None else seen.clamp(max=window)).sum()) for window in shape.windows)
    matrices = 2 * shape.body * len(batch.input_ids) + 2 * shape.head * len(batch.targets)
    return matrices + 4 * shape.attention_width * attended


def repeated_head_flops(shape: ModelShape, batch: PackedBatch, keep_bytes: int) -> int:
    """Return what tokenq's head computes again in the backward pass: nothing while its float32 logits can be kept."""
    kept = len(batch.targets) * shape.vocabulary * 4 <= keep_bytes
    return 0 if kept else 2 * shape.head * len(batch.targets)
