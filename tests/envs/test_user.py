"""Simulated users: scripts, functions, models behind an endpoint; and environments of one's own."""

import json

import pytest

from tokenq.envs.environment import copy_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.judge.endpoint import Connection


def made(**options):
    return guarded(find_environment("user").make(options))


def test_a_script_is_spoken_to_its_end():
    world = made()
    assert world.reset(0) == "Hello! Which is the largest planet?"
    assert world.step("Jupiter.")[:3] == ("And how many moons has it?", 0.0, False)
    assert world.step("97.").terminated is False
    assert world.step("Jupiter has 97 moons.")[:3] == ("", 0.0, True)


def test_scripts_of_a_file_are_taken_by_seed_and_judged_at_the_end(tmp_path):
    script, judge = tmp_path / "users.jsonl", tmp_path / "judge.py"
    script.write_text('["A?", "B?"]\n["C?"]\n')
    judge.write_text(
        "def worth(prompts, responses):\n"
        "    return [10 * len(prompt) + len(response) for prompt, response in zip(prompts, responses)]\n"
    )
    world = made(script=str(script), judge=f"{judge}:worth")
    assert [world.reset(seed) for seed in range(3)] == ["A?", "C?", "A?"]
    assert world.step("one")[:3] == ("B?", 0.0, False)
    assert copy_of(world).step("four") == world.step("four")
    world.reset(0)
    world.step("one")
    assert world.step("four")[:3] == ("", 34.0, True)  # three turns before, four letters


def test_a_function_of_the_history_and_of_draws_that_are_the_seeds(tmp_path):
    file = tmp_path / "person.py"
    file.write_text(
        "def person(history, draws):\n"
        "    if len(history) > 2:\n"
        "        return None\n"
        "    return f\"{draws.randrange(10**6)} {[turn['content'] for turn in history]}\"\n"
    )
    world = made(function=f"{file}:person")
    first = world.reset(3)
    second = world.step("Yes.").observation
    assert world.reset(3) == first != world.reset(4)
    assert second.endswith("'Yes.']")
    world.step("x")
    assert world.step("y").terminated


def test_a_model_is_asked_from_the_users_side(monkeypatch):
    asked = []

    def send(self, path, body, read):
        asked.append((path, body))
        said = ["Hi?", "More?", "DONE, thanks."][len(asked) - 1]
        return read(json.dumps({"choices": [{"message": {"content": said}}]}))

    monkeypatch.setattr(Connection, "send", send)
    world = made(model="m", base_url="http://127.0.0.1:9/v1", persona="You are a cook.")
    assert world.reset(7) == "Hi?"
    assert world.step("Hello.").observation == "More?"
    assert world.step("No.").terminated
    path, body = asked[1]
    assert (path, body["model"], body["seed"]) == ("/chat/completions", "m", 7)
    assert body["messages"][0]["content"].startswith("You are a person who talks with an assistant. You are a cook.")
    assert [turn["role"] for turn in body["messages"][1:]] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"script": "none.jsonl"}, r"There is no script none\.jsonl"),
        ({"script": "BAD"}, "line 2 is no list of turns"),
        ({"script": "a", "model": "b"}, "asked for as script and model"),
        ({"function": "none.py:f"}, r"there is no file none\.py"),
    ],
)
def test_what_is_wrong_is_said(options, said, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('["A?"]\n"B?"\n')
    with pytest.raises(UserError, match=said):
        made(**{name: str(bad) if value == "BAD" else value for name, value in options.items()})


OWN = """
from tokenq.envs.environment import Step

class Guess:
    instructions = "Guess a number."
    max_turns = 7

    def __init__(self, most=9, word="no"):
        self.most, self.word = most, word

    def reset(self, seed):
        self.number = seed % (self.most + 1)
        return f"A number from 0 to {self.most}?"

    def step(self, action):
        right = action.strip() == str(self.number)
        return Step("yes" if right else self.word, float(right), right, info={"success": right})

class Less:
    def reset(self, seed):
        return ""

class Strict(Guess):
    def __init__(self, most):
        pass

def function():
    pass
"""


def test_an_environment_of_ones_own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    row = find_environment(f"{file}:Guess")
    assert (row.options, row.instructions) == ({"most": 9, "word": "no"}, "Guess a number.")
    assert (row.max_turns, row.max_new_tokens, row.tools({})) == (7, 32, ())
    world = guarded(row.make({"most": "4", "word": "warm"}), 5.0)
    assert world.reset(13) == "A number from 0 to 4?"
    assert world.step("2").observation == "warm"
    assert copy_of(world).step("3")[:3] == ("yes", 1.0, True)
    world.close()
    with pytest.raises(UserError, match="Did you mean 'most'"):
        row.make({"must": "4"})
    with pytest.raises(UserError, match="takes a whole number"):
        row.make({"most": "many"})
    for name, said in {"Less": "has no step", "function": "is no class", "Strict": "has no default"}.items():
        with pytest.raises(UserError, match=said):
            find_environment(f"{file}:{name}")
    with pytest.raises(UserError, match="Did you mean 'Guess'"):
        find_environment(f"{file}:Gues")
