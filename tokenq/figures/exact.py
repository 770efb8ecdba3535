"""The quantities of the figures in worlds that are solved exactly: what a perfect policy shows, without any training.

Random token decision processes of a few tokens and steps, their optimum by backward induction, everything by
enumeration. Nothing is fitted; the intervals are over worlds.
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenq.search.beam import beam_search
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.settings import Beams
from tokenq.stats.areas import example_metrics
from tokenq.stats.bootstrap import mean_interval
from tokenq.stats.outcome import Cell, Table
from tokenq.worlds.draws import dense
from tokenq.worlds.mdp import EOS, TokenMDP
from tokenq.worlds.soft_q import bradley_terry, response_logps, returns, solve
from tokenq.worlds.tabular import TabularStepper

WORLDS = range(40)
"""Seeds of the worlds."""

_SEE = "Exactly, in {} random worlds (means over worlds, 95 % intervals). `tokenq verify` checks the theory itself."


def _means(name: str, rows: Mapping[str, Sequence[float]], note: str, head: str) -> Table:
    cells: list[list[Cell]] = [[label, mean_interval(np.array(values))] for label, values in rows.items()]
    return Table(name, ("", head), cells, f"{note} {_SEE.format(len(next(iter(rows.values()))))}")


def exact_drift(seeds: Sequence[int] = WORLDS) -> Table:
    """Return how far pairs drawn from the reference go under π*, trained from it and from the law of chosen responses.

    A pair is two draws from π_ref, labelled by Bradley-Terry on the true return R. Without SFT on chosen responses the
    policy is π* ∝ π_ref exp(R/β); with it the reference is the law of chosen responses itself. That law is at most
    twice π_ref, whatever the labels, so that chosen rewards fall by at most β ln 2 more.
    """
    found: dict[str, list[float]] = {}
    for seed in seeds:
        world = dense(seed)
        sequences = world.sequences()
        scores, logps = returns(world, sequences), response_logps(sequences, world.reference_logps)
        per_prompt = [
            drift_of(scores[rows], logps[rows].exp(), world.beta)
            for rows in map(sequences.of_prompt, range(world.n_prompts))
        ]
        for one in per_prompt:
            gap = one["chosen, after SFT on chosen"] - one["chosen, without SFT on chosen"]
            one |= {"chosen, after − without": gap, "its bound, −β ln 2": -world.beta * log(2)}
        for name in per_prompt[0]:
            found.setdefault(name, []).append(sum(one[name] for one in per_prompt) / len(per_prompt))
    note = "Pairs are drawn from the reference and labelled by Bradley-Terry; the policy is the optimum, not trained."
    return _means("the same, exactly", found, note, "implicit reward, nats")


def drift_of(scores: Tensor, chances: Tensor, beta: float) -> dict[str, float]:
    """Return the mean implicit rewards of one prompt's pairs, in both settings.

    Args:
        scores: [n] R of every response.
        chances: [n] π_ref of every response.
        beta: KL temperature.
    """
    chosen = 2 * chances * (bradley_terry(scores) @ chances)
    rejected = 2 * chances - chosen
    found = {}
    for name, reference in (("without SFT on chosen", chances), ("after SFT on chosen", chosen)):
        rewards = scores - beta * torch.logsumexp(scores / beta + reference.log(), 0)
        policy = reference * (rewards / beta).exp()
        found[f"chosen, {name}"] = float(chosen @ rewards)
        found[f"rejected, {name}"] = float(rejected @ rewards)
        found[f"both, {name}"] = float(chances @ rewards)
        found[f"−β KL(π_ref‖π), {name}"] = -beta * float(reference @ (reference / policy).log())
    return found


class _Corrupted(NamedTuple):
    """A response with one token replaced: scores [T, M] of M read-outs, and which token it is [T]."""

    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]


_READOUTS = ("implicit reward", "centred advantage", "policy surprisal", "reference surprisal")


def exact_credit(seeds: Sequence[int] = WORLDS) -> Table:
    """Return how well the read-outs of π* find a token that was replaced.

    The response is the likeliest under π*, one of its tokens replaced by the reference's favourite among those whose
    r + V* is lower; what follows is again the likeliest under π*.
    """
    found: dict[str, list[float]] = {}
    for seed in seeds:
        parts = [example_metrics(one.scores, one.wrong, (1,)) for one in _corrupted(dense(seed))]
        for metric, said in (("auroc", "AUROC"), ("top_1", "top-1")):
            values = np.array([part[metric] for part in parts if metric in part]).mean(0)
            for name, value in zip((*_READOUTS, "chance"), values, strict=True):
                found.setdefault(f"{said}, {name}", []).append(float(value))
    note = "The likeliest response of π* with one token replaced by the reference's favourite among the worse ones."
    return _means("the same, exactly", found, note, "mean")


def _corrupted(world: TokenMDP) -> list[_Corrupted]:
    optimum = solve(world)
    gains = world.rewards + world.at(optimum.values)
    found = []
    for prompt in range(world.n_prompts):
        best = _greedy(world, optimum.logps, prompt)
        for place, (state, token) in enumerate(best):
            worse = (gains[state] < gains[state, token]) & (world.next_states[state] >= 0)
            if not worse.any():
                continue
            other = int(world.reference_logps[state].masked_fill(~worse, -torch.inf).argmax())
            path = [*best[:place], (state, other)]
            path += _greedy(world, optimum.logps, int(world.next_states[state, other]))
            found.append(_read(world, optimum.logps, path, place))
    return found


def _greedy(world: TokenMDP, logps: Tensor, state: int) -> list[tuple[int, int]]:
    """Return the (state, token) steps of the likeliest continuation, token by token."""
    path = []
    while not world.terminal[state]:
        token = int(logps[state].argmax())
        path.append((state, token))
        state = int(world.next_states[state, token])
    return path


def _read(world: TokenMDP, logps: Tensor, path: Sequence[tuple[int, int]], place: int) -> _Corrupted:
    states, tokens = (torch.tensor(side) for side in zip(*path, strict=True))
    own, ref = logps[states, tokens], world.reference_logps[states, tokens]
    entropies = -torch.where(torch.isinf(logps), 0.0, logps.exp() * logps).sum(-1)[states]
    nothing = torch.zeros_like(own)  # the same everywhere: chance
    scores = torch.stack((ref - own, -(own + entropies), -own, -ref, nothing), 1)
    return _Corrupted(scores.numpy(), np.arange(len(path)) == place)


WIDTHS = (1, 2, 3, 5)


def exact_search(seeds: Sequence[int] = WORLDS) -> Table:
    """Return the beams' results under π*, by the return Σ r and by their objective in theory, Σ r + β log π_ref.

    Beams maximise Σ log π*, without length normalisation; beside them a sample of π*, and the best of all responses.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    for seed in seeds:
        for name, values in _searches(dense(seed)).items():
            found.setdefault(name, []).append(values)
    rows: list[list[Cell]] = [
        [name, *(mean_interval(column) for column in np.array(values).T)] for name, values in found.items()
    ]
    note = "Beams over the true π*, no length normalisation: wide enough, they find max Σ r + β log π_ref, not max Σ r."
    head = ("", "Σ r", "Σ r + β log π_ref")
    return Table("the same, exactly", head, rows, f"{note} {_SEE.format(len(seeds))}")


