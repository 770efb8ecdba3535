"""A simulated user: a script, a function of one's own, or a model behind an endpoint talks with the policy.

The conversation ends when the user has nothing more to say. What it was worth says a judge, at the end, of the last
answer and all that came before; without one, rewards are 0.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.errors import UserError
from tokenq.judge.endpoint import Connection, Endpoint
from tokenq.judge.function import called, load_callable, load_function
from tokenq.records.examples import Message

DEFAULTS: Mapping[str, Any] = {"script": "", "function": "", "model": "", "base_url": "", "persona": "", "judge": ""}
"""Options: a JSONL file with a list of a user's turns a line, of which the seed takes one; or FILE.py:FUNCTION of the
history (dictionaries with role and content) and a `random.Random`, which returns the user's next turn, or None at the
end; or a chat model, the URL of its endpoint, and who it is to be; FILE.py:FUNCTION of prompts and responses, as
--judge has it, for the reward."""

Turns = list[dict[str, Any]]
Speaker = Callable[[Turns, int, random.Random], str | None]
"""(the conversation so far, the seed, where draws come from) → what the user says next, None when nothing."""

HELLO = ("Hello! Which is the largest planet?", "And how many moons has it?", "Thank you. Say all of that in one line.")
"""What a user says where nothing else was asked for."""

PERSONA = "You want to know something and ask one short question at a time."
_OVER = "DONE"


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options."""
    options = read_options("user", given, DEFAULTS)
    asked = [name for name in ("script", "function", "model") if options[name]]
    if len(asked) > 1:
        raise UserError(f"The user is asked for as {' and '.join(asked)}.", "Give one of them.")
    judge = load_function(options["judge"]) if options["judge"] else None

    def worth(turns: Turns) -> float:
        if judge is None:
            return 0.0
        before = tuple(Message(turn["role"], turn["content"]) for turn in turns[:-1])
        return called(judge, options["judge"], [before], [turns[-1]["content"]])[0]

    speaker = _SPEAKERS[asked[0] if asked else "script"](options)
    return lambda: User(speaker, worth)


def _scripted(options: Mapping[str, Any]) -> Speaker:
    scripts: Sequence[Sequence[str]] = _scripts(options["script"]) if options["script"] else [HELLO]

    def speak(turns: Turns, seed: int, _: random.Random) -> str | None:
        script, said = scripts[seed % len(scripts)], len(turns) // 2
        return script[said] if said < len(script) else None

    return speak


def _scripts(file: str) -> list[list[str]]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"There is no script {file}.", 'A line of it reads like ["Hello!", "And then?"].')
    scripts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            turns = json.loads(line)
        except ValueError:
            turns = None
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
            raise UserError(f"{file}, line {number} is no list of turns.", 'It reads like ["Hello!", "And then?"].')
        scripts.append(turns)
    if not scripts:
        raise UserError(f"The script {file} is empty.", 'A line of it reads like ["Hello!", "And then?"].')
    return scripts


def _function(options: Mapping[str, Any]) -> Speaker:
    function = load_callable(options["function"], "--environment-options function=")
    return lambda turns, _, draws: function([dict(turn) for turn in turns], draws)


def _model(options: Mapping[str, Any]) -> Speaker:
    endpoint = Endpoint(options["model"], options["base_url"] or None, role="user")
    connection = Connection(endpoint)
    told = (
        f"You are a person who talks with an assistant. {options['persona'] or PERSONA} Say {_OVER} when all is said."
    )

    def speak(turns: Turns, seed: int, _: random.Random) -> str | None:
        other = {"user": "assistant", "assistant": "user"}  # seen from the user's side
        heard = [{**turn, "role": other[turn["role"]]} for turn in turns] or [{"role": "user", "content": "Begin."}]
        body = {"model": endpoint.model, "messages": [{"role": "system", "content": told}, *heard], "seed": seed}
        said = connection.send("/chat/completions", body, _content)
        return None if _OVER in said else said

    return speak


def _content(text: str) -> str:
    """Return the message in the body of an answer."""
    return str(json.loads(text)["choices"][0]["message"]["content"])


_SPEAKERS: Mapping[str, Callable[[Mapping[str, Any]], Speaker]] = {
    "script": _scripted,
    "function": _function,
    "model": _model,
}


class User:
    """One conversation; see `DEFAULTS` for the options."""

    def __init__(self, speaker: Speaker, worth: Callable[[Turns], float]) -> None:
        self._speaker, self._worth = speaker, worth
        self._turns: Turns = []
        self._seed, self._draws = 0, random.Random(0)

    def reset(self, seed: int) -> str:
        """Let the user begin.

        Raises:
            UserError: the user says nothing.
        """
        self._turns, self._seed, self._draws = [], seed, random.Random(seed)
        said = self._speaker(self._turns, seed, self._draws)
        if said is None:
            raise UserError(f"The simulated user has nothing to say in the episode of seed {seed}.", "Let it begin.")
        self._turns.append({"role": "user", "content": said})
        return said

    def step(self, action: str) -> Step:
        """Hear an answer, and say the next thing."""
        self._turns.append({"role": "assistant", "content": action})
        said = self._speaker(self._turns, self._seed, self._draws)
        if said is None:
            return Step("", self._worth(self._turns), True)
        self._turns.append({"role": "user", "content": said})
        return Step(said)

    def close(self) -> None:
        """Let go of nothing: the connection serves all conversations."""
