"""Gymnasium's toy texts: pictures without colours, actions by name and number, values by hand, luck that is exact."""

import numpy as np
import pytest

from tokenq.envs.environment import actions_of, copy_of, solution_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.envs.world import END, best_values, distances
from tokenq.errors import UserError

DRY = '{"is_slippery": false}'


def made(**options):
    return guarded(find_environment("gymnasium").make(options))


def test_a_lake_that_is_not_slippery_is_crossed_in_six_moves():
    world = made(arguments=DRY)
    assert world.reset(0) == "[S]FFF\nFHFH\nFFFH\nHFFG\nActions: left, down, right, up"
    start = solution_of(world)
    assert distances(start.world)[0] == 6
    for word in ("down", " Down", "2", "[right]", "down"):
        step = world.step(word)
        assert step[1:] == (0.0, False, False, {"luck": 0.0})
    assert step.observation == "  (Down)\nSFFF\nFHFH\nFFFH\nHF[F]G"
    last = world.step("right")
    assert last[1:] == (1.0, True, False, {"success": True, "luck": 0.0})
    assert (solution_of(world).state, actions_of(world)) == (END, ())


def test_the_value_of_the_slippery_lake_is_the_published_one():
    """The best policy of FrozenLake-v1 reaches the goal with probability 0.824 when it has all the time it needs."""
    world = made(horizon="1000")
    world.reset(0)
    start = solution_of(world)
    assert best_values(start.world, 1000).values[0, 0] == pytest.approx(14 / 17, abs=1e-3)


def test_luck_is_what_the_draw_added():
    """Σ (r − luck) is V_0 of the first state, less what the actions lost, whatever was drawn."""
    world = made(horizon="40")
    draws = np.random.default_rng(0)
    for seed in range(8):
        world.reset(seed)
        values = best_values(solution_of(world).world, 40)
        total = lost = 0.0
        for turn in range(40):
            here = solution_of(world)
            a = int(draws.integers(4))
            lost += values.values[turn, here.state] - values.q_values[turn, here.state, a]
            step = world.step(actions_of(world)[a])
            total += step.reward - step.info["luck"]
            if step.terminated or step.truncated:
                break
        end = solution_of(world)
        rest = 0.0 if end.state == END else values.values[end.turn, end.state]
        assert total + rest + lost == pytest.approx(values.values[0, 0])


def test_a_cliff_and_a_taxi():
    """13 steps around the cliff, at −1 each; what is driven follows the transitions that were listed."""
    cliff = made(game="CliffWalking-v1")
    first = cliff.reset(0)
    assert first.endswith("x  C  C  C  C  C  C  C  C  C  C  T\nActions: up, right, down, left")
    here = solution_of(cliff)
    assert distances(here.world)[here.state] == 13
    assert best_values(here.world, 30).values[0, here.state] == -13.0
    for way in ("up", *["right"] * 11):
        cliff.step(way)
    assert cliff.step("down")[1:4] == (-1.0, True, False)
    taxi = made(game="Taxi-v4")
    assert "[" in taxi.reset(1)
    here = solution_of(taxi)
    best = best_values(here.world, 30)
    total = 0.0
    for turn in range(30):
        now = solution_of(taxi)
        step = taxi.step(now.world.actions[now.state][int(best.q_values[turn, now.state].argmax())])
        total += step.reward
        if step.terminated:
            break
    assert step.info["success"]
    assert total == best.values[0, here.state]


def test_words_that_are_no_action_and_a_limit():
    world = made(horizon="2", arguments=DRY)
    world.reset(0)
    for odd in ("fly", "4", "-1", ""):
        assert world.step(odd)[1:] == (0.0, False, False, {"invalid": True})
    assert copy_of(world).step("down") == world.step("down")
    assert world.step("up")[2:] == (False, True, {"success": False, "luck": 0.0})


def test_an_environment_without_pictures_and_transitions_is_told_in_numbers():
    world = made(game="Blackjack-v1")
    assert world.reset(0).endswith("\nActions: 0, 1")
    assert solution_of(world) is None
    step = world.step("0")
    assert step.terminated
    assert step.reward in (-1.0, 0.0, 1.0)
    assert step.info == {"success": step.reward == 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"game": "FrozenLake-v9"}, "makes no FrozenLake-v9"),
        ({"arguments": "{"}, "JSONDecodeError"),
        ({"arguments": '{"slippery": true}'}, "unexpected keyword"),
        ({"game": "Pendulum-v1"}, "have to be Discrete"),
    ],
)
def test_what_cannot_be_made_is_said(options, said):
    with pytest.raises(UserError, match=said):
        made(**options)
