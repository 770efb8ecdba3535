"""Claims about token-level read-outs: credit, the order of tokens, value curves, identities of any two models."""

import torch
from torch import Tensor

from tokenq.core.qfunction import prefix_values
from tokenq.verify.claim import PAPER, Case, Claim, broken, excess, largest
from tokenq.worlds.draws import random_policy
from tokenq.worlds.soft_q import behind, log_ratios, response_logps


def credit_gap(case: Case) -> float:
    """(implicit reward − r) − (V*(s') − V*(s)), every token of every response."""
    values = case.sequences.visited(case.optimum.values)
    gap = case.implicit - case.sequences.taken(case.world.rewards)
    return largest((gap - values.diff())[case.sequences.mask])


def credit_is_reward(case: Case) -> float:
    """Implicit reward − r, every token: how far the read-out is from the reward that was given."""
    return largest((case.implicit - case.sequences.taken(case.world.rewards))[case.sequences.mask])


def _disagreement(case: Case, table: Tensor) -> float:
    """Share of the pairs of tokens of one state that implicit rewards and `table` order differently."""
    ratios = log_ratios(case.optimum.logps, case.world.reference_logps)[case.world.choice]
    other, possible = table[case.world.choice], case.world.next_states[case.world.choice] >= 0
    both = possible[:, :, None] & possible[:, None, :]
    ours, theirs = ratios[:, :, None] - ratios[:, None, :], other[:, :, None] - other[:, None, :]
    return float((ours * theirs < 0)[both].double().mean())


def order_of_q(case: Case) -> float:
    """Disagreement of implicit rewards with r + V*(s') on the tokens of a state; both from the world alone."""
    beyond = response_logps(case.sequences, case.world.reference_logps) + case.returns / case.world.beta
    passing = behind(case.world, case.sequences, beyond) - behind(
        case.world, case.sequences, response_logps(case.sequences, case.world.reference_logps)
    )
    return _disagreement(case, case.world.at(passing))


def order_of_reward(case: Case) -> float:
    """Disagreement of implicit rewards with r on the tokens of a state."""
    return _disagreement(case, case.world.rewards)


def worst_token(case: Case) -> float:
    """Share of responses whose token of least implicit reward is not the token of least reward."""
    rewards = torch.where(case.sequences.mask, case.sequences.taken(case.world.rewards), torch.inf)
    implicit = torch.where(case.sequences.mask, case.implicit, torch.inf)
    return float((rewards.argmin(1) != implicit.argmin(1)).double().mean())


def _outcome_values(case: Case) -> Tensor:
    """[N, T+1] β log E_ref[exp(R/β) | y_≤t] − V*(s_1) along each response, by enumeration."""
    world = case.world
    chances = response_logps(case.sequences, world.reference_logps)
    tilted, plain = (behind(world, case.sequences, v) for v in (chances + case.returns / world.beta, chances))
    return case.sequences.visited(world.beta * (tilted - plain)) - case.start_values[:, None]


def value_curve(case: Case) -> float:
    """q_t − (β log E_ref[exp(R/β) | y_≤t] − V*(s_1)), with q_t the running sum of implicit rewards."""
    return largest(prefix_values(case.implicit) - _outcome_values(case))


def value_curve_and_rewards(case: Case) -> float:
    """q_t − (Σ_{k≤t} r + V*(s_{t+1}) − V*(s_1)), which holds for any reward."""
    so_far = prefix_values(case.sequences.taken(case.world.rewards))
    values = case.sequences.visited(case.optimum.values)
    return largest(prefix_values(case.implicit) - (so_far + values - case.start_values[:, None]))


def value_curve_alone(case: Case) -> float:
    """q_t − (V*(s_{t+1}) − V*(s_1)) of every prefix that is no full response: the curve read as a value.

    At the end the two part: V* is 0 there, and q is R − V*(s_1).
    """
    values = case.sequences.visited(case.optimum.values)
    difference = prefix_values(case.implicit) - (values - case.start_values[:, None])
    return largest(difference[:, :-1][case.sequences.valid])


def identities(case: Case) -> float:
    """Σ π_ref exp(A/β) − 1; E_π[A] where below 0; E_ref[A] where above 0; A = β log π/π_ref of any two policies."""
    world, dice = case.world, case.dice()
    policy, reference = random_policy(world, dice), random_policy(world, dice)
    optimal = case.optimum.logps
    errors = []
    for one, other in ((policy, reference), (optimal, world.reference_logps)):
        advantages = world.beta * log_ratios(one, other)
        mass = (other.exp() * (advantages / world.beta).exp()).sum(-1) - 1
        gains = (one.exp() * advantages).sum(-1), (other.exp() * advantages).sum(-1)
        here = world.choice
        errors += [largest(mass[here]), excess(-gains[0][here]), excess(gains[1][here])]
    return max(errors)


CLAIMS = (
    Claim("credit", "implicit reward − r = V*(s') − V*(s), every token", f"{PAPER} Eq. 10", credit_gap),
    broken("credit", "the implicit reward is the reward", "a reading of heat maps", credit_is_reward),
    Claim("credit", "tokens of a state stand in the order of r + V*(s')", f"{PAPER} Eq. 10", order_of_q),
    broken("credit", "… in the order of r", "a reading of heat maps", order_of_reward),
    Claim(
        "credit",
        "… in the order of r, where V*(s') is the same for all",
        f"{PAPER} Eq. 10",
        order_of_reward,
        "reward by step",
    ),
    broken("credit", "a response's worst token is its least implicit reward", "a reading of heat maps", worst_token),
    Claim(
        "value curve",
        "q_t = β log E_ref[exp(R/β) | y≤t] − V*(s₁)",
        "2412.01981 Prop. 3.1",
        value_curve,
        "terminal reward",
    ),
    Claim(
        "value curve",
        "q_t = V*(s_{t+1}) − V*(s₁) before the end",
        "2412.01981 §3",
        value_curve_alone,
        "terminal reward",
    ),
    broken("value curve", "… with rewards on the way", "2412.01981 §3", value_curve_alone),
    Claim("value curve", "q_t = Σ r so far + V*(s_{t+1}) − V*(s₁)", f"{PAPER} Eq. 10", value_curve_and_rewards),
    Claim("identities", "Σ π_ref exp(A/β) = 1, E_π[A] ≥ 0 ≥ E_ref[A], any pair", "Gibbs' inequality", identities),
)
