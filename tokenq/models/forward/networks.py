"""A policy with the networks that are trained beside it: a value network, an implicit process reward model, or both.

They are one module, so that processes, checkpoints and resuming know of one model, and share no trained weight. What is
frozen (the base below an adapter) is one for all.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from tokenq.core.logits import Logits
from tokenq.core.tensors import Outputs, PackedBatch
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.value_network import ValueNetwork


def process_reward_model(policy: PackedLM) -> PackedLM:
    """Return a copy of the policy as it is, head and adapter included, which is trained by a loss of its own."""
    frozen = {id(p): p for p in policy.model.parameters() if not p.requires_grad}
    lm = PackedLM(copy.deepcopy(policy.model, frozen), policy.way, policy.limit, steps=policy.steps)
    lm.own_attention = policy.own_attention
    return lm


class Network(NamedTuple):
    """A kind of network beside a policy.

    Attributes:
        make: (policy) → the network as it begins.
        output: what it gives, a name among `Outputs`.
        read: (network, batch) → that of every target.
    """

    make: Callable[[PackedLM], nn.Module]
    output: str
    read: Callable[[nn.Module, PackedBatch], Tensor]


NETWORKS: Mapping[str, Network] = {
    "values": Network(ValueNetwork, "values", lambda network, batch: network(batch)),
    "prm": Network(process_reward_model, "prm_logps", lambda network, batch: network(batch).logps),
}
"""Every kind of network by the name that it has within the module, in checkpoints and before its metrics."""


class PolicyNetworks(nn.Module):
    """A policy with networks beside it, each a copy of the policy as it is now, or of its body.

    Args:
        policy: the policy.
        names: keys of `NETWORKS`.
    """

    def __init__(self, policy: PackedLM, names: Sequence[str]) -> None:
        super().__init__()
        self.policy = policy
        for name in names:
            self.add_module(name, NETWORKS[name].make(policy))
        self._no_split_modules = policy._no_split_modules

    def beside(self) -> dict[str, nn.Module]:
        """Return the networks that are not the policy, by name."""
        return {name: network for name, network in self.named_children() if name in NETWORKS}

    def forward(self, batch: PackedBatch, read: Callable[[Logits], Tensor] | None = None) -> Outputs:
        """Return what all of them say of every target of a batch; the arguments are the policy's."""
        outputs: Outputs = self.policy(batch, read)
        dtype = next(iter(outputs.given().values())).dtype
        rows = {name: NETWORKS[name] for name in self.beside()}
        more = {row.output: row.read(getattr(self, name), batch).to(dtype) for name, row in rows.items()}
        return outputs._replace(**more)
