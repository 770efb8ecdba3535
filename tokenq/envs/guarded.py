"""A guard around an environment: what raises or hangs ends an episode, not a run; and what led here is remembered.

A call that is given a time limit runs in a thread of its own (`limits`).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from tokenq.envs.environment import Environment, Observation, Past, Step
from tokenq.envs.limits import Late, Worker
from tokenq.errors import UserError, reason
from tokenq.records.examples import Message

Result = TypeVar("Result")

RESET_SECONDS = 120.0
"""A reset may always take that long: a game may have to be compiled."""


class EpisodeFailed(UserError):
    """An environment could not begin an episode.

    Args:
        message: what happened.
        timeout: whether it took too long.
    """

    def __init__(self, message: str, *, timeout: bool) -> None:
        super().__init__(message, "Mend the environment, or take other seeds.")
        self.timeout = timeout


def guarded(make: Callable[[], Environment], timeout: float | None = None) -> "Guarded":
    """Return an environment that does not raise in a step, does not hang, and can be copied by replay.

    Args:
        make: makes the environment; called again after a failure.
        timeout: seconds that a step may take (a reset, if it is less, `RESET_SECONDS`); None for no limit.
    """
    return Guarded(make, timeout)


class Guarded:
    """See `guarded`.

    After a failure a step returns a truncated one with `info["error"]` and `info["timeout"]`, and so do all others
    until the next `reset`, which makes the environment anew.
    """

    def __init__(
        self, make: Callable[[], Environment], timeout: float | None, inner: Environment | None = None
    ) -> None:
        self._make, self._timeout = make, timeout
        self._inner: Environment | None = make() if inner is None else inner
        self._past = Past(make, 0, ())
        self._worker: Worker | None = None
        self._failure = Step("", truncated=True, info={"error": "it was not reset", "timeout": False})

    def inner(self) -> Environment:
        """Return the environment inside."""
        if self._inner is None:
            raise EpisodeFailed(f"The environment has failed: {self._failure.info['error']}.", timeout=False)
        return self._inner

    def past(self) -> Past:
        """Return seed and actions since the last reset."""
        return self._past

    def around(self, inner: Environment) -> "Guarded":
        """Return a guard with the same past around another environment."""
        other = Guarded(self._make, self._timeout, inner)
        other._past = self._past
        return other

    def reset(self, seed: int) -> Observation:
        """Begin an episode.

        Raises:
            EpisodeFailed: the environment raised, or took too long.
            UserError: of the environment, as it is: something is missing.
        """
        if self._inner is None:
            self._inner = self._make()
        environment, self._past = self._inner, Past(self._make, seed, ())
        try:
            return _observation(self._limited(lambda: environment.reset(seed), RESET_SECONDS))
        except UserError:
            raise
        except (Exception, SystemExit) as problem:
            failure = self._failed(problem)
            raise EpisodeFailed(
                f"The environment cannot begin the episode of seed {seed}: {failure.info['error']}.",
                timeout=failure.info["timeout"],
            ) from problem

    def step(self, action: str) -> Step:
        """Answer an action."""
        if self._inner is None:
            return self._failure
        environment = self._inner
        self._past = self._past._replace(actions=(*self._past.actions, action))
        try:
            return _checked(self._limited(lambda: environment.step(action)))
        except (Exception, SystemExit) as problem:
            return self._failed(problem)

    def close(self) -> None:
        """Close the environment, whatever it says to that, and end the thread."""
        if self._inner is not None:
            try:
                self._limited(self._inner.close)
            except (Exception, SystemExit) as problem:
                self._failed(problem)
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _limited(self, call: Callable[[], Result], least: float = 0.0) -> Result:
        if self._timeout is None:
            return call()
        if self._worker is None:
            self._worker = Worker()
        return self._worker.run(call, max(self._timeout, least))

    def _failed(self, problem: BaseException) -> Step:
        late = isinstance(problem, Late)
        said = str(problem) if late else f"{type(problem).__name__}: {reason(problem)}"
        if late and self._worker is not None:
            self._worker.abandon()
            self._worker = None
        self._inner = None
        self._failure = Step("", truncated=True, info={"error": said.rstrip("."), "timeout": late})
        return self._failure


def _checked(result: Step) -> Step:
    """Return a step whose parts are what they should be; Gymnasium's plain tuple will do."""
    step = Step(*result)
    reward = float(step.reward)
    if not math.isfinite(reward):
        raise ValueError(f"the reward is {reward}")
    return Step(_observation(step.observation), reward, bool(step.terminated), bool(step.truncated), dict(step.info))


def _observation(said: Any) -> Observation:
    if isinstance(said, str):
        return said
    if isinstance(said, tuple | list) and said and all(isinstance(one, Message) for one in said):
        return tuple(said)
    raise TypeError(f"an observation is a text or messages, not {type(said).__name__}")
