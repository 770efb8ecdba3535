"""What learning from episodes may be told: seeds, luck, and what does not go with an environment. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from tokenq.errors import UserError
from tokenq.ranges import Range
from tokenq.rollout.episodes.options import RANGES as EPISODES
from tokenq.rollout.episodes.options import EnvironmentOptions

RETURN = "return"
"""The judge that gives an episode the sum of its rewards."""


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions(EnvironmentOptions):
    """An environment to learn in, instead of prompts."""

    environment_seeds: int = 16
    """Seeds of the environment that rounds play: 0, 1, … Those that --eval-size holds out come after them."""
    subtract_luck: bool = False
    """Take what the environment's draws added to a return off its rewards, where the environment knows that. With
    answers that are drawn, preferences by return alone do not lead to the optimum."""


RANGES = (*EPISODES, Range(("environment_seeds",), least=1, most=10_000_000))
"""Ranges of these numbers."""

_OF_PROMPTS = ("eval_prompts", "answer", "gold", "columns")
"""Settings that say something of prompts in files."""

_OF_ENVIRONMENTS = ("environment_options", "max_turns", "subtract_luck")
"""Settings that say something of an environment."""


def environment_lacks(config: Any) -> list[UserError]:
    """Return what an environment, or prompts instead, do not go with.

    Args:
        config: the settings of an online run.
    """
    if config.environment is None:
        idle = [name for name in _OF_ENVIRONMENTS if getattr(config, name)]
        found = [
            UserError(f"{_flag(name)} is given, and no environment.", "Add --environment textworld.") for name in idle
        ]
        if not config.prompts:
            hint = "Name a file, a folder or a hub id with --prompts, or an --environment to act in."
            found.insert(0, UserError("There are no prompts.", hint))
        if config.pairs == "shared_prefix":
            hint = "Add --environment, or take --pairs best_worst."
            found.append(UserError("--pairs shared_prefix is of episodes that begin alike.", hint))
        if config.judge == RETURN:
            found.append(UserError("--judge return is of episodes, and there is no --environment.", "Name one."))
        return found
    hint = "Leave it out: an episode begins with what the environment says."
    named = f"--environment {config.environment}"
    found = [UserError(f"--prompts and {named} are both given.", hint)] if config.prompts else []
    found += [
        UserError(f"{_flag(name)} and {named} are both given.", hint) for name in _OF_PROMPTS if getattr(config, name)
    ]
    if config.judge == "verifier":
        found.append(UserError(f"--judge verifier knows true answers, and {named} has none.", "Take --judge return."))
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
