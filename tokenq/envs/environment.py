"""What an environment is, and what some can do besides: list their actions, be copied, be solved exactly.

An environment says something, is answered with an action, says what came of it, and so on to its end. It knows neither
models nor tokens. Gymnasium's five values are kept; what differs is that actions are texts, that observations are texts
or messages, and that `reset` returns the observation alone.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tokenq.envs.world import Solution
from tokenq.records.examples import Message

Observation = str | tuple[Message, ...]
"""What an environment says: messages, or a text, which is a user's message where the model has a chat template."""


class Step(NamedTuple):
    """What came of an action.

    Attributes:
        observation: what the environment says next; at the end, what nobody answers.
        reward: of this action.
        terminated: whether the episode is over.
        truncated: whether it is broken off here, though it is not over.
        info: what else is known. Keys that have a meaning: "success" (bool, at the end), "invalid" (True for an action
            that has not the right form), "luck" (what the environment's draw added to the return beyond its
            expectation), "optimal" (whether the action was one of the best, for evaluations; an environment that can be
            solved need not say it), "error" (why the environment could not go on) and beside it "timeout" (bool).
    """

    observation: Observation
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = MappingProxyType({})


@runtime_checkable
class Environment(Protocol):
    """One episode at a time."""

    def reset(self, seed: int) -> Observation:
        """Begin an episode that is a function of the seed and of the actions that follow."""

    def step(self, action: str) -> Step:
        """Answer an action, the text as the model wrote it."""

    def close(self) -> None:
        """Let go of files and processes."""


@runtime_checkable
class Listing(Protocol):
    """An environment that can list the actions that are possible now."""

    def actions(self) -> tuple[str, ...] | None:
        """Return them, () after the end; None where it cannot list them just now."""


@runtime_checkable
class Copyable(Protocol):
    """An environment that can be copied at the state that it is in."""

    def copy(self) -> Environment:
        """Return an environment that goes on from here, without an effect on this one."""


@runtime_checkable
class Solvable(Protocol):
    """An environment whose states can be listed."""

    def solution(self) -> Solution | None:
        """Return its world, and where in it the environment is now; None for a game that is not solved."""


class Past(NamedTuple):
    """How an environment came to be where it is."""

    make: Callable[[], Environment]
    seed: int
    actions: tuple[str, ...]


@runtime_checkable
class Wrapper(Protocol):
    """An environment around another, which remembers how that came to be where it is."""

    def inner(self) -> Environment:
        """Return the environment inside."""

    def past(self) -> Past:
        """Return what leads to the same state again."""

    def around(self, inner: Environment) -> Environment:
        """Return a wrapper like this one, with the same past, around another environment."""


def actions_of(environment: Environment) -> tuple[str, ...] | None:
    """Return the actions that are possible now; None where the environment cannot list them."""
    bare = environment.inner() if isinstance(environment, Wrapper) else environment
    return bare.actions() if isinstance(bare, Listing) else None


def solution_of(environment: Environment) -> Solution | None:
    """Return the exact solution of the state that an environment is in; None where its states cannot be listed."""
    bare = environment.inner() if isinstance(environment, Wrapper) else environment
    return bare.solution() if isinstance(bare, Solvable) else None


def copy_of(environment: Environment) -> Environment:
    """Return an environment in the same state: a copy where it can be copied, else a replay of seed and actions.

    Raises:
        TypeError: it can do neither: it is bare (see `guarded`) and has no `copy`.
    """
    bare = environment.inner() if isinstance(environment, Wrapper) else environment
    if isinstance(bare, Copyable):
        return environment.around(bare.copy()) if isinstance(environment, Wrapper) else bare.copy()
    if not isinstance(environment, Wrapper):
        raise TypeError(f"{type(environment).__name__} has no copy, and nothing remembers its actions.")
    past = environment.past()
    fresh = past.make()
    fresh.reset(past.seed)
    for action in past.actions:
        fresh.step(action)
    return environment.around(fresh)
