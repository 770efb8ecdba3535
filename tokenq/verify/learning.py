"""Claims about preference learning: DPO's optimum, its error in n pairs, likelihoods that fall, tokens left out."""

from dataclasses import replace

import torch
from scipy.stats import linregress
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.core.qfunction import sequence_rewards
from tokenq.core.tensors import TokenLogps
from tokenq.verify.claim import PAPER, SMALL, Case, Claim, broken, excess, largest
from tokenq.worlds.draws import generator, random_policy
from tokenq.worlds.mdp import TokenMDP
from tokenq.worlds.soft_q import (
    behind,
    bradley_terry,
    kl,
    log_ratios,
    response_logps,
    sample_pairs,
    solve,
    token_logps,
)
from tokenq.worlds.tabular import TabularLM, fit, minimise, summed_pairs

_COUNTS = (4_000, 16_000, 64_000, 256_000)
_REPEATS = 3


def all_pairs(case: Case, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return every ordered pair of responses to one prompt, and its share among exact preferences.

    Args:
        case: the case.
        scores: [N] by which Bradley-Terry prefers.
    """
    pairs, weights = [], []
    for rows in case.rows:
        i, j = torch.nonzero(~torch.eye(len(rows), dtype=torch.bool), as_tuple=True)
        pairs.append(torch.stack((rows[i], rows[j]), 1))
        weights.append(bradley_terry(scores[rows])[i, j])
    together = torch.cat(weights)
    return torch.cat(pairs), together / together.sum()


def divergence(case: Case, logps: Tensor) -> float:
    """Return the largest KL(π*‖π) over prompts."""
    return largest(torch.stack([kl(case.sequences, case.optimum.logps, logps, prompt) for prompt in case.prompts()]))


def dpo_finds_the_optimum(case: Case) -> float:
    """KL(π*‖π) for the minimiser π of the project's `dpo` on the exact preference distribution."""
    start = random_policy(case.world, case.dice())
    pairs, weights = all_pairs(case, case.returns)
    return divergence(case, fit(TabularLM(case.world, start), case.sequences, pairs, weights))


def dpo_without_coverage(case: Case) -> float:
    """The same, where a third of the responses is in no pair and training begins elsewhere than at the reference."""
    start = random_policy(case.world, case.dice())
    pairs, weights = all_pairs(case, case.returns)
    seen = (pairs % 3 != 0).all(1)
    return divergence(case, fit(TabularLM(case.world, start), case.sequences, pairs[seen], weights[seen]))


def dpo_rate(case: Case) -> float:
    """|slope + 1/2| of log error on log n, where the error is that of implicit rewards (root mean square, centred)."""
    errors = []
    for count in _COUNTS:
        logs = [_sampled_error(case, count, repeat).log() for repeat in range(_REPEATS)]
        errors.append(float(torch.stack(logs).mean()))
    slope = linregress(torch.tensor(_COUNTS).log().tolist(), errors).slope
    return abs(float(slope) + 0.5)


def _sampled_error(case: Case, count: int, repeat: int) -> Tensor:
    sampled = sample_pairs(case.world, case.sequences, count, generator(1_000 * case.seed + repeat))
    size = len(case.sequences.prompts)
    numbers, counts = (sampled[:, 0] * size + sampled[:, 1]).unique(return_counts=True)  # type: ignore[no-untyped-call]  # torch's
    pairs = torch.stack((numbers // size, numbers % size), 1)
    logps = fit(TabularLM(case.world), case.sequences, pairs, counts.double() / count)
    learnt = sequence_rewards(token_logps(case.sequences, logps), case.reference, case.world.beta)
    gap = learnt - case.implicit.sum(-1)
    centred = [gap[rows] - gap[rows].mean() for rows in case.rows]
    return torch.cat(centred).square().mean().sqrt()


def reference_falls(case: Case) -> float:
    """E_{π_ref}[Σ β log π*/π_ref] − (−β Σ_s d_ref(s) KL(π_ref(·|s)‖π*(·|s))), and the left side where above 0."""
    world = case.world
    chances = response_logps(case.sequences, world.reference_logps)
    states = behind(world, case.sequences, chances).exp()  # d_ref(s): chance to come through s, 1 at each prompt
    token_kl = -(world.reference_logps.exp() * log_ratios(case.optimum.logps, world.reference_logps)).sum(-1)
    errors, falls = [], []
    for prompt, rows in enumerate(case.rows):
        expected = (chances[rows].exp() * case.implicit[rows].sum(-1)).sum()
        here = (world.prompts == prompt) & world.choice
        errors.append(expected + world.beta * (states * token_kl)[here].sum())
        falls.append(expected)
    return max(largest(torch.stack(errors)), excess(torch.stack(falls)))


def _chosen(case: Case) -> Tensor:
    """[N] log-prob of each response to be the chosen one of two, both written by a policy better than the reference.

    The writer is the soft optimum at twice the temperature, half-way between the reference and π*.
    """
    writer = solve(replace(case.world, beta=2 * case.world.beta)).logps
    chances = response_logps(case.sequences, writer)
    logs = torch.empty_like(chances)
    for rows in case.rows:
        logs[rows] = chances[rows] + (2 * bradley_terry(case.returns[rows]) @ chances[rows].exp()).log()
    return logs


def fitted_to(world: TokenMDP, case: Case, chances: Tensor) -> TokenMDP:
    """Return the world whose reference writes responses with these log-probs (what SFT on them converges to)."""
    passing = behind(world, case.sequences, chances)
    logps = torch.where(world.choice[:, None], world.at(passing) - passing[:, None], world.reference_logps)
    return replace(world, reference_logps=torch.where(world.next_states < 0, -torch.inf, logps))


def _chosen_reward(case: Case, world: TokenMDP) -> Tensor:
    """[prompts] expected implicit reward of the chosen responses once DPO has converged from the world's reference."""
    implicit = world.beta * (
        token_logps(case.sequences, solve(world).logps).sums()
        - token_logps(case.sequences, world.reference_logps).sums()
    )
    weighted = _chosen(case).exp() * implicit
    return torch.stack([weighted[rows].sum() for rows in case.rows])


def chosen_falls_after_sft(case: Case) -> float:
    """By how much the expected implicit reward of chosen responses exceeds 0, the reference fitted to them."""
    return excess(_chosen_reward(case, fitted_to(case.world, case, _chosen(case))))


def chosen_falls_without_sft(case: Case) -> float:
    """The same with the reference that knows neither response."""
    return excess(_chosen_reward(case, case.world))


OMITTED = 1.0
"""Size of the rewards of the tokens that a loss does not see."""


def one_token(case: Case, step: int, omitted: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what DPO on the tokens of one step alone finds, what is predicted, and what those tokens earn.

    In these worlds reward and reference depend on the step and the token alone, and so does the policy that is fitted.
    The predicted strengths are those of Bradley-Terry on win rates between tokens, averaged over all that the loss does
    not see, by Zermelo's iteration.

    Args:
        case: a world in which reward and reference go by step and token.
        step: of the tokens that the loss sees.
        omitted: what the rewards of all other tokens are multiplied by.

    Returns:
        [n] β log π/π_ref, predicted and true reward of each token of the first prompt, each less its mean.
    """
    world, sequences, rows = case.world, case.sequences, case.rows[0]
    tokens, seen = sequences.tokens[rows, step], sequences.mask & (torch.arange(world.horizon) == step)
    rewards = sequences.taken(world.rewards)
    returns = torch.where(seen, rewards, omitted * rewards).sum(-1)
    pairs, weights = all_pairs(case, returns)
    first = torch.nonzero((world.depths == step) & (world.prompts == 0))[0]
    shared = torch.where((world.depths == step) & (world.prompts == 0), first, torch.arange(world.n_states))
    dpo = find_loss("dpo", {"beta": world.beta}).function

    def kept(logps: Tensor) -> TokenLogps:
        return TokenLogps(sequences.taken(logps) * seen, seen)

    reference = summed_pairs(kept(world.reference_logps), pairs)
    logps = minimise(
        TabularLM(world), lambda table: (dpo(summed_pairs(kept(table[shared]), pairs), reference) * weights).sum()
    )
    own = torch.nonzero(world.next_states[first].squeeze(0) >= 0).squeeze(-1)
    found = world.beta * log_ratios(logps, world.reference_logps)[first].squeeze(0)[own]
    which = (tokens[:, None] == own).double()
    wins = which.mT @ bradley_terry(returns[rows]) @ which
    earned = torch.stack([rewards[rows, step][tokens == token][0] for token in own])
    return found - found.mean(), _strengths(wins), earned - earned.mean()


def _strengths(wins: Tensor) -> Tensor:
    """Return the Bradley-Terry strengths of [n, n] counts of wins, their mean 0 (Zermelo 1929)."""
    games, strengths = wins + wins.mT, torch.ones(len(wins), dtype=wins.dtype)
    games = games.fill_diagonal_(0.0)
    for _ in range(2_000):
        strengths = (wins.sum(1) - wins.diag()) / (games / (strengths[:, None] + strengths)).sum(1)
    return strengths.log() - strengths.log().mean()


def kept_token_as_predicted(case: Case) -> float:
    """β log π/π_ref of DPO on the tokens of one step alone − what win rates over all that it does not see predict."""
    return largest(
        *(found - predicted for found, predicted, _ in (one_token(case, step, OMITTED) for step in range(2)))
    )


def kept_token_shrinks(case: Case) -> float:
    """By how much the slope of what it finds on what the tokens earn exceeds 1 less a hundredth."""
    slopes = [
        found @ earned / (earned @ earned) for found, _, earned in (one_token(case, step, OMITTED) for step in range(2))
    ]
    return excess(torch.stack(slopes) - 0.99)


def kept_token_is_its_reward(case: Case) -> float:
    """What it finds − what the tokens earn, which DPO on all tokens finds."""
    return largest(*(found - earned for found, _, earned in (one_token(case, step, OMITTED) for step in range(2))))


_PARTS, _BY_STEP, _OMISSION = "parts of a text", "reward by step", "non-collapsibility"

CLAIMS = (
    Claim("DPO", "on exact preferences DPO converges to π* (KL)", f"{PAPER} Eq. 9", dpo_finds_the_optimum, SMALL, 1e-8),
    broken("DPO", "… also where responses are in no pair", "2404.10719 Thm 4.1", dpo_without_coverage, SMALL),
    Claim("DPO", "with n sampled pairs the error falls as n^(-1/2)", "M-estimation", dpo_rate, SMALL, 0.1),
    Claim("likelihood", "E_ref[β log π*/π_ref] = −β KL(π_ref‖π*) ≤ 0", f"{PAPER} Eq. 16", reference_falls),
    Claim("likelihood", "reference fitted to the chosen: their reward falls", f"{PAPER} §5.4", chosen_falls_after_sft),
    broken("likelihood", "… also with a reference not fitted to them", f"{PAPER} §5.4", chosen_falls_without_sft),
    Claim(
        _PARTS,
        "a loss on one token alone finds what win rates predict",
        "Zermelo",
        kept_token_as_predicted,
        _BY_STEP,
        1e-6,
    ),
    Claim(
        _PARTS,
        "… which is less than that token's reward",
        "non-collapsibility",
        kept_token_shrinks,
        _BY_STEP,
    ),
    broken(
        _PARTS,
        "… finds that token's reward",
        "non-collapsibility",
        kept_token_is_its_reward,
        _BY_STEP,
    ),
)
