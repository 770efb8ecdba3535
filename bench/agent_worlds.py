"""What do preferences over whole episodes teach an agent? `python -m bench.agent_worlds`, tables on standard output.

TextWorld games whose states are all listed, with commands as actions and a row of logits for each state; so return,
success and the credit of every command are computed and not sampled. The reference takes any command (65 %) or one of
the best (35 %). Pairs of its episodes are labelled by Bradley-Terry on returns; policies are fitted to them to the
last digits, with a prior that holds logits near the reference's. Beside them stand pairs that share their beginning,
pairs of single commands that are labelled by exact Q*, and an expert's episodes against the reference's own.

The watch needs no returns: it warns where the episodes of the pairs are likelier under the reference than under the
policy, which has then moved to episodes that no pair has shown.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.agent_games import BETA, HORIZON, Episodes, Game, described, play, whole
from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps
from tokenq.stats.bootstrap import mean_interval
from tokenq.stats.coverage import Coverage, Shown, coverage_of
from tokenq.worlds.draws import generator
from tokenq.worlds.tabular import minimise

GAMES = {"3 rooms, 4 objects, quest of 3, seed 2": (3, 4, 3, 2), "5 rooms, 6 objects, quest of 5, seed 1": (5, 6, 5, 1)}
COUNTS = (64, 512)
"""Numbers of pairs."""


Sides = tuple[Episodes, Episodes]


def labelled(one: Episodes, other: Episodes, lead: Tensor, dice: torch.Generator) -> Sides:
    """Return (chosen, rejected): the one with probability σ(lead), which is by how much it is worth more."""
    wins = (torch.rand(len(lead), generator=dice, dtype=torch.float64) < torch.sigmoid(lead))[:, None]
    both = list(zip(one, other, strict=True))
    chosen = Episodes(*(torch.where(wins, a, b) for a, b in both))
    return chosen, Episodes(*(torch.where(wins, b, a) for a, b in both))


def by_return(game: Game, one: Episodes, other: Episodes, dice: torch.Generator, unit: float = 1.0) -> Sides:
    """Return pairs that are labelled by their returns, in some unit."""
    lead = one.taken(game.rewards).sum(1) - other.taken(game.rewards).sum(1)
    return labelled(one, other, lead / unit, dice)


def whole_pairs(game: Game, count: int, dice: torch.Generator, unit: float = 1.0) -> Sides:
    """Return pairs of the reference's episodes."""
    return by_return(game, *(whole(game, game.reference, count, dice) for _ in range(2)), dice, unit)


def surer_pairs(game: Game, count: int, dice: torch.Generator) -> Sides:
    """Return the same, by a labeller who errs less often: returns count in units of β."""
    return whole_pairs(game, count, dice, BETA)


