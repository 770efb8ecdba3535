"""What the engines of a server are measured by: how fast tokens come, and what is counted where they are made."""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tokenq.jobs.reader import Reader
from tokenq.jobs.searcher import Terms
from tokenq.server.engine.counters import Counters
from tokenq.server.engine.engine import Engine
from tokenq.server.engine.request import Deliver, Delivery, Generation, Token
from tokenq.server.guards.metrics import Metrics

GAUGES = ("running", "waiting", "searching", "bytes_running", "bytes_kept")
"""Numbers of engines that go up and down."""


@dataclass(frozen=True)
class Engines:
    """The engines of a server: of its policy, and of adapters that are loaded while it runs.

    Attributes:
        make: (reader, proxies=…, watch=…) → an engine.
        metrics: where their tokens are measured.
    """

    make: Callable[..., Engine]
    metrics: Metrics
    _known: list[tuple["weakref.ref[Engine]", Counters]] = field(default_factory=list)

    def __call__(self, reader: Reader, proxies: Mapping[str, Terms] = {}) -> Engine:
        """Return an engine of a pair.

        Args:
            reader: the pair.
            proxies: small pairs that may steer its searches, by name.
        """
        engine = self.make(reader, proxies=proxies, watch=partial(watched, self.metrics))
        self._known.append((weakref.ref(engine), engine.counters))  # an engine that has gone takes its models with it
        return engine

    def numbers(self) -> Mapping[str, float]:
        """Return the numbers of all engines; what they counted stays when they go."""
        found: Counter[str] = Counter(dict.fromkeys(GAUGES, 0))
        for engine, counters in self._known:
            alive = engine()
            if alive is not None:
                stats = alive.stats()
                found.update({name: int(stats[name]) for name in GAUGES})
            found.update(
                prefix_queries=counters.tokens_read + counters.tokens_known,
                prefix_hits=counters.tokens_known,
                prompt_tokens=counters.tokens_read,
                generation_tokens=counters.tokens_written,
                refused=counters.refused,
                searches=counters.searches,
            )
        return found


def watched(metrics: Metrics, asked: Generation, deliver: Deliver) -> Deliver:
    """Return what hands on deliveries and takes the time between them.

    Args:
        metrics: where it goes.
        asked: what was asked for.
        deliver: takes what comes.
    """
    began, last = time.perf_counter(), dict[int, float]()

    def take(found: Delivery) -> None:
        if isinstance(found, Token):
            now = time.perf_counter()
            if not last:
                metrics.first_token.observe(now - began)
            elif found.choice in last:
                metrics.next_token.observe(now - last[found.choice])
            last[found.choice] = now
            if found.finish is not None:
                metrics.finished.labels(found.finish).inc()
        elif isinstance(found, BaseException):
            metrics.finished.labels("error").inc()
        deliver(found)

    return take
