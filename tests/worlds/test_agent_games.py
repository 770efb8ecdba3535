"""The games of `bench.agent_worlds`, on two rooms: go or look in the first, win or back in the second."""

import math

import pytest
import torch

from bench.agent_games import BETA, Episodes, game_of
from bench.agent_worlds import coverage, labelled, measured, surer_pairs, whole_pairs
from tokenq.envs.world import END, Outcome, world_of

WORLD = world_of(
    ("first", "second"),
    (("go", "look"), ("win", "back")),
    (
        ([Outcome(1.0, 1, -0.05)], [Outcome(1.0, 0, -0.05)]),
        ([Outcome(1.0, END, 0.95, True)], [Outcome(1.0, 0, -0.05)]),
    ),
)
GAME = game_of(WORLD)
LIKELY = 0.65 / 2 + 0.35
"""Of the best of two commands under the reference."""


def episodes(*rows):
    """Return episodes of (state, command) pairs, padded to three commands."""
    padded = [[*row, *[(0, 0)] * (3 - len(row))] for row in rows]
    table = torch.tensor(padded)
    mask = torch.tensor([[place < len(row) for place in range(3)] for row in rows])
    return Episodes(table[..., 0], table[..., 1], mask)


SHORT, LONG = [(0, 0), (1, 0)], [(0, 1), (0, 0), (1, 0)]


def test_reference_and_returns_by_hand():
    """The best way earns 5 (0.95 − 0.05); one that only looks, 12 commands at 0.25 each."""
    assert GAME.best.tolist() == [[True, False], [True, False]]
    assert GAME.reference[0].tolist() == pytest.approx([LIKELY, 1 - LIKELY])
    assert GAME.expected(GAME.best.double(), GAME.rewards) == pytest.approx(4.5)
    looking = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert GAME.expected(looking, GAME.rewards) == pytest.approx(-3.0)
    visits = GAME.visits(GAME.reference)
    assert visits[1].tolist() == [
        pytest.approx([(1 - LIKELY) * LIKELY, (1 - LIKELY) ** 2]),
        pytest.approx([LIKELY**2, LIKELY * (1 - LIKELY)]),
    ]
    assert GAME.expected(GAME.reference, GAME.wins.double()) == pytest.approx(
        float((visits * GAME.wins).sum()), abs=1e-12
    )


def test_exact_values_are_soft_and_last_as_long_as_the_game():
    """One command before the end only a win is worth anything: β log(0.675 exp(4.75/β) + 0.325 exp(−0.25/β))."""
    last = BETA * math.log(LIKELY * math.exp(4.75 / BETA) + (1 - LIKELY) * math.exp(-0.25 / BETA))
    assert GAME.values.values[11].tolist() == pytest.approx([-0.25, last])


def test_what_pairs_cover():
    """Each different episode counts once, whichever side it is on; pairs that begin elsewhere say nothing."""
    better = torch.where(GAME.best, 0.9, 0.1).double().log()
    found = coverage(GAME, better, (episodes(SHORT, SHORT), episodes(LONG, SHORT)))
    assert (found.policy, found.reference) == pytest.approx((0.9**2 * 1.1, LIKELY**2 * (2 - LIKELY)))
    assert coverage(GAME, better, (episodes([(1, 0)]), episodes(SHORT))) is None


def test_turns_are_parted_by_what_is_no_action():
    table = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    found = episodes(LONG).logps(table)
    assert found.logps.tolist() == [[-2.0, 0.0, -1.0, 0.0, -3.0, 0.0]]
    assert found.mask.tolist() == [[True, False] * 3]
    assert episodes(SHORT).logps(table).mask.tolist() == [[True, False, True, False, False, False]]


def test_labels_and_measures():
    """A lead of 50 is certain; the reference has no credit at all, and a policy that looks less has all of it."""
    one, other = episodes(LONG), episodes(SHORT)
    chosen, rejected = labelled(one, other, torch.tensor([50.0]), torch.Generator().manual_seed(0))
    assert (chosen.commands.tolist(), rejected.commands.tolist()) == (one.commands.tolist(), other.commands.tolist())
    better = torch.where(GAME.best, 0.9, 0.1).double().log()
    found = measured(GAME, better)
    assert found.auc == 1.0
    assert found.gain > GAME.expected(GAME.reference, GAME.rewards)


def test_a_surer_labeller_counts_returns_in_units_of_beta():
    """The same episodes; the share of pairs whose better one is chosen is σ(Δ/β) in place of σ(Δ), β a half."""
    count = 4000
    shares = []
    for pairs in (whole_pairs, surer_pairs):
        sides = pairs(GAME, count, torch.Generator().manual_seed(0))
        leads = sides[0].taken(GAME.rewards).sum(1) - sides[1].taken(GAME.rewards).sum(1)
        apart = torch.isclose(leads.abs(), torch.tensor(0.25, dtype=leads.dtype))  # one command longer
        shares.append(float((leads[apart] > 0).double().mean()))
    assert shares == pytest.approx([1 / (1 + math.exp(-0.25)), 1 / (1 + math.exp(-0.5))], abs=0.04)
