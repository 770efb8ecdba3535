"""TextArena: chance that is its own, opponents, moves that are not allowed, a lake whose values are known."""

import random
import re

import numpy as np
import pytest

from tokenq.envs.environment import actions_of, copy_of, solution_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.envs.world import END, best_values, distances
from tokenq.errors import UserError


def made(**options):
    return guarded(find_environment("textarena").make(options))


def played(world, seed, moves):
    said = [world.reset(seed)]
    for move in moves:
        step = world.step(move)
        said.append(step.observation)
        if step.terminated:
            return said, step
    return said, step


def test_a_lake_is_won_and_only_what_is_new_is_said():
    world = made()
    first = world.reset(3)
    assert first.startswith("Welcome to Frozen Lake!")
    assert "|  H  |     |     |     |" not in first.splitlines()[0]
    step = world.step("right")
    assert step.observation.startswith("You moved right to position (0, 1).\nCurrent Board:\n+-----+")
    assert "Welcome" not in step.observation
    assert (step.reward, step.terminated, step.info) == (0.0, False, {})
    assert actions_of(world)[:4] == ("[up]", "[down]", "[left]", "[right]")


def test_a_lake_has_the_values_that_playing_it_has():
    """Every state's best number of moves, and every single move from it, against the game itself."""
    world = made()
    for seed in range(3):
        world.reset(seed)
        start = solution_of(world)
        assert len(start.world.names) == 2 * (16 - 3 - 1)
        assert distances(start.world)[start.state] == 6  # opposite corners of 4 by 4
        best = best_values(start.world, 6)
        assert best.values[0, start.state] == 1.0
        here = start
        draws = random.Random(seed)
        for turn in range(12):
            a = draws.randrange(4)
            step = world.step(here.world.actions[here.state][a])
            assert step.reward == here.world.rewards[here.state, a, 0]
            after = solution_of(world)
            assert (after.state, after.turn) == (here.world.next_states[here.state, a, 0], turn + 1)
            assert step.terminated == (after.state == END)
            if step.terminated:
                assert step.info["success"] == here.world.success[here.state, a, 0]
                break
            here = after


def test_the_best_moves_win():
    world = made(reward="success")
    world.reset(1)
    for turn in range(6):
        here = solution_of(world)
        best = best_values(here.world, 6).q_values[turn, here.state]
        step = world.step(here.world.actions[here.state][int(np.argmax(best))])
    assert (step.reward, step.terminated, step.info) == (1.0, True, {"success": True})


def test_part_of_the_way_is_paid_unless_only_success_is():
    """Two moves of six along the edge, then twice into the wall: a third; the second time ends it."""
    for reward, expected in (("score", 2 / 6), ("success", 0.0)):
        seed = next(s for s in range(50) if _edge_is_free(s))
        _, step = played(made(reward=reward), seed, ["right", "right", "up", "up"])
        assert step[1:] == (pytest.approx(expected), True, False, {"success": False, "invalid": True})


def _edge_is_free(seed):
    world = made()
    world.reset(seed)
    return world.step("right").terminated is False and world.step("right").terminated is False


def test_a_move_in_no_form_is_counted_and_said():
    world = made()
    world.reset(3)
    step = world.step("fly [away]")
    assert step.info == {"invalid": True}
    assert "You attempted an invalid move. Reason: Invalid action format." in step.observation


@pytest.mark.parametrize("seat", ["0", "1"])
@pytest.mark.parametrize("opponent", ["random", "first"])
def test_a_game_of_two_against_a_scripted_opponent(seat, opponent):
    world = made(game="TicTacToe-v0", opponent=opponent, seat=seat)
    ends = []
    for seed in range(12):
        first = world.reset(seed)
        assert first.startswith(f"You are Player {seat} in Tic Tac Toe.")
        assert ("Player 0 placed" in first) == (seat == "1")
        for _ in range(5):
            step = world.step(actions_of(world)[-1])
            if step.terminated:
                break
        assert step.terminated
        assert step.info["success"] == (step.reward == 1.0)
        ends.append(step.reward)
    assert set(ends) <= {-1.0, 0.0, 1.0}
    assert len(set(ends)) > 1 or opponent == "first"


def test_what_the_other_player_sees_is_not_told():
    """In poker each knows one card of three in a round; a leak would show as a second one."""
    world = made(game="KuhnPoker-v0", opponent="first")
    for seed in range(8):
        said = world.reset(seed)
        for _ in range(12):
            step = world.step(actions_of(world)[0])
            said += step.observation * (not step.terminated)
            if step.terminated:
                break
        assert step.terminated
        cards = set(re.findall(r"round (\d) out of 3 rounds. Your card is: '(.)'", said))
        assert len(cards) == len({number for number, _ in cards}) >= 2


def test_an_opponent_of_ones_own(tmp_path):
    file = tmp_path / "foe.py"
    file.write_text(
        "def middle(seen, draws):\n    return '[4]' if \"'[4]'\" in seen else seen[seen.rfind('[') :][:3]\n"
    )
    world = made(game="TicTacToe-v0", opponent=f"{file}:middle")
    world.reset(0)
    assert "in cell 4" in world.step("0").observation
    with pytest.raises(UserError, match=r"there is no file nobody\.py"):
        made(game="TicTacToe-v0", opponent="nobody.py:middle")


def test_episodes_are_their_seeds_and_nobody_elses_draws_are_touched():
    """Two games that take turns with each other, and with draws of the process, go as each does alone."""
    alone, other, third = made(), made(game="TicTacToe-v0"), made()
    moves = ["right", "down", "right", "down"]
    expected = played(alone, 5, moves)
    random.seed(11)
    np.random.seed(11)
    state = random.getstate()
    other.reset(9)
    assert third.reset(5) == expected[0][0]
    for number, said in enumerate(expected[0][1:]):
        other.step(str(number))
        assert third.step(moves[number]).observation == said
    assert random.getstate() == state
    assert np.random.random() == np.random.RandomState(11).random()
    copied = made()
    copied.reset(5)
    copied.step("right")
    assert copy_of(copied).step("down") == copied.step("down")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"game": "FrozenLake"}, "Did you mean 'FrozenLake-v0'"),
        ({"opponent": "randm"}, "Did you mean 'random'"),
        ({"seat": "2"}, "Seats are 0 and 1"),
        ({"reward": "win"}, "Unknown reward"),
    ],
)
def test_options_are_refused_in_words(options, said):
    with pytest.raises(UserError, match=said):
        made(**options)


@pytest.mark.parametrize(("game", "said"), [("ThreePlayerTicTacToe-v0", "players"), ("BabyAiText-v0", "No module")])
def test_games_that_cannot_be_played_here_are_refused(game, said):
    with pytest.raises(UserError, match=said) as refused:
        made(game=game).reset(0)
    assert "cannot be played here" in refused.value.message


def test_files_that_a_game_lacks_are_named(monkeypatch):
    def make(name):
        raise LookupError(
            f"\n{'*' * 70}\n  Resource 'words' not found.\n  Please use the NLTK Downloader.\n{'*' * 70}\n"
        )

    world = made(game="Wordle-v0")
    monkeypatch.setattr("textarena.make", make)
    with pytest.raises(
        UserError, match=r"played here: LookupError: Resource 'words' not found\.\n  Some games need files"
    ):
        world.reset(0)