def middle(game: Game, count: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return states [N] of a turn [N] that is drawn from an episode of the reference."""
    played = whole(game, game.reference, count, dice)
    turns = (torch.rand(count, generator=dice) * played.mask.sum(1)).long()
    return played.states[torch.arange(count), turns], turns


def shared_beginning(game: Game, count: int, dice: torch.Generator) -> Sides:
    """Return pairs that go on from the same state: what came before cancels."""
    states, turns = middle(game, count, dice)
    return by_return(game, *(play(game, game.reference, states, HORIZON - turns, dice) for _ in range(2)), dice)


def single_commands(game: Game, count: int, dice: torch.Generator) -> Sides:
    """Return pairs of two different commands in one state, labelled by their exact soft Q*."""
    states, turns = middle(game, count, dice)
    two = game.reference[states].multinomial(2, generator=dice)
    exact = torch.as_tensor(game.values.q_values)[turns, states].gather(1, two)
    mask = torch.ones(count, 1, dtype=torch.bool)
    one, other = (Episodes(states[:, None], two[:, [side]], mask) for side in range(2))
    return labelled(one, other, exact[:, 0] - exact[:, 1], dice)


def expert_pairs(game: Game, count: int, dice: torch.Generator) -> Sides:
    """Return an expert's episodes against the reference's, as ETO (2403.02502) has them."""
    expert = game.best / game.best.sum(1, keepdim=True).double()
    return whole(game, expert, count, dice), whole(game, game.reference, count, dice)


Pairs = Callable[[Game, int, torch.Generator], Sides]

ARMS: Mapping[str, tuple[Pairs, str, Mapping[str, float]]] = {
    "trajectory DPO": (whole_pairs, "dpo", {}),
    "trajectory DPO, labels σ(Δ/β)": (surer_pairs, "dpo", {}),
    "DMPO, γ 0.7": (whole_pairs, "dmpo", {"gamma": 0.7}),
    "shared beginning": (shared_beginning, "dpo", {}),
    "single commands, exact Q*": (single_commands, "dpo", {}),
    "ETO, expert against own": (expert_pairs, "dpo", {}),
}
"""Whose pairs, and the loss with its parameters."""


class Policy(nn.Module):
    """A row of logits for every state, those of the reference at first."""

    def __init__(self, game: Game) -> None:
        super().__init__()
        self.possible, self.start = game.possible, torch.where(game.possible, game.reference, 1.0).log()
        self.logits = nn.Parameter(self.start.clone())

    def table(self) -> Tensor:
        """Return [S, A] log π, 0 where there is no command."""
        logps = torch.where(self.possible, self.logits, -torch.inf).log_softmax(1)
        return torch.where(self.possible, logps, 0.0)


def fitted(game: Game, sides: Sides, loss: str, parameters: Mapping[str, float], prior: float) -> Tensor:
    """Return [S, A] log π that a loss of the package finds on all pairs, held by prior/2 ‖logits − those of π_ref‖²."""
    policy, objective = Policy(game), find_loss(loss, {"beta": BETA, **parameters}).function
    before = PairLogps(*(side.logps(policy.start) for side in sides))

    def value(table: Tensor) -> Tensor:
        held = (policy.logits - policy.start).square().sum()
        return objective(PairLogps(*(side.logps(table) for side in sides)), before).sum() + prior / 2 * held

    return minimise(policy, value)


class Measures(NamedTuple):
    """What a policy is worth, and its credit, exactly.

    Attributes:
        gain: expected return.
        success: probability to win.
        auc: how β log π/π_ref of the reference's commands ranks the best ones above the others.
        correlation: of the same with A* = Q* − V* of the first turn.
    """

    gain: float
    success: float
    auc: float
    correlation: float


def measured(game: Game, logps: Tensor) -> Measures:
    """Return the measures of a policy [S, A]."""
    policy = torch.where(game.possible, logps.exp(), 0.0)
    weights = game.visits(game.reference).sum(0)
    met = weights > 0
    credit = (BETA * (logps - torch.where(game.possible, game.reference, 1.0).log()))[met].numpy()
    exact = (game.values.q_values[0] - game.values.values[0][:, None])[met.numpy()]
    spread = np.cov(credit, exact, aweights=weights[met].numpy())
    return Measures(
        game.expected(policy, game.rewards),
        game.expected(policy, game.wins.double()),
        float(roc_auc_score(game.best[met], credit, sample_weight=weights[met])),
        float(spread[0, 1] / np.sqrt(spread[0, 0] * spread[1, 1])),
    )


def coverage(game: Game, logps: Tensor, sides: Sides) -> Coverage | None:
    """Return how much of what a policy plays both sides show; None where they begin anywhere."""
    if any(bool(side.states[:, 0].any()) for side in sides):
        return None
    shown, start = list[Shown](), Policy(game).start
    for side in sides:
        rows = torch.cat((side.states, side.commands, side.mask), 1).numpy()
        own, reference = (side.taken(table).sum(1).tolist() for table in (logps, start))
        shown += [Shown(0, row.tobytes(), *both) for row, *both in zip(rows, own, reference, strict=True)]
    return coverage_of(shown)


class Run(NamedTuple):
    """A policy that was fitted, and how much of it and of the reference its pairs cover."""

    seed: int
    measures: Measures
    coverage: Coverage | None

    @property
    def alarming(self) -> bool:
        """Whether the policy has moved to episodes that the pairs do not show."""
        return self.coverage is not None and self.coverage.lost


def fit_all(game: Game, arm: str, count: int, prior: float, seeds: int) -> list[Run]:
    """Return an arm's policies."""
    pairs, loss, parameters = ARMS[arm]
    found = []
    for seed in range(seeds):
        sides = pairs(game, count, generator(seed))
        logps = fitted(game, sides, loss, parameters, prior)
        found.append(Run(seed, measured(game, logps), coverage(game, logps, sides)))
    return found


def table(game: Game, prior: float, seeds: int) -> dict[tuple[str, int], list[Run]]:
    """Print the table of a game, and return its runs by arm and number of pairs."""
    print(f"| reference | | {game.expected(game.reference, game.rewards):.2f} | ", end="")
    print(f"{game.expected(game.reference, game.wins.double()):.2f} | | | | |")
    found = {}
    for count in COUNTS:
        for arm in ARMS:
            runs = found[arm, count] = fit_all(game, arm, count, prior, seeds)
            cells = [shown(np.array(column)) for column in zip(*(run.measures for run in runs), strict=True)]
            policies = [run.coverage.policy for run in runs if run.coverage is not None]
            cells.append(shown(np.array(policies)) if policies else "")
            warned = f"{sum(run.alarming for run in runs)} of {seeds}" if policies else ""
            print(f"| {arm} | {count} | {' | '.join(cells)} | {warned} |", flush=True)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16, help="of the data")
    parser.add_argument("--priors", type=float, nargs="+", default=[0.05, 0.2], help="how tightly logits are held")
    asked, began = parser.parse_args(), time.process_time()
    torch.set_num_threads(1)
    for prior in asked.priors:
        report(prior, asked.seeds)
    print(f"{(time.process_time() - began) / 60:.1f} CPU-minutes")


def report(prior: float, seeds: int) -> None:
    """Print the tables of all games, and how often the watch was right."""
    outcomes: Counter[tuple[bool, bool]] = Counter()
    for title, sizes in GAMES.items():
        game, about = described(sizes)
        start = game.expected(game.reference, game.rewards)
        print(f"\n{title}, prior {prior:g}: {about}\n\n{_HEAD}")
        found = table(game, prior, seeds)
        print()
        for (arm, count), runs in found.items():
            for run in runs:
                if run.coverage is not None:
                    outcomes[run.measures.gain < start, run.alarming] += 1
                if run.coverage is not None and run.coverage.lost:
                    print(
                        f"warning: {arm}, {count} pairs, seed {run.seed}: {run.coverage.policy:.0%} of what the "
                        f"policy plays is in the pairs, {run.coverage.reference:.0%} of what the reference plays "
                        f"(return {run.measures.gain:.2f} against {start:.2f})"
                    )
    bad, good = ((outcomes[below, True], outcomes[below, True] + outcomes[below, False]) for below in (True, False))
    print(f"\nwarned of {bad[0]} of {bad[1]} policies below the reference, and of {good[0]} of {good[1]} others")


_HEAD = """\
| pairs of | number | return | success | credit AUC | correlation with A* | covered | warned |
|---|--:|--:|--:|--:|--:|--:|--:|"""


def shown(values: np.ndarray) -> str:
    """Return the mean with its interval over seeds."""
    one = mean_interval(values)
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


if __name__ == "__main__":
    main()
