"""TextWorld on its own engine: the states that are listed are those that are played, rewards and ends are its own."""

import os
import random
import shutil

import numpy as np
import pytest
from examples import cases

from tokenq.cache import cache_folder, versions
from tokenq.cli.main import main
from tokenq.envs.adapters import textworld_games
from tokenq.envs.adapters.textworld_games import games_folder, generated
from tokenq.envs.adapters.textworld_graph import graph_of
from tokenq.envs.environment import actions_of, copy_of, solution_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.envs.world import END, best_values, distances
from tokenq.errors import UserError

pytestmark = pytest.mark.integration


def made(**options):
    return guarded(find_environment("textworld").make(options))


def test_the_default_game_is_won_in_two_commands():
    world = made()
    first = world.reset(0)
    assert first.startswith("Welcome to TextWorld!")
    assert first.endswith("\nCommands: drop coffee cup, examine coffee cup, go south, inventory, look")
    assert world.step("Go  South.").observation.startswith("-= Studio =-\n")
    last = world.step("close box")
    assert last[1:] == (1.0, True, False, {"success": True})
    assert "RESTART" not in last.observation
    assert "Commands" not in last.observation
    assert actions_of(world) == ()
    assert solution_of(world).state == END


@pytest.mark.parametrize(
    ("sizes", "states", "commands"),
    cases([((2, 3, 2, 1), 32, 2), ((2, 3, 2, 2), 16, 2), ((3, 4, 3, 2), 192, 3)], [((2, 3, 2, 1), 32, 2)]),
)
def test_the_states_of_a_game_and_its_shortest_way(sizes, states, commands):
    """The counts were found by another search, over TextWorld's own progression with its quests; one by default."""
    if versions("textworld")["textworld"] != "1.7.0":
        pytest.fail("games differ between versions of TextWorld: count their states anew")
    graph = graph_of(generated(*sizes))
    assert (len(graph.states), distances(graph.world)[0]) == (states, commands)
    best = best_values(graph.world, commands)
    assert (best.values[0, 0], best.values[1, 0]) == (1.0, 0.0)


@pytest.mark.parametrize("options", [{}, {"rooms": "3", "objects": "4", "quest_length": "3", "game_seed": "2"}])
def test_what_is_played_is_what_was_listed(options):
    world, draws = made(penalty="0.25", commands="no", **options), random.Random(0)
    wins = 0
    for seed in range(6):
        world.reset(seed)
        for turn in range(20):
            here = solution_of(world)
            assert (actions_of(world), turn) == (here.world.actions[here.state], here.turn)
            a = draws.randrange(len(actions_of(world)))
            step = world.step(actions_of(world)[a])
            assert step.reward == here.world.rewards[here.state, a, 0]
            assert step.reward in (-0.25, 0.75)
            assert solution_of(world).state == here.world.next_states[here.state, a, 0]
            if step.terminated:
                wins += step.info["success"]
                break
    assert wins >= 2


def test_commands_that_rewrite_the_past_or_are_several_are_refused():
    world = made(penalty="0.5")
    world.reset(0)
    for odd in (
        "undo",
        "restart",
        "look. look",
        "look\nlook",
        "look then look",
        "take all",
        "take box, cup",
        "",
        "naïve",
        "tw-print state",
    ):
        step = world.step(odd)
        assert step.observation.startswith("That is not one command of this game.\nCommands: drop coffee cup")
        assert (step.reward, step.info) == (-0.5, {"invalid": True})
    assert world.step("frobnicate the box").info == {"invalid": True}
    assert world.step("look").info == {}
    assert world.step("n").info == {"invalid": True}  # no way there
    assert world.step("s").info == {}  # the engine's own word for "go south"


def test_games_are_made_where_nothing_can_be_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("off", str(tmp_path / "file")):
        monkeypatch.setenv("TOKENQ_CACHE", place)
        assert games_folder().name.startswith("tokenq-games-")


