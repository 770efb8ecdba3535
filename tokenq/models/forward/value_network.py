"""A value network: a copy of the policy's body with a head of one output.

It shares no trained weight with the policy. What is frozen (the base below an adapter) is one for both. It reads the
same packed batches in the same way, so the prompt's states are computed once for all responses here too.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenq.core.tensors import PackedBatch
from tokenq.models.forward.packed_lm import WAYS, PackedLM, bare
from tokenq.models.forward.single_rows import beyond, one_by_one


class ValueNetwork(nn.Module):
    """Predicts V(x, y_<t) before every target of a packed batch.

    It begins at V = 0 everywhere, which is the mean of normalised rewards.

    Args:
        policy: whose body is copied, as it is now.
    """

    def __init__(self, policy: PackedLM) -> None:
        super().__init__()
        model = bare(policy.model)
        frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.body = copy.deepcopy(model.base_model, frozen)
        weight: Tensor = next(self.body.parameters())
        width = model.config.get_text_config().hidden_size
        dtype = torch.promote_types(weight.dtype, torch.float32)  # a number, not a token: eight bits are too few
        self.head = nn.Linear(width, 1, device=weight.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.way, self.limit, self.own_attention = policy.way, policy.limit, policy.own_attention

    @property
    def lm(self) -> nn.Module:
        """The transformers model inside, without a head."""
        model: nn.Module = self.body
        return model

    def forward(self, batch: PackedBatch) -> Float[Tensor, " N"]:
        """Return the value of the state that each target was written in, float32 or better."""
        if beyond(batch, self.limit):
            states = one_by_one(self.body, batch, self.own_attention, "last_hidden_state", 1)
        else:
            states = WAYS[self.way].states(self.body, batch)[batch.predictors]
        values: Tensor = self.head(states.to(self.head.weight.dtype))[:, 0]
        return values.to(torch.promote_types(values.dtype, torch.float32))
