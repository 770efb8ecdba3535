"""Which rewards say the same: telescoping, preferences without a value, shaping, and the class of a reward."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenq.verify.claim import PAPER, Case, Claim, broken, largest
from tokenq.worlds.draws import normal, random_policy
from tokenq.worlds.mdp import TokenMDP
from tokenq.worlds.soft_q import (
    behind,
    bradley_terry,
    log_ratios,
    plackett_luce,
    response_logps,
    returns,
    shape,
    solve,
)


def telescoping(case: Case) -> float:
    """Σ implicit rewards of π* − (Σ r − V*(s_1)), every response."""
    return largest(case.implicit.sum(-1) - (case.returns - case.start_values))


def _with_partition(case: Case, sign: float) -> float:
    """R − (Σ implicit rewards + sign · β log Z), with Z(x) = Σ_y π_ref(y|x) exp(R/β) by enumeration."""
    world = case.world
    tilted = response_logps(case.sequences, world.reference_logps) + case.returns / world.beta
    log_z = behind(world, case.sequences, tilted)[case.sequences.prompts]
    return largest(case.returns - (case.implicit.sum(-1) + sign * world.beta * log_z))


def partition(case: Case) -> float:
    """R − (Σ implicit rewards + β log Z(x))."""
    return _with_partition(case, 1.0)


def partition_as_printed(case: Case) -> float:
    """R − (Σ implicit rewards − β log Z(x)): the sign of Section 3.3 as printed."""
    return _with_partition(case, -1.0)


def bradley_terry_same(case: Case) -> float:
    """Bradley-Terry from r − Bradley-Terry from implicit rewards, every pair of responses to one prompt."""
    rewards = case.implicit.sum(-1)
    return largest(*(bradley_terry(case.returns[rows]) - bradley_terry(rewards[rows]) for rows in case.rows))


def plackett_luce_same(case: Case) -> float:
    """Plackett-Luce log-probs of random rankings of 2 to 6 responses, from r and from implicit rewards."""
    rewards, dice, errors = case.implicit.sum(-1), case.dice(), []
    for draw in range(50):
        rows = case.sequences.of_prompt(draw % case.world.n_prompts)
        ranking = rows[torch.randperm(len(rows), generator=dice)[: 2 + draw % 5]]
        errors.append(plackett_luce(case.returns[ranking]) - plackett_luce(rewards[ranking]))
    return largest(torch.stack(errors))


def across_prompts(case: Case) -> float:
    """Bradley-Terry from r − from implicit rewards, for responses to different prompts."""
    rewards = case.implicit.sum(-1)
    different = case.sequences.prompts[:, None] != case.sequences.prompts
    return largest((bradley_terry(case.returns) - bradley_terry(rewards))[different])


def _potential(case: Case) -> Tensor:
    """[S] a random potential that is 0 at ends."""
    return normal((case.world.n_states,), case.dice()) * ~case.world.terminal


def _same_policy_and_preferences(case: Case, world: TokenMDP) -> list[Tensor]:
    """[S, V] differences of π* and the differences of every preference between a world and another reward for it."""
    inside = case.world.choice
    theirs, scores = solve(world), returns(world, case.sequences)
    errors = [(theirs.logps - case.optimum.logps)[inside]]
    for rows in case.rows:
        errors.append(bradley_terry(scores[rows]) - bradley_terry(case.returns[rows]))
    return [error.nan_to_num(0.0) for error in errors]  # −inf − −inf: tokens that cannot come


def shaping(case: Case) -> float:
    """π* and preferences of r + Φ(s') − Φ(s) against those of r, and V* against V*_r − Φ; Φ = 0 at ends."""
    potential = _potential(case)
    shaped = shape(case.world, potential)
    moved = solve(shaped).values - (case.optimum.values - potential)
    return largest(moved, *_same_policy_and_preferences(case, shaped))


def shaping_at_ends(case: Case) -> float:
    """The same with a potential that is not 0 at ends."""
    return largest(*_same_policy_and_preferences(case, shape(case.world, normal((case.world.n_states,), case.dice()))))


def _coherent(world: TokenMDP, logps: Tensor) -> TokenMDP:
    """Return the world with r = β log π/π_ref."""
    ratios = log_ratios(logps, world.reference_logps)
    return replace(world, rewards=torch.where(world.choice[:, None], world.beta * ratios, 0.0))


def member(case: Case) -> float:
    """r̄ = β log π*/π_ref is in the class of r: r̄ − r = Φ(s') − Φ(s) with Φ = V*, its V* is 0 everywhere, π* is kept."""
    own = _coherent(case.world, case.optimum.logps)
    theirs = solve(own)
    return largest(
        own.rewards - shape(case.world, case.optimum.values).rewards,
        theirs.values,
        (theirs.logps - case.optimum.logps)[case.world.choice].nan_to_num(0.0),
    )


def one_member(case: Case) -> float:
    """For a random π and any reward in the class of β log π/π_ref, the member of that form is β log π/π_ref again."""
    world, dice = case.world, case.dice()
    policy = random_policy(world, dice)
    reward = _coherent(world, policy)
    potential = normal((world.n_states,), dice) * ~world.terminal
    again = _coherent(world, solve(shape(reward, potential)).logps)
    return largest(again.rewards - reward.rewards)


def same_preferences(case: Case) -> float:
    """Two rewards with the same preferences differ by a potential, and share π*.

    The second reward is random but for the last token, which makes every return of prompt x equal the first's + c(x).
    The potential is read off along the responses; at all ends of a prompt it must be the same.
    """
    world, dice = case.world, case.dice()
    before_end = world.terminal[world.next_states] & (world.next_states >= 0)
    other = torch.where(before_end | (world.next_states < 0), 0.0, normal(tuple(world.rewards.shape), dice))
    missing = case.returns + normal((world.n_prompts,), dice)[case.sequences.prompts]
    missing = missing - case.sequences.taken(other).sum(-1)
    last = case.sequences.valid.sum(-1, keepdim=True) - 1
    state, token = (table.gather(1, last).squeeze(1) for table in (case.sequences.states, case.sequences.tokens))
    other[state, token] = missing
    potential = torch.zeros(world.n_states, dtype=torch.float64)
    for layer in reversed(list(world.layers())):
        here, action = torch.nonzero(world.next_states[layer] >= 0, as_tuple=True)
        here = layer[here]
        step = other[here, action] - world.rewards[here, action]
        potential[world.next_states[here, action]] = potential[here] + step
    errors = _same_policy_and_preferences(case, replace(world, rewards=other))
    for prompt in case.prompts():
        ends = potential[case.sequences.ends[case.sequences.of_prompt(prompt)]]
        errors.append(ends - ends[0])
    return largest(*errors)


CLAIMS = (
    Claim("telescoping", "Σ β log π*/π_ref = Σ r − V*(s₁), every response", f"{PAPER} Eq. 8", telescoping),
    Claim("telescoping", "R = Σ β log π*/π_ref + β log Z(x)", "2305.18290 Eq. 5", partition),
    broken("telescoping", "R = Σ β log π*/π_ref − β log Z(x) (as printed)", f"{PAPER} §3.3", partition_as_printed),
    Claim("preferences", "Bradley-Terry needs no value, every pair", f"{PAPER} Eq. 8", bradley_terry_same),
    Claim("preferences", "Plackett-Luce needs no value", f"{PAPER} Theorem 1", plackett_luce_same),
    broken("preferences", "… nor does it across prompts", f"{PAPER} §4.1", across_prompts),
    Claim("shaping", "r + Φ(s') − Φ(s): same π*, same preferences, V* − Φ", f"{PAPER} Def. 1", shaping),
    broken("shaping", "… also where Φ ≠ 0 at ends", f"{PAPER} Theorem 1", shaping_at_ends),
    Claim("shaping", "β log π*/π_ref is in r's class, and its V* is 0", f"{PAPER} Theorem 1", member),
    Claim("shaping", "a class has one member of that form, one policy", f"{PAPER} Theorem 1", one_member),
    Claim("shaping", "same preferences: same class", f"{PAPER} Theorem 1", same_preferences),
)
