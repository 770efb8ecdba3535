"""What Prometheus reads at /metrics. Names are vLLM's with `tokenq:` before them, so that its dashboards fit.

A server has a registry of its own: two in one process do not count for each other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
"""Seconds to a first token."""

BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
"""Seconds from token to token."""

WHOLE = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 600)
"""Seconds of a whole request."""


@dataclass(frozen=True)
class Measured:
    """A number that the engine keeps.

    Attributes:
        name: in the answer, without what Prometheus adds.
        says: its help.
        kind: a number that goes up and down, or one that grows.
    """

    name: str
    says: str
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]


ENGINE: Mapping[str, Measured] = {
    "running": Measured("num_requests_running", "Responses that are being written.", GaugeMetricFamily),
    "waiting": Measured("num_requests_waiting", "Requests that wait for room in the batch.", GaugeMetricFamily),
    "searching": Measured("num_searches_running", "Searches under way.", GaugeMetricFamily),
    "bytes_running": Measured("kv_cache_running_bytes", "Keys and values of what is being written.", GaugeMetricFamily),
    "bytes_kept": Measured("kv_cache_kept_bytes", "Keys and values kept for what begins alike.", GaugeMetricFamily),
    "prefix_queries": Measured("prefix_cache_queries", "Tokens of prompts, all of them.", CounterMetricFamily),
    "prefix_hits": Measured("prefix_cache_hits", "Tokens of prompts that were known already.", CounterMetricFamily),
    "prompt_tokens": Measured("prompt_tokens", "Tokens of prompts that were read.", CounterMetricFamily),
    "generation_tokens": Measured("generation_tokens", "Tokens written.", CounterMetricFamily),
    "refused": Measured("requests_refused", "Requests refused because too many waited.", CounterMetricFamily),
    "searches": Measured("searches", "Searches begun.", CounterMetricFamily),
}
"""Numbers of the engines by the names that whoever adds them up has for them."""


class _Engine(Collector):
    """Asks an engine for its numbers when they are read."""

    def __init__(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        """Yield the numbers that the engine keeps."""
        for name, value in self._numbers().items():
            if name in ENGINE:
                row = ENGINE[name]
                yield row.kind(f"tokenq:{row.name}", row.says, value=value)


class Metrics:
    """The numbers of one server.

    Attributes:
        registry: holds them.
        answered: requests, by path and status.
        errors: requests that were refused or failed, by type.
        finished: responses that were written, by why they ended.
        first_token: seconds from a request to its first token.
        next_token: seconds from one token to the next.
        request: seconds of whole requests, by path.
    """

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.answered = Counter(
            "tokenq:http_requests", "Requests answered, by path and status.", ("path", "status"), registry=own
        )
        self.errors = Counter("tokenq:request_errors", "Requests refused or failed, by type.", ("type",), registry=own)
        self.finished = Counter(
            "tokenq:request_success", "Responses written, by why they ended.", ("finished_reason",), registry=own
        )
        self.first_token = Histogram(
            "tokenq:time_to_first_token_seconds", "From a request to its first token.", registry=own, buckets=FIRST
        )
        self.next_token = Histogram(
            "tokenq:inter_token_latency_seconds", "From one token to the next.", registry=own, buckets=BETWEEN
        )
        self.request = Histogram(
            "tokenq:e2e_request_latency_seconds", "From a request to its end.", ("path",), registry=own, buckets=WHOLE
        )
        ProcessCollector(registry=own)

    def watch(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        """Have the numbers of an engine read with the others.

        Args:
            numbers: asks for them, by keys of `ENGINE`.
        """
        self.registry.register(_Engine(numbers))

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type.

        Args:
            accept: the Accept header of whoever asks.
        """
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind
