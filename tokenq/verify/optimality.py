"""Claims about the soft optimum: Bellman's equation, its policy and objective, Q-functions and their gauge."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenq.core import qfunction
from tokenq.core.losses.pairs import dpo
from tokenq.verify.claim import PAPER, Case, Claim, broken, excess, largest
from tokenq.worlds.draws import normal, random_policy
from tokenq.worlds.mdp import NO_STATE, TokenMDP
from tokenq.worlds.soft_q import (
    behind,
    evaluate,
    kl,
    log_ratios,
    response_logps,
    softmax_policy,
    solve,
    token_logps,
)


def _choices(world: TokenMDP) -> Tensor:
    """[S, V] True for tokens that the policy may write."""
    return world.choice[:, None] & (world.next_states != NO_STATE)


def bellman(case: Case) -> float:
    """V*(s) − β log Σ_a π_ref(a|s) exp((r + V*(s'))/β), and Q* − (r + β log π_ref + V*(s')); V* = 0 at ends."""
    world, optimum = case.world, case.optimum
    gains = world.rewards + world.at(optimum.values)
    soft = world.beta * torch.logsumexp(gains / world.beta + world.reference_logps, -1)
    q_values = gains + world.beta * world.reference_logps
    return largest(
        (optimum.values - soft)[world.choice],
        (optimum.optimal_q_values - q_values)[_choices(world)],
        optimum.values[world.terminal],
    )


def policy_form(case: Case) -> float:
    """π*(a|s) − π_ref(a|s) exp((r + V*(s'))/β) / Σ, with V* from enumeration and not from the recursion."""
    world = case.world
    tilted = response_logps(case.sequences, world.reference_logps) + case.returns / world.beta
    ahead = behind(world, case.sequences, tilted)
    share = world.at(ahead) - ahead[:, None]  # the share of tilted mass that passes through each token
    return largest((case.optimum.logps - share)[_choices(world)])


def sequence_form(case: Case) -> float:
    """π*(y|x) − π_ref(y|x) exp(R(y)/β) / Z(x), and V*(s_1) − β log Z(x), by enumeration."""
    world, errors = case.world, []
    tilted = response_logps(case.sequences, world.reference_logps) + case.returns / world.beta
    for rows in case.rows:
        log_z = torch.logsumexp(tilted[rows], 0)
        errors.append(response_logps(case.sequences, case.optimum.logps)[rows] - (tilted[rows] - log_z))
        errors.append(case.start_values[rows] - world.beta * log_z)
    return largest(*errors)


def maximum(case: Case) -> float:
    """By how much the best of 200 random perturbations of π*, small and large, improves the objective."""
    world, dice = case.world, case.dice()
    best = evaluate(world, case.optimum.logps)[: world.n_prompts]
    gains = []
    for scale in torch.logspace(-3, 0.5, 200).tolist():
        nearby = case.optimum.logps.nan_to_num(neginf=0.0) + scale * normal(tuple(world.next_states.shape), dice)
        gains.append(evaluate(world, softmax_policy(nearby, world))[: world.n_prompts] - best)
    return excess(torch.cat(gains))


def regret(case: Case) -> float:
    """J(π*) − J(π) − β KL(π‖π*) for any policy π: what is lost is exactly the divergence."""
    world, dice = case.world, case.dice()
    errors = []
    for _ in range(20):
        other = random_policy(world, dice)
        lost = evaluate(world, case.optimum.logps) - evaluate(world, other)
        for prompt in case.prompts():
            divergence = world.beta * kl(case.sequences, other, case.optimum.logps, prompt)
            errors.append((lost[prompt] - divergence).reshape(1))
    return largest(*errors)


def bijection(case: Case) -> float:
    """R − r, where R = Q* − β log π_ref − β log Σ exp(Q*(s', ·)/β) is read off Q* alone (Lemma 1)."""
    world = case.world
    values = world.beta * torch.logsumexp(case.optimum.optimal_q_values / world.beta, -1)
    values = torch.where(world.terminal, 0.0, values)
    rewards = case.optimum.optimal_q_values - world.beta * world.reference_logps - world.at(values)
    return largest((rewards - world.rewards)[_choices(world)])


def every_policy(case: Case) -> float:
    """Any logits are Q*/β of the reward Q − β log π_ref − V(s'): every language model is an optimal soft Q-function."""
    world = case.world
    logits = normal(tuple(world.next_states.shape), case.dice()).masked_fill(world.next_states == NO_STATE, -torch.inf)
    values = torch.where(world.terminal, 0.0, qfunction.logit_values(logits, world.beta))
    q_values = qfunction.logit_q_values(logits, world.beta)
    rewards = q_values - world.beta * world.reference_logps - world.at(values)
    optimum = solve(replace(world, rewards=torch.where(_choices(world), rewards, 0.0)))
    inside = _choices(world)
    return largest(
        (optimum.optimal_q_values - q_values)[inside],
        (optimum.logps - softmax_policy(logits, world))[inside],
    )


def gauge(case: Case) -> float:
    """What z + c(s) changes: Q and V by β c(s) each; neither advantages, nor rewards, nor a loss."""
    world, dice = case.world, case.dice()
    c = normal((world.n_states,), dice)
    logits = case.optimum.logps.nan_to_num(neginf=-30.0)
    moved = logits + c[:, None]
    pairs = torch.arange(len(case.sequences) // 2 * 2).reshape(-1, 2)

    def loss(z: Tensor) -> Tensor:
        policy = token_logps(case.sequences, softmax_policy(z, world))
        return dpo(policy.pairs(pairs), case.reference.pairs(pairs), beta=world.beta)

    def rewards(z: Tensor) -> Tensor:
        return log_ratios(softmax_policy(z, world), world.reference_logps)

    def shift(read: Tensor, before: Tensor) -> Tensor:
        return read - before - world.beta * c.reshape(-1, *[1] * (read.ndim - 1))

    beta = world.beta
    return largest(
        shift(qfunction.logit_q_values(moved, beta), qfunction.logit_q_values(logits, beta)),
        shift(qfunction.logit_values(moved, beta), qfunction.logit_values(logits, beta)),
        qfunction.advantages(moved, beta) - qfunction.advantages(logits, beta),
        rewards(moved)[_choices(world)] - rewards(logits)[_choices(world)],
        loss(moved) - loss(logits),
    )


def two_advantages(case: Case) -> float:
    """Q* − V* − β log π*: Q* holds the reference's part, so its advantage is β log π*, not the implicit reward."""
    optimum = case.optimum
    difference = optimum.optimal_q_values - optimum.values[:, None] - case.world.beta * optimum.logps
    return largest(difference[_choices(case.world)])


def one_advantage(case: Case) -> float:
    """Q* − V* − β log π*/π_ref, with the two advantages taken for one."""
    world, optimum = case.world, case.optimum
    ratios = log_ratios(optimum.logps, world.reference_logps)
    difference = optimum.optimal_q_values - optimum.values[:, None] - world.beta * ratios
    return largest(difference[_choices(world)])


CLAIMS = (
    Claim("Bellman", "the residual of V* and Q* is 0", f"{PAPER} Eq. 5-7", bellman),
    Claim("Bellman", "π* ∝ π_ref exp((r + V')/β), V' by enumeration", f"{PAPER} Eq. 5-7", policy_form),
    Claim("Bellman", "π*(y|x) = π_ref(y|x) exp(R/β)/Z, V*(s₁) = β log Z", "2305.18290 Eq. 4", sequence_form),
    Claim("Bellman", "no perturbation of π* improves the objective", f"{PAPER} Eq. 2", maximum),
    Claim("Bellman", "J(π*) − J(π) = β KL(π‖π*) for every π", f"{PAPER} Eq. 2", regret),
    Claim("Bellman", "r and Q* determine each other (Lemma 1)", f"{PAPER} Lemma 1", bijection),
    Claim("Bellman", "any logits are Q*/β of some reward", f"{PAPER} §4.1", every_policy),
    Claim("gauge", "z + c(s) moves Q and V by βc(s), nothing else", f"{PAPER} §4.2", gauge),
    Claim("advantage", "Q* − V* = β log π*", f"{PAPER} Eq. 5", two_advantages),
    broken("advantage", "Q* − V* = β log π*/π_ref (the two mixed up)", f"{PAPER} Eq. 10", one_advantage),
)
