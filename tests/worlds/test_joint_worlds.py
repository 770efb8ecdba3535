"""Joint against alone: what a refiner trained alone finds, predicted by hand, and the order of the ways of training."""

import itertools

import numpy as np
import pytest

from bench.joint_worlds import COLUMNS, STRENGTH, drawn_world, shares, slope_of_one_token
from tokenq.worlds.hybrid import solve
from tokenq.worlds.soft_q import token_logps


def strengths_of(world):
    """Bradley-Terry strengths of the prompts by their win rates over pictures of one noise (Zermelo's iteration)."""
    written = token_logps(world.sequences, world.words.reference_logps).sums().exp().numpy()
    noise, steps, rewards = (t.numpy() for t in (world.noise_logps.exp(), world.step_logps.exp(), world.rewards))
    wins = np.zeros((len(written), len(written)))
    for one, other in itertools.permutations(range(len(written)), 2):
        better = 1 / (1 + np.exp(rewards[other] - rewards[one][:, None]))
        for start, chance in enumerate(noise):
            rate = steps[one, 0, start] @ better @ steps[other, 0, start]
            wins[one, other] += chance * written[one] * written[other] * rate
    found = np.ones(len(written))
    for _ in range(5_000):
        games = (wins + wins.T) / (found[:, None] + found)
        found = wins.sum(1) / games.sum(1)
    return np.log(found)


def test_a_refiner_alone_finds_averaged_win_rates_and_joint_is_best():
    world = drawn_world(0, 1, 1.0)
    attained = dict(zip(COLUMNS, shares(world, "one"), strict=True))
    singles = attained["refiner alone"], attained["image alone"], attained["separate losses"]
    assert min(singles) > 0
    assert max(singles) < attained["joint"] < 1
    right = STRENGTH * token_logps(world.sequences, solve(world).words.logps).sums().numpy()
    right -= STRENGTH * token_logps(world.sequences, world.words.reference_logps).sums().numpy()
    right -= right.mean()
    assert attained["slope alone"] == pytest.approx(strengths_of(world) @ right / (right @ right), abs=1e-4)


def test_a_token_alone_shrinks_with_what_is_not_seen():
    rows = slope_of_one_token((0.0, 1.0), range(1))
    assert [row[2] for row in rows] == pytest.approx([row[3] for row in rows], abs=1e-6)
    assert rows[0][2] == pytest.approx(1.0, abs=1e-6)
    assert rows[1][2] == pytest.approx(rows[1][4], abs=0.1)
    assert rows[1][2] < 0.9