def _searches(world: TokenMDP) -> dict[str, NDArray[np.float64]]:
    """Return (Σ r, Σ r + β log π_ref) of what each search finds, mean over the prompts of a world."""
    sequences, logps = world.sequences(), solve(world).logps
    scores = returns(world, sequences)
    both = torch.stack((scores, scores + world.beta * response_logps(sequences, world.reference_logps)), 1)
    chances = response_logps(sequences, logps).exp()
    prompts = [sequences.of_prompt(prompt) for prompt in range(world.n_prompts)]
    found = {"a sample of π*": torch.stack([chances[rows] @ both[rows] for rows in prompts])}
    for width in (*WIDTHS, max(map(len, prompts))):
        places = [_place(world, sequences.ends, branch) for branch in _beams(world, logps, width)]
        name = f"beams, width {width}" if width in WIDTHS else "as many beams as responses"
        found[name] = both[torch.tensor(places)]
    found["the best response of each"] = torch.stack([both[rows].amax(0) for rows in prompts])
    return {name: values.mean(0).numpy() for name, values in found.items()}


def _place(world: TokenMDP, ends: Tensor, branch: Branch) -> int:
    """Return the index of each branch among all responses."""
    state = world.walk((world.vocab_size + branch.prompt, *branch.tokens))
    return int(torch.nonzero(ends == state)[0])


def _beams(world: TokenMDP, logps: Tensor, width: int) -> list[Branch]:
    stepper = TabularStepper(world, logps, world.reference_logps)
    prompts = [world.prompt_ids(prompt) for prompt in range(world.n_prompts)]
    beams = Beams(width, length_penalty=0.0, early_stopping="never")
    return [found[0] for found in beam_search(Walk(stepper, prompts, Limits((EOS,), world.horizon)), beams)]
