"""Log-probs of one short row, to compare two forms of one model."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenq.models.forward.packed_lm import bare

LENGTH = 24
"""Tokens of the row."""


@torch.no_grad()
def short_row(model: nn.Module) -> Float[Tensor, "..."]:
    """Return the next-token log-probs [L, V] of a fixed row in float32, by the model's plain forward.

    Half of the tokens are drawn from the whole vocabulary, half from its last rows, where new tokens stand.

    Args:
        model: a causal LM or a classifier, bare or wrapped by peft.
    """
    size = bare(model).get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    anywhere = torch.randint(0, size, (LENGTH // 2,), generator=generator)
    last = torch.randint(max(0, size - LENGTH), size, (LENGTH // 2,), generator=generator)
    ids = torch.stack((anywhere, last), 1).flatten()[None]
    training = model.training
    model.eval()
    logits: Tensor = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits[0]
    model.train(training)
    # A classifier says its outputs as they are.
    return logits.float().log_softmax(-1) if logits.shape[-1] == size else logits.float()
