"""What an environment may be told, and how its episodes end: options of every command that plays. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokenq.ranges import Range


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """The environment that a policy acts in."""

    environment: str | None = None
    """Environment: gridworld, slippery_gridworld, textworld, textarena, reasoning_gym, gymnasium, tools, user, or one
    of your own: FILE.py:CLASS."""
    environment_options: Mapping[str, str] = field(default_factory=dict)
    """Options of the environment: --environment-options slip=0.1 horizon=20."""
    max_turns: int | None = None
    """Most actions of an episode; one that is not over then is marked `"terminal": false`. Default: the
    environment's."""
    step_timeout: float = 60.0
    """Seconds that the environment may take to answer an action, before the episode ends with the reason "timeout"; to
    begin one it has two minutes at least."""
    when_full: Literal["end", "cut"] = "end"
    """What to do where the context has no room for another action: end the episode, or leave out the oldest turns
    behind the first observation."""


RANGES = (
    Range(("max_turns",), least=1, most=1_000_000),
    Range(("step_timeout",), above=0, most=1_000_000),
)
"""Ranges of these numbers."""
