"""Searches in threads of their own, whose steps are taken on the thread that owns the models."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from jaxtyping import Int
from torch import Tensor

from tokenq.core.tensors import Frontier, PackedBatch, Stepper, TokenScorer
from tokenq.jobs.searcher import TextReward
from tokenq.records.examples import Text
from tokenq.records.results import SearchResult

T = TypeVar("T")


class Runs(Protocol):
    """Runs a job on another thread and returns what it returns."""

    def __call__(self, job: Callable[[], T]) -> T:
        """Run the job, and wait for it."""
        ...


@dataclass(frozen=True)
class ThreadOwner:
    """A thread that owns the models: steps and scores are asked of it.

    Attributes:
        run: runs a job there.
    """

    run: Runs

    def stepper(self, stepper: Stepper) -> Stepper:
        """Return a stepper whose steps are taken there."""
        return HandedStepper(stepper, self.run)

    def scorer(self, score: TokenScorer) -> TokenScorer:
        """Return a scorer that computes there."""

        def handed(batch: PackedBatch) -> Tensor:
            return self.run(lambda: score(batch))

        return handed

    def judge(self, judge: TextReward) -> TextReward:
        """Return a judge that judges there."""

        def handed(prompts: Sequence[Text], responses: Sequence[str]) -> Sequence[float]:
            return self.run(lambda: judge(prompts, responses))

        return handed


@dataclass(frozen=True)
class HandedStepper:
    """A stepper whose steps another thread takes.

    Attributes:
        inner: the stepper.
        run: runs a job there.
    """

    inner: Stepper
    run: Runs

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return self.run(lambda: self.inner.start(prompts))

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier after each token is appended to its parent branch."""
        return self.run(lambda: self.inner.step(state, parents, tokens))

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the state of branches of several states."""
        return self.run(lambda: self.inner.gather(places))


@dataclass(frozen=True)
class Searching:
    """A search that runs in a thread of its own.

    Attributes:
        future: what it finds, a result for each prompt.
        over: set where it was called off.
    """

    future: "Future[list[SearchResult]]" = field(default_factory=Future)
    over: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End it before its next step, with what it has."""
        self.over.set()
