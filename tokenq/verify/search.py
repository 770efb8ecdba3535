"""Claims about search, checked with the project's own searches in worlds whose best response is known."""

import torch

from tokenq.search.beam import beam_search
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES
from tokenq.search.mcts import Aim, mcts
from tokenq.search.settings import Beams, Tree
from tokenq.verify.claim import PAPER, Case, Claim, broken
from tokenq.worlds.mdp import EOS
from tokenq.worlds.soft_q import log_ratios, response_logps, solve
from tokenq.worlds.tabular import TabularStepper


def _beams(case: Case, width: int) -> list[Branch]:
    """Return the best response of likelihood beams over the true π* of the world, for every prompt."""
    world = case.world
    stepper = TabularStepper(world, solve(world).logps, world.reference_logps)
    prompts = [world.prompt_ids(prompt) for prompt in case.prompts()]
    beams = Beams(width, length_penalty=0.0, early_stopping="never")
    return [found[0] for found in beam_search(Walk(stepper, prompts, Limits((EOS,), world.horizon)), beams)]


def _falls_short(case: Case, found: list[Branch], exact: torch.Tensor) -> float:
    """Return by how much the worst of the found scores differs from the best of all responses to its prompt."""
    best = [float(exact[rows].max()) for rows in case.rows]
    return max(abs(branch.score - value) for branch, value in zip(found, best, strict=True))


def full_width_beams(case: Case) -> float:
    """Score of the best beam at full width − max Σ log π*, by enumeration."""
    width = int(torch.bincount(case.sequences.prompts).max())
    return _falls_short(case, _beams(case, width), response_logps(case.sequences, case.optimum.logps))


def one_beam(case: Case) -> float:
    """The same with a single beam."""
    return _falls_short(case, _beams(case, 1), response_logps(case.sequences, case.optimum.logps))


def beams_find_value(case: Case) -> float:
    """β times the best beam's score + V*(s_1) − max (R + β log π_ref), by enumeration."""
    world, width = case.world, int(torch.bincount(case.sequences.prompts).max())
    conservative = case.returns + world.beta * response_logps(case.sequences, world.reference_logps)
    found = [world.beta * branch.score for branch in _beams(case, width)]
    best = [float(conservative[rows].max()) for rows in case.rows]
    starts = [float(case.optimum.values[prompt]) for prompt in case.prompts()]
    return max(abs(a + v - b) for a, v, b in zip(found, starts, best, strict=True))


def tree_search(case: Case) -> float:
    """Score of the best response of a tree that is searched to its end − max Σ β log π*/π_ref, by enumeration."""
    world = case.world
    logps = solve(world).logps
    stepper = TabularStepper(world, logps, world.reference_logps)
    prompts = [world.prompt_ids(prompt) for prompt in case.prompts()]
    tree = Tree(simulations=world.n_states, children=0, rollouts=0)
    found = mcts(Walk(stepper, prompts, Limits((EOS,), world.horizon)), tree, Aim(OBJECTIVES["reward"], world.beta))
    ratios = world.beta * log_ratios(case.optimum.logps, world.reference_logps)
    return _falls_short(case, [branches[0] for branches, _ in found], case.sequences.taken(ratios).sum(-1))


CLAIMS = (
    Claim("search", "beams of full width return the argmax of Σ log π*", f"{PAPER} §5.2", full_width_beams),
    broken("search", "… one beam does", f"{PAPER} §5.2", one_beam),
    Claim("search", "they find the argmax of R + β log π_ref, V* unseen", f"{PAPER} Eq. 13", beams_find_value),
    Claim("search", "MCTS to its end returns the argmax of Σ β log π*/π_ref", f"{PAPER} §5.2", tree_search),
)
