"""What every environment keeps, whatever it is: seeds decide, nonsense is survived, page and help name it."""

import inspect
import random
import re
from pathlib import Path

import numpy as np
import pytest

from tokenq.envs.environment import Environment, copy_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import ENVIRONMENTS, find_environment
from tokenq.errors import UserError
from tokenq.rollout.episodes import options

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
NONSENSE = ("", "zzz", "[]", '<tool_call>{"name": 3}</tool_call>', "(" * 2000, "ü\x00\n\n", "4", "<answer></answer>")


@pytest.mark.integration
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_is_its_seed_and_actions_and_touches_nobody_elses_chance(name):
    make = find_environment(name).make({})
    random.seed(5)
    np.random.seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).random()
    found = []
    for _ in range(2):
        world = guarded(make, 60.0)
        said = [world.reset(3)]
        copied = copy_of(world)
        for action in NONSENSE:
            step = world.step(action)
            assert "error" not in step.info, action
            assert copied.step(action) == step
            said.append(step)
            if step.terminated or step.truncated:
                break
        world.close()
        found.append(said)
    assert found[0] == found[1]
    assert (random.random(), np.random.random()) == expected
    assert isinstance(make(), Environment)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_options_are_on_the_page_and_no_others_are_taken(name):
    row = find_environment(name)
    line = re.search(rf"^\| `{name}` \|.*$", PAGE, re.M)[0]
    named = line if name != "slippery_gridworld" else line + re.search(r"^\| `gridworld` \|.*$", PAGE, re.M)[0]
    assert [one for one in row.options if f"`{one}=" not in named] == []
    with pytest.raises(UserError, match=f"Unknown option of the environment {name} 'nothing'"):
        row.make({"nothing": "1"})
    assert name in inspect.getsource(options)