def test_games_that_are_kept_are_listed_and_deleted(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    kept = shutil.copytree(generated(2, 3, 2, 1).parent, tmp_path / "games" / generated(2, 3, 2, 1).parent.name)
    monkeypatch.setenv("TOKENQ_CACHE", str(tmp_path))
    assert main(["cache"]) == 0
    assert "rooms=2 objects=3 quest_length=2 seed=1 textworld=1.7.0" in capsys.readouterr().out
    assert main(["cache", "--clear", "games"]) == 0
    assert not kept.exists()


def test_a_copy_is_at_the_same_place_and_goes_on_alone():
    world = made()
    world.reset(0)
    world.step("go south")
    other = copy_of(world)
    assert other.step("close box").terminated
    assert solution_of(world).turn == 1
    assert world.step("look").observation.startswith("-= Studio =-")


@pytest.mark.parametrize("before", [["go south"], ["go south", "close box"], ["drop coffee cup", "look"], []])
def test_an_engine_that_was_left_plays_as_a_new_one(before, monkeypatch):
    """In the middle of an episode, after its end, and before it began: the next one is the same, text and reward."""
    commands = ["look", "drop coffee cup", "inventory", "go south", "look", "dance", "close box"]
    monkeypatch.setattr(textworld_games, "_IDLE", idle := {})

    def episode():
        world = made()
        said = [world.reset(0), *(tuple(world.step(command)) for command in commands)]
        world.close()
        return said

    new = episode()
    (engines,) = idle.values()
    (engine,) = engines
    world = made()
    world.reset(0)
    assert engines == []
    for command in before:
        world.step(command)
    world.close()
    assert engines == [engine]
    assert episode() == new


def test_a_game_that_was_written_anew_has_another_engine(monkeypatch, tmp_path):
    monkeypatch.setattr(textworld_games, "_IDLE", idle := {})
    game = shutil.copy(generated(2, 3, 2, 1), tmp_path / "g.z8")
    description = shutil.copy(generated(2, 3, 2, 1).with_suffix(".json"), tmp_path / "g.json")
    for written in (1, 2, 2):
        os.utime(description, (written, written))
        world = made(file=str(game))
        world.reset(0)
        world.close()
    assert [len(engines) for engines in idle.values()] == [1, 1]


def test_seeds_are_spread_over_games_and_draw_nothing_of_anybody_elses_chance():
    random.seed(3)
    np.random.seed(3)
    expected = random.Random(3).random(), np.random.RandomState(3).random()
    find_environment("textworld").prepare({"games": "2"}, range(4))
    games = cache_folder() / "games"
    assert len([path for path in games.iterdir() if (path / "game.json").is_file()]) >= 2
    world = made(games="2")
    firsts = [world.reset(seed) for seed in range(4)]
    assert (firsts[0], firsts[1]) == (firsts[2], firsts[3])
    assert firsts[0] != firsts[1]
    assert (random.random(), np.random.random()) == expected


def test_a_ready_game_is_played_and_what_is_missing_is_said(tmp_path):
    ready = generated(2, 3, 2, 1)
    made(file=str(ready.parent)).reset(7)
    with pytest.raises(UserError, match="There is no game"):
        made(file=str(tmp_path / "none.z8"))
    alone = tmp_path / "alone.z8"
    alone.write_bytes(ready.read_bytes())
    with pytest.raises(UserError, match=r"alone.z8 has no alone.json beside it"):
        made(file=str(alone))
    (tmp_path / "game.ulx").write_bytes(b"")
    with pytest.raises(UserError, match=r"TextWorld 1.7 plays no other"):
        made(file=str(tmp_path / "game.ulx"))


def test_too_many_states_and_games_that_cannot_be_made():
    world = made(max_states="20")
    world.reset(0)
    with pytest.raises(UserError, match=r"more than 20 states \(\d+ of those found were not looked at"):
        solution_of(world)
    with pytest.raises(UserError, match="TextWorld makes no game of rooms=0, objects=3, quest_length=2, seed=1"):
        made(rooms="0").reset(0)
    with pytest.raises(UserError, match="Seed must be between"):
        made(game_seed="-3").reset(0)
    with pytest.raises(UserError, match="games is 0"):
        made(games="0")


def test_without_textworld_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textworld", None)
    with pytest.raises(UserError, match=r"pip install 'tokenq\[agents\]'"):
        made()
