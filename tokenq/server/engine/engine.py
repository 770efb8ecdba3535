"""One thread that owns the models: requests join running batches, and what is written is delivered token by token."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any, TypeVar

from tokenq.data.prompts import Prompt
from tokenq.errors import UserError, unknown_name
from tokenq.jobs.reader import Reader
from tokenq.jobs.searcher import Terms, TextReward, Watch, unseen
from tokenq.listener import Progress, silent
from tokenq.models.open import OpenedPair
from tokenq.records.results import SearchResult
from tokenq.server.engine.counters import Counters
from tokenq.server.engine.job import Job
from tokenq.server.engine.limits import most_tokens
from tokenq.server.engine.request import Closed, Deliver, Full, Generation
from tokenq.server.engine.searching import Searching, ThreadOwner
from tokenq.server.engine.ticket import Line, Ticket
from tokenq.server.engine.writing import Writing

T = TypeVar("T")

CHUNK = {"cpu": 128}
"""Tokens of prompts that are read beside a step, by kind of device: about what doubles the time that it takes."""

ACCELERATOR_CHUNK = 2048


class Engine:
    """Writes for many requests at once.

    Args:
        reader: the loaded pair.
        proxies: small pairs by the name under which a search asks for them.
        max_running: most choices that are written at a time.
        max_waiting: most requests that wait; one more is refused (`Full`).
        max_searches: most searches at a time; one more is refused.
        most_kept: bytes of keys and values that each model keeps of texts that have ended, for those that begin alike.
        chunk: most tokens of prompts that are read beside a step; None for what suits the device.
        watch: (what is asked for, what takes deliveries) → what takes them in its place, and looks at them.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        proxies: Mapping[str, Terms] = {},
        max_running: int = 64,
        max_waiting: int = 256,
        max_searches: int = 4,
        most_kept: int = 2**30,
        chunk: int | None = None,
        watch: Callable[[Generation, Deliver], Deliver] = lambda _, deliver: deliver,
    ) -> None:
        self.max_running, self.max_waiting, self.max_searches = max_running, max_waiting, max_searches
        self.counters, self._watch = Counters(), watch
        self._proxies, self._most_kept, self._chunk = dict(proxies), most_kept, chunk
        self._turn = threading.Condition()
        self._line = Line()
        self._jobs: deque[Job] = deque()
        self._exchanges: deque[Job] = deque()
        self._searches = self._searching = 0
        self._over = self._draining = False
        self._take(reader)
        self._thread = threading.Thread(target=self._work, name="tokenq-engine", daemon=True)
        self._thread.start()

    def _take(self, reader: Reader) -> None:
        """Write with the models of a reader from now on."""
        self.reader, pair = reader, reader.pair
        self._writing = None if pair is None else self._writing_with(pair)
        self._shown = self._now()

    def _writing_with(self, pair: OpenedPair) -> Writing:
        device = pair.models.policy.device.type
        chunk = self._chunk or CHUNK.get(device, ACCELERATOR_CHUNK)
        return Writing(
            pair, most_running=self.max_running, most_kept=self._most_kept, chunk=chunk, counters=self.counters
        )

    def generate(self, asked: Generation, deliver: Deliver, client: str = "") -> Ticket:
        """Take a request; clients have their turns one after the other, however much each of them asks for.

        Args:
            asked: what is asked for.
            deliver: called on the thread of the engine with everything that comes, None at the end; it must not block.
            client: whose request it is.

        Raises:
            Full: as many requests wait as may.
            Closed: no more are taken.
            UserError: it cannot be answered by these models.
        """
        if asked.n > self.max_running:
            raise UserError(f"{asked.n} choices are more than the {self.max_running} of this server.", "Ask for fewer.")
        ticket = Ticket(asked, self._watch(asked, deliver), client, most_tokens(asked, self.reader))
        with self._turn:
            if self._over or self._draining:
                raise Closed
            if len(self._line) >= self.max_waiting:
                self.counters.refused += 1
                raise Full
            self.counters.requests += 1
            self._line.add(ticket)
            self._turn.notify_all()
        return ticket

    def run(self, job: Callable[[Reader], T]) -> "Future[T]":
        """Run a job on the thread that owns the models, between two steps; texts that are written wait for it.

        Raises:
            Closed: the engine has ended.
        """
        future: Future[T] = Future()
        own = Job(future, lambda: job(self.reader))
        if threading.current_thread() is self._thread:
            own.do()
            return future
        with self._turn:
            if self._over:
                raise Closed
            self._jobs.append(own)
            self._turn.notify_all()
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
            judge: (prompts, responses) → what each is worth, instead of a reward model; called on the engine's thread.
            progress: told how far it is, on the search's thread.
            watch: puts somebody beside the stepper who sees what is looked at, while it is, on the search's thread.

        Raises:
            Full: as many searches run as may.
            Closed: no more are taken.
            UserError: there is no such proxy.
        """
        if proxy is not None and proxy not in self._proxies:
            raise unknown_name("proxy", proxy, self._proxies)
        with self._turn:
            if self._over or self._draining:
                raise Closed
            if self._searches >= self.max_searches:
                self.counters.refused += 1
                raise Full
            self._searches += 1
            self.counters.searches += 1
        owner, search = ThreadOwner(lambda job: self.run(lambda _: job()).result()), Searching()
        rating, terms = None if judge is None else owner.judge(judge), () if proxy is None else self._proxies[proxy]

        def find() -> list[SearchResult]:
            searcher = owner.run(lambda: self.reader.searcher(rating, settings, terms))
            searcher = replace(searcher, watch=lambda one: watch(owner.stepper(one)), scored=owner.scorer)
            return list(searcher.results(prompts, progress, search.over.is_set))

        work = Job(search.future, find)
        threading.Thread(target=self._search, args=(work,), name="tokenq-search", daemon=True).start()
        return search

    def reload(self, load: Callable[[Reader], Reader]) -> "Future[Reader]":
        """Exchange the models once nothing runs: what is written ends as it began, what waits comes after.

        Args:
            load: the reader as it is → the one that takes its place, or the same with other weights; called on the
                thread that owns the models. No keys or values outlive it.

        Raises:
            Closed: the engine has ended.
        """
        future: Future[Reader] = Future()

        def exchange() -> Reader:
            self._take(load(self.reader))
            self.counters.reloads += 1
            return self.reader

        with self._turn:
            if self._over:
                raise Closed
            self._exchanges.append(Job(future, exchange))
            self._turn.notify_all()
        return future

    def drain(self) -> None:
        """Take no more requests, and return when those that were taken have ended."""
        with self._turn:
            self._draining = True
            self._turn.wait_for(lambda: self._over or not (self._busy or self._line or self._jobs or self._searches))
        with contextlib.suppress(Closed, CancelledError):
            self.run(lambda _: None).result()  # the last step is over then, and what it changed is shown

    def close(self) -> None:
        """End everything now, and the thread."""
        with self._turn:
            self._over = True
            self._turn.notify_all()
        self._thread.join()

    def stats(self) -> dict[str, Any]:
        """Return what runs and waits, the memory that it takes, and the sums since the start."""
        return {**self._shown, "waiting": len(self._line), "searching": self._searches, **self.counters.to_dict()}

    @property
    def _busy(self) -> bool:
        return self._writing is not None and not self._writing.idle

    @property
    def _called(self) -> bool:
        """Whether there is something to do."""
        may_begin = len(self._line) and not self._exchanges
        may_exchange = self._exchanges and not self._searching
        return bool(self._over or self._jobs or self._busy or may_begin or may_exchange)

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._called)
                jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
                if self._over:
                    break
            for job in jobs:
                job.do()
            self._step()
            self._shown = self._now()
            with self._turn:
                self._turn.notify_all()
        for job in (*jobs, *self._jobs, *self._exchanges):
            job.future.cancel()
        if self._writing is not None:
            self._writing.fail(Closed())
        for ticket in self._line.leave(lambda _: True):
            ticket.end(Closed())

    def _step(self) -> None:
        """Take a step of what is written, or exchange the models where nothing is."""
        for ticket in self._line.leave(lambda one: one.cancelled):
            self.counters.ended["cancelled"] += 1
            ticket.end()
        with self._turn:
            exchange = self._exchanges[0] if self._exchanges and not self._busy and not self._searching else None
        if exchange is not None:
            exchange.do()
            self._exchanges.popleft()
        if self._writing is None:
            return
        try:
            self._writing.step(None if self._exchanges else self._line)
        except Exception as problem:  # nothing is known of the state of any text
            self._writing.fail(problem)

    def _search(self, work: Job) -> None:
        """Search once no exchange of the models waits."""
        with self._turn:
            self._turn.wait_for(lambda: self._over or not self._exchanges)
            self._searching += 1
        work.do()
        with self._turn:
            self._searching -= 1
            self._searches -= 1
            self._turn.notify_all()

    def _now(self) -> dict[str, Any]:
        """Return what runs, as far as others may see it."""
        models = [] if self._writing is None else self._writing.models
        return {
            "running": 0 if self._writing is None else self._writing.choices,
            "bytes_running": sum(model.size for model in models),
            "bytes_kept": sum(model.memory.size for model in models),
            "texts_kept": sum(len(model.memory) for model in models),
        }
