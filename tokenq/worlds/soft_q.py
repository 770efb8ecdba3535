"""Exact answers about a tabular world: soft-optimal values and policy, distributions over responses, preferences.

Everything is computed from its definition, by dynamic programming over states or by enumeration of responses, so that
one can be held against the other.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.tensors import TokenLogps
from tokenq.worlds.mdp import Sequences, TokenMDP, log_softmax


@dataclass(frozen=True, eq=False)
class SoftOptimum:
    """The solution of max_π E[Σ r − β log π/π_ref] in a world.

    Attributes:
        values: [S] V*(s) = β log Σ_a exp(Q*(s, a)/β), the environment's turns in expectation; 0 at ends.
        optimal_q_values: [S, V] Q*(s, a) = r(s, a) + β log π_ref(a|s) + V*(s'), Eq. 7 of arXiv 2404.12358. It holds
            the reference's part; r + V* without it is `optimal_q_values` − β log π_ref.
        logps: [S, V] log π*(a|s) = (Q* − V*)/β, and the environment's log-probs where it writes.
    """

    values: Float[Tensor, " S"]
    optimal_q_values: Float[Tensor, "S V"]
    logps: Float[Tensor, "S V"]


def solve(world: TokenMDP) -> SoftOptimum:
    """Return the soft optimum by backward induction (Eq. 5 to 7 of arXiv 2404.12358).

    Where the environment writes, V*(s) = Σ_a p_env(a|s) (r(s, a) + V*(s')): the objective is an expectation, and the
    policy pays no KL for tokens that it does not choose.
    """
    beta, reference = world.beta, world.reference_logps
    values = torch.zeros(world.n_states, dtype=torch.float64)
    for layer in world.layers():
        gains = world.rewards[layer] + world.at(values)[layer]
        soft = beta * torch.logsumexp(gains / beta + reference[layer], -1)
        values[layer] = torch.where(world.environment[layer], _expect(reference[layer], gains), soft)
    optimal_q = world.rewards + beta * reference + world.at(values)
    chosen = (optimal_q - values[:, None]) / beta
    return SoftOptimum(values, optimal_q, torch.where(world.choice[:, None], chosen, reference))


def evaluate(world: TokenMDP, logps: Float[Tensor, "S V"]) -> Float[Tensor, " S"]:
    """Return V^π(s) = E[Σ r − β log π/π_ref] from every state; at the prompts, the objective.

    Args:
        world: the world.
        logps: [S, V] log π, where the policy writes.
    """
    values = torch.zeros(world.n_states, dtype=torch.float64)
    acting = policy_in(world, logps)
    price = world.beta * log_ratios(acting, world.reference_logps)
    for layer in world.layers():
        values[layer] = _expect(acting[layer], world.rewards[layer] - price[layer] + world.at(values)[layer])
    return values


def policy_in(world: TokenMDP, logps: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
    """Return the policy's log-probs where it writes, and the environment's where that does."""
    return torch.where(world.choice[:, None], logps, world.reference_logps)


def log_ratios(logps: Float[Tensor, "S V"], ref_logps: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
    """Return log π − log π_ref of every token in every state, 0 for tokens that cannot come."""
    return torch.where(torch.isinf(ref_logps), 0.0, logps - ref_logps)


def _expect(logps: Float[Tensor, "n V"], values: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    """Return Σ_a p(a) v(a); what has probability 0 counts nothing, whatever its value."""
    return torch.where(torch.isinf(logps), 0.0, logps.exp() * values).sum(-1)


def softmax_policy(logits: Float[Tensor, "S V"], world: TokenMDP) -> Float[Tensor, "S V"]:
    """Return log softmax of any logits over what can come, and the environment's log-probs where it writes."""
    return policy_in(world, log_softmax(logits, world))


def returns(world: TokenMDP, sequences: Sequences) -> Float[Tensor, " N"]:
    """Return Σ_t r(s_t, a_t) of every response."""
    return sequences.taken(world.rewards).sum(-1)


def token_logps(sequences: Sequences, logps: Float[Tensor, "S V"]) -> TokenLogps:
    """Return the log-probs of the policy's own tokens, as every loss and read-out of the project takes them."""
    return TokenLogps(sequences.taken(logps) * sequences.mask, sequences.mask)


def response_logps(sequences: Sequences, logps: Float[Tensor, "S V"]) -> Float[Tensor, " N"]:
    """Return log p(y|x) of every response, the environment's tokens included: they sum to 1 over a prompt's."""
    return sequences.taken(logps).sum(-1)


def kl(
    sequences: Sequences, logps: Float[Tensor, "S V"], other: Float[Tensor, "S V"], prompt: int
) -> Float[Tensor, ""]:
    """Return KL(p‖p') between the distributions of two policies over the responses to one prompt, in nats."""
    rows = sequences.of_prompt(prompt)
    p, q = response_logps(sequences, logps)[rows], response_logps(sequences, other)[rows]
    return (p.exp() * (p - q)).sum()


def shape(world: TokenMDP, potential: Float[Tensor, " S"]) -> TokenMDP:
    """Return the world with r'(s, a) = r(s, a) + Φ(s') − Φ(s) (Definition 1 of arXiv 2404.12358; Ng et al. 1999).

    The potential of ends is taken as given: invariance needs it to be 0 there.
    """
    shaped = world.rewards + world.at(potential) - potential[:, None]
    return replace(world, rewards=torch.where(world.next_states < 0, 0.0, shaped))


def behind(world: TokenMDP, sequences: Sequences, ends: Float[Tensor, " N"]) -> Float[Tensor, " S"]:
    """Return log Σ exp(v) over the responses that pass through each state, by enumeration.

    Args:
        world: the world.
        sequences: all its responses.
        ends: [N] v of each response.
    """
    top = ends.max()
    weights = (ends - top).exp()
    mass = torch.zeros(world.n_states, dtype=ends.dtype).index_add(0, sequences.ends, weights)
    passing = weights[:, None].expand_as(sequences.states)[sequences.valid]
    return mass.index_add(0, sequences.states[sequences.valid], passing).log() + top


def bradley_terry(scores: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """Return p(i preferred to j) = σ(R_i − R_j) of every pair (Eq. 1 of arXiv 2404.12358).

    Args:
        scores: [n] returns of responses to one prompt.
    """
    return torch.sigmoid(scores[:, None] - scores)


def plackett_luce(scores: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """Return log p of a ranking, best first: Σ_k (R_k − log Σ_{j≥k} exp R_j).

    Args:
        scores: [K] returns of responses to one prompt in the order of the ranking.
    """
    return (scores - torch.logcumsumexp(scores.flip(0), 0).flip(0)).sum()


def sample_pairs(
    world: TokenMDP, sequences: Sequences, count: int, generator: torch.Generator
) -> Int[Tensor, "count 2"]:
    """Return (chosen, rejected) as indices of responses: prompt and two different responses uniform, label drawn.

    The label follows Bradley-Terry on the returns.
    """
    scores = returns(world, sequences)
    sizes = torch.bincount(sequences.prompts)
    first = F.pad(sizes.cumsum(0), (1, 0))
    prompts = torch.randint(world.n_prompts, (count,), generator=generator)
    one = (torch.rand(count, generator=generator) * sizes[prompts]).long()
    other = (torch.rand(count, generator=generator) * (sizes[prompts] - 1)).long()
    other += other >= one
    pairs = torch.stack((one, other), 1) + first[prompts, None]
    wins = torch.rand(count, generator=generator, dtype=torch.float64) < torch.sigmoid(
        scores[pairs[:, 0]] - scores[pairs[:, 1]]
    )
    return torch.where(wins[:, None], pairs, pairs.flip(1))
