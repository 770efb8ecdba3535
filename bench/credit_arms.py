"""What is compared in `bench.credit_worlds`: token rewards, what is taken off them, and the arms made of both."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from tokenq.core.credit import (
    gae,
    implicit_baseline,
    leave_one_out,
    outcome_rewards,
    potential,
    prime_advantages,
    returns_to_go,
    scaled,
)
from tokenq.core.tensors import PrefixValues

LAMBDA = 0.95
"""Of GAE with a learnt critic."""


class Scene(NamedTuple):
    """A batch of rollouts when it is credited.

    Attributes:
        rewards: [N] of the outcomes.
        kl: [N, T] β log π/π_ref.
        dense: [N, T] β log π_d/π_ref of the pair, or of the process reward model.
        values: of the learnt critic.
        exact: gives V^π.
        groups: [N] the world of each.
        mask: [N, T] own tokens.
    """

    rewards: Tensor
    kl: Tensor
    dense: Tensor
    values: PrefixValues
    exact: Callable[[], PrefixValues]
    groups: Tensor
    mask: Tensor

    @property
    def outcome(self) -> Tensor:
        """[N, T] the reward at the last token."""
        return outcome_rewards(self.rewards, self.mask)


def _others(tokens: Tensor, scene: Scene) -> Tensor:
    whole = tokens.sum(-1)
    return (whole - leave_one_out(whole, scene.groups))[:, None]


def _prime(tokens: Tensor, scene: Scene, weight: float) -> Tensor:
    return prime_advantages(tokens.sum(-1), scene.dense, scene.groups, scene.mask, weight)


TOKENS: dict[str, Callable[[Scene], Tensor]] = {
    "outcome": lambda s: s.outcome,
    "scaled": lambda s: scaled(s.outcome, s.dense, 1.0),
    "scaled, matched": lambda s: scaled(s.outcome, s.dense, 1.0) / 2,
    "potential": lambda s: potential(s.outcome, s.dense, s.mask, 1.0),
}
"""Token rewards, to which −β KL comes."""

CREDIT: dict[str, Callable[[Tensor, Scene], Tensor]] = {
    "response": lambda tokens, s: leave_one_out(tokens.sum(-1), s.groups)[:, None] * s.mask,
    "to go": lambda tokens, s: (returns_to_go(tokens, s.mask) - _others(tokens, s)) * s.mask,
    "critic": lambda tokens, s: gae(tokens, s.values, lam=LAMBDA)[0],
    "pair's values": lambda tokens, s: implicit_baseline(
        returns_to_go(tokens, s.mask), s.dense, s.rewards, s.groups, s.mask
    ),
    "true values": lambda tokens, s: gae(tokens, s.exact())[0],
    "true step": lambda tokens, s: gae(tokens, s.exact(), lam=0.0)[0],
    "PRIME": lambda tokens, s: _prime(tokens, s, 1.0),
    "PRIME / 10": lambda tokens, s: _prime(tokens, s, 0.1),
}
"""Advantages from token rewards."""


class Arm(NamedTuple):
    """What is compared.

    Attributes:
        tokens: a key of `TOKENS`.
        credit: a key of `CREDIT`.
        dense: what dense rewards are read off: a DPO policy of so many pairs of π_ref, each of two judged responses;
            π*, for nothing; or a process reward model that learns beside the policy.
        start: where the policy begins.
    """

    tokens: str
    credit: str
    dense: int | Literal["optimum", "model"] = 0
    start: Literal["reference", "pair"] = "reference"

    @property
    def cost(self) -> int:
        """Responses that were judged before the first update."""
        return 2 * self.dense if isinstance(self.dense, int) else 0


PAIRS = 512
ARMS = {
    "outcome, leave-one-out": Arm("outcome", "response"),
    "outcome, return to go": Arm("outcome", "to go"),
    "outcome, GAE, learnt critic": Arm("outcome", "critic"),
    "DPO of 128, baseline": Arm("outcome", "pair's values", 128),
    "DPO of 512, baseline": Arm("outcome", "pair's values", PAIRS),
    "DPO of 2048, baseline": Arm("outcome", "pair's values", 2048),
    "DPO of 512, potential": Arm("potential", "to go", PAIRS),
    "DPO of 512, potential, GAE": Arm("potential", "critic", PAIRS),
    "DPO of 512, scaled, matched": Arm("scaled, matched", "to go", PAIRS),
    "DPO of 512, scaled, matched, GAE": Arm("scaled, matched", "critic", PAIRS),
    "DPO of 512, scaled": Arm("scaled", "to go", PAIRS),
    "PRIME": Arm("outcome", "PRIME", "model"),
    "PRIME, weight 0.1": Arm("outcome", "PRIME / 10", "model"),
    "from DPO of 512, outcome": Arm("outcome", "response", PAIRS, "pair"),
    "from DPO of 512, baseline": Arm("outcome", "pair's values", PAIRS, "pair"),
    "π* as pair, baseline": Arm("outcome", "pair's values", "optimum"),
    "π* as pair, potential": Arm("potential", "to go", "optimum"),
    "π* as pair, scaled, matched": Arm("scaled, matched", "to go", "optimum"),
    "π* as pair, scaled": Arm("scaled", "to go", "optimum"),
    "true values": Arm("outcome", "true values"),
    "true step": Arm("outcome", "true step"),
}
BASE = "outcome, leave-one-out"
