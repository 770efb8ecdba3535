"""Guards: what raises, hangs or says what it should not ends its episode and nothing else."""

import threading
import time

import pytest

from tokenq.envs.environment import Step, actions_of, copy_of
from tokenq.envs.guarded import EpisodeFailed, guarded
from tokenq.errors import UserError
from tokenq.records.examples import Message


class Counter:
    """Counts; does as it is told; the last word of all episodes is in `log`."""

    def __init__(self):
        self.count = 0

    def reset(self, seed):
        if seed < 0:
            raise UserError("There is no file games.z8.", "Name one.")
        if seed == 13:
            raise ValueError("thirteen")
        self.count = seed
        return f"{seed}"

    def step(self, action):
        self.count += 1
        match action:
            case "raise":
                raise KeyError("lost")
            case "exit":
                raise SystemExit(3)
            case "hang":
                while True:
                    time.sleep(0.001)
            case "number":
                return Step(4)
            case "nan":
                return Step("", float("nan"))
            case "tuple":
                return "said", 1, False, True, {"a": 1}
            case "messages":
                return Step([Message("tool", "4")])
        return Step(f"{self.count}", 1.0)

    def close(self):
        raise RuntimeError("never mind")


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("raise", "KeyError: 'lost'"),
        ("exit", "SystemExit: 3"),
        ("number", "TypeError: an observation is a text or messages, not int"),
        ("nan", "ValueError: the reward is nan"),
    ],
)
def test_what_raises_ends_the_episode_and_the_next_begins_anew(action, said, timeout):
    world = guarded(Counter, timeout)
    assert world.reset(3) == "3"
    assert world.step("go") == Step("4", 1.0, False, False, {})
    failed = world.step(action)
    assert failed == Step("", 0.0, False, True, {"error": said, "timeout": False})
    assert world.step("go") is failed
    assert world.reset(7) == "7"
    assert world.step("go").observation == "8"
    world.close()


def test_what_hangs_is_left_and_stopped():
    world = guarded(Counter, 0.05)
    world.reset(0)
    before = threading.active_count()
    began = time.monotonic()
    assert world.step("hang").info == {"error": "no answer within 0.05 s", "timeout": True}
    assert time.monotonic() - began < 1.0
    deadline = time.monotonic() + 5
    while threading.active_count() >= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before - 1
    assert world.reset(2) == "2"
    world.close()


def test_a_reset_that_raises_says_which_seed_and_a_missing_file_is_said_as_it_is():
    world = guarded(Counter)
    with pytest.raises(EpisodeFailed, match="seed 13: ValueError: thirteen") as caught:
        world.reset(13)
    assert caught.value.timeout is False
    with pytest.raises(UserError, match="no file games") as missing:
        world.reset(-1)
    assert not isinstance(missing.value, EpisodeFailed)


def test_steps_are_put_into_their_form():
    world = guarded(Counter)
    world.reset(0)
    assert world.step("tuple") == Step("said", 1.0, False, True, {"a": 1})
    assert world.step("messages").observation == (Message("tool", "4"),)


def test_a_copy_is_a_replay_where_there_is_no_other():
    world = guarded(Counter)
    world.reset(5)
    world.step("go")
    other = copy_of(world)
    assert other.step("go").observation == world.step("go").observation == "7"
    assert other.past()[1:] == (5, ("go", "go"))
    assert actions_of(world) is None
    with pytest.raises(TypeError, match="Counter has no copy"):
        copy_of(Counter())
