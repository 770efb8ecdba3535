"""The environments, one row each: how one is made, its options and their defaults, what a model is told."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenq.envs.adapters import gymnasium, own, reasoning_gym, textarena, textworld, tools, user
from tokenq.envs.environment import Environment
from tokenq.envs.gridworld import DEFAULTS, SLIPPERY, grid_factory
from tokenq.errors import unknown_name

Make = Callable[[Mapping[str, str]], Callable[[], Environment]]


def nothing_to_prepare(_: Mapping[str, str], seeds: Iterable[int]) -> None:
    """Do nothing: episodes of any seeds can begin at once."""


def no_tools(_: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """Return no schemas: nothing can be called."""
    return ()


@dataclass(frozen=True)
class EnvironmentRow:
    """A kind of environment.

    Attributes:
        make: takes options as text, refuses unknown ones by name, and returns a function that makes fresh environments.
        options: defaults of all options.
        instructions: what a model is told before the first observation; "" for nothing.
        tools: takes the same options and returns the schemas of the tools that can be called.
        prepare: does what takes long before episodes of some seeds can begin (games are compiled).
        max_turns: most actions of an episode, unless told otherwise.
        max_new_tokens: most tokens of an action, unless told otherwise.
        extra: the extra of tokenq that it needs, "" for none.
    """

    make: Make
    options: Mapping[str, Any] = field(default_factory=dict)
    instructions: str = ""
    tools: Callable[[Mapping[str, str]], tuple[dict[str, Any], ...]] = no_tools
    prepare: Callable[[Mapping[str, str], Iterable[int]], None] = nothing_to_prepare
    max_turns: int = 30
    max_new_tokens: int = 32
    extra: str = ""


_COMMAND = "You play a text adventure. Answer with one command and nothing else."
_WAYS = "Answer with one direction and nothing else."

ENVIRONMENTS: dict[str, EnvironmentRow] = {
    "textworld": EnvironmentRow(
        textworld.make,
        textworld.DEFAULTS,
        _COMMAND,
        prepare=textworld.prepare,
        max_turns=20,
        max_new_tokens=24,
        extra="agents",
    ),
    "textarena": EnvironmentRow(
        textarena.make, textarena.DEFAULTS, "Answer with one move and nothing else.", max_new_tokens=24, extra="agents"
    ),
    "reasoning_gym": EnvironmentRow(
        reasoning_gym.make,
        reasoning_gym.DEFAULTS,
        "Give the final answer within <answer> and </answer>.",
        max_turns=1,
        max_new_tokens=256,
        extra="agents",
    ),
    "gymnasium": EnvironmentRow(
        gymnasium.make, gymnasium.DEFAULTS, "Answer with one action and nothing else.", max_new_tokens=8, extra="agents"
    ),
    "tools": EnvironmentRow(
        tools.make,
        tools.DEFAULTS,
        "Call tools where they help, then answer without a call.",
        tools=tools.schemas,
        max_turns=10,
        max_new_tokens=256,
    ),
    "user": EnvironmentRow(user.make, user.DEFAULTS, max_turns=10, max_new_tokens=256),
    "gridworld": EnvironmentRow(grid_factory("gridworld", DEFAULTS), DEFAULTS, _WAYS, max_turns=12, max_new_tokens=8),
    "slippery_gridworld": EnvironmentRow(
        grid_factory("slippery_gridworld", SLIPPERY), SLIPPERY, _WAYS, max_turns=12, max_new_tokens=8
    ),
}


def find_environment(name: str) -> EnvironmentRow:
    """Return the row of an environment.

    Args:
        name: of the table, or FILE.py:CLASS. What the row of a class says besides are its attributes: `instructions`,
            `tools` (schemas), `max_turns`, `max_new_tokens`.

    Raises:
        UserError: names the nearest, and all there are.
    """
    if ":" in name:
        return _row_of(name)
    if name not in ENVIRONMENTS:
        raise unknown_name("environment", name, [*ENVIRONMENTS, "FILE.py:CLASS"])
    return ENVIRONMENTS[name]


def _row_of(name: str) -> EnvironmentRow:
    found = own.load_class(name)
    schemas = tuple(getattr(found, "tools", ()))
    return EnvironmentRow(
        own.maker(name, found),
        own.defaults_of(name, found),
        getattr(found, "instructions", ""),
        tools=lambda _: schemas,
        max_turns=getattr(found, "max_turns", EnvironmentRow.max_turns),
        max_new_tokens=getattr(found, "max_new_tokens", EnvironmentRow.max_new_tokens),
    )
