"""Gridworlds: exact values by hand, chance that follows the seed, luck that sums to what happened."""

import math

import numpy as np
import pytest

from tokenq.envs.environment import Environment, actions_of, copy_of, solution_of
from tokenq.envs.table import find_environment
from tokenq.envs.world import END, best_values, distances, luck, soft_values
from tokenq.errors import UserError

CORRIDOR = {"map": "S.G", "horizon": "3"}


def made(name="gridworld", **options):
    return find_environment(name).make(options)()


def test_the_shortest_way_ends_in_success():
    world = made()
    assert isinstance(world, Environment)
    assert world.reset(0).endswith("X..G\nYou are at row 1, column 1.")
    steps = [world.step(way) for way in ("south", "Go South.", "east", "south", "east", "east")]
    assert [step.observation for step in steps[:2]] == ["You are at row 2, column 1.", "You are at row 3, column 1."]
    assert steps[3].observation == "You are at row 4, column 2."
    assert (steps[-1].reward, steps[-1].terminated, steps[-1].info["success"]) == (1.0, True, True)
    assert solution_of(world).state == END
    assert actions_of(world) == ()


def test_walls_holes_and_words_that_are_no_direction():
    world = made(penalty="0.25")
    world.reset(0)
    assert world.step("north")[:2] == ("You are at row 1, column 1.", -0.25)
    odd = world.step("jump")
    assert (odd.reward, odd.terminated, odd.info) == (-0.25, False, {"invalid": True})
    for way in ("east", "east", "east"):
        world.step(way)
    assert world.step("south")[:4] == ("You fell into X.", -0.25, True, False)


def test_values_of_a_corridor_by_hand():
    """Two steps from the goal: with three to go every way may cost one, with two only east is right, with one none."""
    world = made(**CORRIDOR)
    world.reset(0)
    solution = solution_of(world)
    q = best_values(solution.world, 3).q_values
    assert q[0, 0].tolist() == [1, 1, 1, 1]
    assert q[1, 0].tolist() == [0, 1, 0, 0]
    assert q[1, 1].tolist() == [1, 1, 1, 0]
    assert q[2].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]
    assert distances(solution.world).tolist() == [2, 1]


def test_soft_values_of_a_corridor_by_hand():
    """One action left beside the goal: V = β log((3 + e^{1/β})/4); two left at the start: β log((3 + e^{V/β})/4)."""
    world = made(**CORRIDOR)
    world.reset(0)
    beta = 0.5
    beside = beta * math.log((3 + math.exp(1 / beta)) / 4)
    values = soft_values(solution_of(world).world, 3, beta).values
    assert values[2].tolist() == pytest.approx([0, beside])
    assert values[1, 0] == pytest.approx(beta * math.log((3 + math.exp(beside / beta)) / 4))


def test_a_slippery_step_goes_astray_as_often_as_it_says_and_luck_has_mean_zero():
    world = made("slippery_gridworld", map="S.G/X..", horizon="1", start="S")
    world.reset(0)
    solution = solution_of(world)
    east = solution.world.probabilities[0, 1]
    assert east.tolist() == pytest.approx([0.8, 0.1, 0.1])
    assert solution.world.next_states[0, 1].tolist() == [1, 0, END]
    values = best_values(solution.world, 4)
    found = luck(solution.world, values)
    assert (solution.world.probabilities * found).sum(-1) == pytest.approx(np.zeros(found.shape[:3]))
    ways = []
    for seed in range(400):
        world.reset(seed)
        ways.append(world.step("east").observation)
    assert ways.count("You are at row 1, column 2.") == pytest.approx(320, abs=32)  # four deviations


def test_luck_is_the_return_less_what_was_expected():
    """Σ (r − luck) of the best policy is V_0: 1 step of 0.8 to G, 0.1 to stay, 0.1 into X, of one action."""
    world = made("slippery_gridworld", map="SG/X.", horizon="1")
    lucks = {}
    for seed in range(60):
        world.reset(seed)
        step = world.step("east")
        lucks[step.observation] = step.reward - step.info["luck"]
    assert lucks == pytest.approx(dict.fromkeys(lucks, 0.8))
    assert len(lucks) == 3


def test_a_copy_goes_on_alone_and_alike():
    world = made("slippery_gridworld", start="any")
    world.reset(5)
    world.step("south")
    one, other = copy_of(world), copy_of(world)
    ways = ["east", "south", "east", "south"]
    assert [one.step(way) for way in ways] == [other.step(way) for way in ways]
    assert solution_of(world).turn == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slipp": "0.1"}, "Did you mean 'slip'"),
        ({"slip": "often"}, "takes a number"),
        ({"map": "S./G"}, "is none"),
        ({"map": "..G"}, "no cell to begin in"),
        ({"horizon": "0"}, "out of range"),
    ],
)
def test_options_are_refused_in_words(options, said):
    with pytest.raises(UserError, match=said):
        made(**options)


def test_an_unknown_environment_is_told_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'gridworld'"):
        find_environment("grid_world")
