"""One thread that owns the models: requests wait in a queue, and what is written is delivered token by token."""

import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from tokenq.data.prompts import Prompt
from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.jobs.searcher import TextReward, Watch, unseen
from tokenq.listener import Progress, silent
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.stepper import ModelStepper
from tokenq.records.results import SearchResult
from tokenq.search.sampling import Dice, draw, filtered, mixed_seed
from tokenq.server.engine.request import Closed, Deliver, Full, Generation, Token

T = TypeVar("T")

Terms = Sequence[tuple[PackedLM, PackedLM, float]]
"""Small pairs (tuned, untuned) with their weights."""


@dataclass(eq=False)
class Ticket:
    """A request that was taken; it can be called off from any thread."""

    asked: Generation
    deliver: Deliver
    client: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)
    stopped: set[int] = field(default_factory=set)

    def cancel(self) -> None:
        """End all choices before the next step; what is still delivered is None, once."""
        self.cancelled.set()

    def stop(self, choice: int) -> None:
        """End one choice before the next step; nothing more of it is delivered."""
        self.stopped.add(choice)


@dataclass(frozen=True)
class Searching:
    """A search that runs in a thread of its own.

    Attributes:
        future: what it finds, a result for each prompt.
    """

    future: "Future[list[SearchResult]]"
    _over: threading.Event

    def cancel(self) -> None:
        """End it before its next step, with what it has."""
        self._over.set()


class Engine:
    """Writes for many requests at once.

    Args:
        reader: the loaded pair.
        proxies: small pairs by the name under which a search asks for them.
        max_running: most choices that are written at a time.
        max_waiting: most requests that wait; one more is refused (`Full`).
        chunk: most tokens of prompts that are read between two steps.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        proxies: Mapping[str, Terms] = {},
        max_running: int = 64,
        max_waiting: int = 256,
        chunk: int = 256,
    ) -> None:
        self.reader, self._proxies = reader, dict(proxies)
        self.max_running, self.max_waiting = max_running, max_waiting
        self._turn = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._over = self._draining = False
        self._thread = threading.Thread(target=self._work, name="tokenq-engine", daemon=True)
        self._thread.start()

    def generate(self, asked: Generation, deliver: Deliver, client: str = "") -> Ticket:
        """Take a request; clients have their turns one after the other, however much each of them asks for.

        Raises:
            Full: as many requests wait as may.
            Closed: no more are taken.
            UserError: it cannot be answered by these models.
        """
        asked.sampling  # noqa: B018  (refuses what leaves nothing to draw)
        if not asked.prompt:
            raise UserError("The prompt has no tokens.", "Begin with the BOS token.")
        with self._turn:
            if self._over or self._draining:
                raise Closed
            if len(self._waiting) >= self.max_waiting:
                raise Full
            ticket = Ticket(asked, deliver, client)
            self._waiting.append(ticket)
            self._turn.notify()
        return ticket

    def run(self, job: Callable[[Reader], T]) -> "Future[T]":
        """Run a job on the thread that owns the models, between two steps.

        Raises:
            Closed: no more are taken.
        """
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job(self.reader))
                except BaseException as problem:
                    future.set_exception(problem)

        with self._turn:
            if self._over:
                raise Closed
            self._jobs.append(work)
            self._turn.notify()
        return future

    def search(
        self,
        prompts: Sequence[Prompt],
        settings: Mapping[str, Any],
        *,
        proxy: str | None = None,
        judge: TextReward | None = None,
        progress: Progress = silent,
        watch: Watch = unseen,
    ) -> Searching:
        """Search for answers in a thread of its own, whose steps run between those of everybody else.

        Args:
            prompts: as `tokenq.data.prompts.given_prompts` makes them of texts or turns.
            settings: those of `tokenq search`: method, width, n, max_new_tokens, …
            proxy: name of small pairs that steer the policy.
            judge: (prompts, responses) → what each is worth, instead of a reward model.
            progress: told how far it is.
            watch: puts somebody beside the stepper who sees what is looked at, while it is.

        Raises:
            Closed: no more are taken.
        """
        future: Future[list[SearchResult]] = Future()
        over = threading.Event()

        def work() -> None:
            try:
                searcher = replace(self.reader._searcher(judge, settings), watch=watch)
                future.set_result(list(searcher.results(prompts, progress, over.is_set)))
            except BaseException as problem:
                future.set_exception(problem)

        self.run(lambda _: work())
        return Searching(future, over)

    def reload(self, load: Callable[[Reader], Reader]) -> "Future[None]":
        """Exchange the models once nothing runs: requests that wait begin with the new ones.

        Args:
            load: the reader as it is → the one that takes its place, or the same with other weights; called on the
                thread that owns the models, with all keys and values dropped.
        """

        def exchange(reader: Reader) -> None:
            self.reader = load(reader)

        return self.run(exchange)

    def drain(self) -> None:
        """Take no more requests, and return when those that were taken have ended."""
        with self._turn:
            self._draining = True
        self.run(lambda _: None).result()

    def close(self) -> None:
        """End everything now, and the thread."""
        with self._turn:
            self._over = True
            self._turn.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._jobs or self._over)
                ticket = self._waiting.popleft() if self._waiting else None
                job = self._jobs.popleft() if ticket is None and self._jobs else None
                if self._over:
                    return
            if ticket is not None:
                try:
                    self._write(ticket)
                except BaseException as problem:
                    ticket.deliver(problem)
                ticket.deliver(None)
            if job is not None:
                job()

    @torch.no_grad()
    def _write(self, ticket: Ticket) -> None:
        pair, asked = self.reader.pair, ticket.asked
        assert pair is not None
        stepper = ModelStepper(pair.models.policy, pair.models.reference if asked.rewards else None)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        dice = [Dice(mixed_seed(seed, asked.prompt, number)) for number in range(asked.n)]
        frontier, running = stepper.start([asked.prompt]), [(number, 0) for number in range(asked.n)]
        for length in range(1, asked.max_new_tokens + 1):
            rows = [row for _, row in running]
            if asked.temperature == 0:
                tokens = frontier.logps[rows].argmax(-1).tolist()
            else:
                tokens = draw(filtered(frontier.logps, asked.sampling), rows, [dice[number] for number, _ in running])
            alive = []
            for (choice, row), token in zip(running, tokens, strict=True):
                finish = "stop" if token in asked.eos else "length" if length == asked.max_new_tokens else None
                top = frontier.logps[row].topk(asked.top_logprobs)
                tops = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
                ref = None if frontier.ref_logps is None else float(frontier.ref_logps[row, token])
                if choice not in ticket.stopped and not ticket.cancelled.is_set():
                    ticket.deliver(Token(choice, token, float(frontier.logps[row, token]), tops, ref, (), finish))
                    if finish is None:
                        alive.append((choice, row, token))
            if not alive:
                return
            parents, chosen = (torch.tensor([one[place] for one in alive]) for place in (1, 2))
            frontier = stepper.step(frontier.state, parents, chosen)
            running = [(choice, place) for place, (choice, _, _) in enumerate(alive)]
