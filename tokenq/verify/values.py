"""Claims about DRO-V: from single responses with rewards, drawn by another than the reference, it finds π* and V*."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenq.core.losses.dro import dro_policy, dro_value
from tokenq.core.tensors import PrefixValues, TokenLogps
from tokenq.verify.claim import SMALL, Case, Claim, broken, largest
from tokenq.verify.learning import divergence
from tokenq.worlds.draws import random_policy
from tokenq.worlds.soft_q import response_logps, token_logps
from tokenq.worlds.tabular import TabularLM, minimise

Mask = Bool[Tensor, "N T"]
ValuesOf = Callable[[Case, TokenLogps, Mask], Tensor]


def behaviour(case: Case) -> Float[Tensor, " N"]:
    """Return μ(y|x) of a random policy that can write everything: whose responses the data holds."""
    return response_logps(case.sequences, random_policy(case.world, case.dice())).exp()


def every_prefix(case: Case) -> Mask:
    """Return the mask for a value before every token."""
    return case.sequences.mask


def prompts_alone(case: Case) -> Mask:
    """Return the mask for a value before the first token alone."""
    return case.sequences.mask & (case.sequences.mask.cumsum(1) == 1)


def best_values(case: Case, policy: TokenLogps, mask: Mask) -> Float[Tensor, " S"]:
    """Return the values that minimise DRO-V's loss for a policy.

    It is quadratic in each value by itself, so one step of Newton's method from 0 finds them.
    """

    def slopes(start: float) -> Tensor:
        values = torch.full((case.world.n_states,), start, dtype=torch.float64, requires_grad=True)
        held = PrefixValues(values[case.sequences.states], mask)
        losses = dro_value(policy, case.reference, case.returns, held, beta=case.world.beta)
        return torch.autograd.grad((losses * behaviour(case)).sum(), values)[0]

    at_zero, at_one = slopes(0.0), slopes(1.0)
    return torch.where(at_one > at_zero, -at_zero / (at_one - at_zero), 0.0)


def no_values(case: Case, policy: TokenLogps, mask: Mask) -> Float[Tensor, " S"]:
    """Return 0 for every state."""
    return torch.zeros(case.world.n_states, dtype=torch.float64)


def mean_rewards(case: Case, policy: TokenLogps, mask: Mask) -> Float[Tensor, " S"]:
    """Return E_μ[r] of every state: the usual baseline, what the values would be if there were no policy's part."""
    return best_values(case, case.reference, mask)


def found(
    case: Case, mask: Mask, values_of: ValuesOf = best_values
) -> tuple[Float[Tensor, "S V"], Float[Tensor, " S"]]:
    """Return the policy's log-probs and the values that DRO-V ends with.

    Args:
        case: the case.
        mask: where values count.
        values_of: what the values are for a policy on the way.
    """

    def value(logps: Tensor) -> Tensor:
        policy = token_logps(case.sequences, logps)
        held = PrefixValues(values_of(case, policy, mask)[case.sequences.states], mask)
        losses = dro_policy(policy, case.reference, case.returns, held, beta=case.world.beta)
        return (losses * behaviour(case)).sum()

    logps = minimise(TabularLM(case.world), value)
    return logps, values_of(case, token_logps(case.sequences, logps), mask)


def _error(case: Case, mask: Mask) -> float:
    """Return the larger of KL(π*‖π) and |V − V*|, with the rewards before a state taken off its V."""
    logps, values = found(case, mask)
    rewards = case.sequences.taken(case.world.rewards)
    before = rewards.cumsum(1) - rewards
    gaps = values[case.sequences.states] - before - case.optimum.values[case.sequences.states]
    return max(divergence(case, logps), largest(gaps[mask]))


def dro_finds_policy_and_value(case: Case) -> float:
    """KL(π*‖π) and |V − V*(s_1)| for the minimisers of `dro`, one value per prompt, responses from another policy."""
    return _error(case, prompts_alone(case))


def dro_finds_every_value(case: Case) -> float:
    """The same with a value before every token: V*(s) of every state, above the rewards on the way there."""
    return _error(case, every_prefix(case))


def dro_without_value(case: Case) -> float:
    """KL(π*‖π) where the value is 0."""
    return divergence(case, found(case, prompts_alone(case), no_values)[0])


def dro_with_a_baseline(case: Case) -> float:
    """KL(π*‖π) where it is the mean reward of the data."""
    return divergence(case, found(case, prompts_alone(case), mean_rewards)[0])


_TOPIC, _SOURCE = "losses", "2405.19107"

CLAIMS = (
    Claim(
        _TOPIC,
        "DRO-V converges to π* and V* on single responses of another policy",
        f"{_SOURCE} Thm. 1",
        dro_finds_policy_and_value,
        SMALL,
        1e-7,
    ),
    Claim(_TOPIC, "… with a value before every token too", f"{_SOURCE} Eq. 10", dro_finds_every_value, SMALL, 1e-7),
    broken(_TOPIC, "… and so it does with V = 0", _SOURCE, dro_without_value, SMALL),
    broken(_TOPIC, "… or with the mean reward as baseline", _SOURCE, dro_with_a_baseline, SMALL),
)
