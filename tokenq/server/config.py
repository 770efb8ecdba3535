"""The settings of a server; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from tokenq.errors import UserError, unknown_name
from tokenq.options import ModelOptions, RewardOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """Where a server listens, who may ask, and how much at once."""

    host: str = "127.0.0.1"
    """Address to listen at. One that other machines reach needs a key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    model_name: str | None = None
    """Name of the policy in requests. Default: that of its folder."""
    api_key_file: str | None = None
    """File of keys, a key a line, one of which a request must have. Default: the key in TOKENQ_API_KEY."""
    admin_key_file: str | None = None
    """File of keys that may load adapters and weights. Default: TOKENQ_ADMIN_KEY; without one nothing can be loaded."""
    allow_host: Sequence[str] = ()
    """Further names that the server goes by, as behind a proxy; others are refused (DNS rebinding)."""
    allow_origin: Sequence[str] = ()
    """Addresses of web pages that may use the server: https://pages.example.org. Default: its own alone."""
    sessions: str | None = None
    """SQLite file of the web app's saved sessions. Default: they are kept until the server ends."""
    max_new_tokens: int = 4096
    """Most tokens that a request may have written for a response."""
    max_prompt_tokens: int | None = None
    """Most tokens of a prompt. Default: what the models read."""
    max_body_bytes: int = 8 * 2**20
    """Most bytes of a request."""
    max_requests: int = 256
    """Most requests of one client (a key, else an address) that are under way."""
    max_waiting: int = 256
    """Most requests that wait for room in the batch; others are answered 429."""
    max_batch: int = 64
    """Most responses that are written side by side."""
    max_searches: int = 4
    """Most searches that run at once; others are answered 429."""
    max_kept_bytes: int = 2**30
    """Most bytes of keys and values that each model keeps of texts that have ended, for those that begin alike."""
    request_seconds: float = 600.0
    """Longest time that a request may take."""
    drain_seconds: float = 60.0
    """Time that requests under way have when the server is told to end."""
    access_log: bool = True
    """Write a line for every request to standard error: who, what, how it ended; no texts and no keys."""

    def check_http(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: names the flag.
        """
        check_ranges(self, RANGES)
        if not self.host.strip():
            raise UserError("--host is empty.", "Give an address of this machine, as in --host 127.0.0.1.")


STRONGEST = 1_000
"""Largest weight of a small pair, as `tokenq search` has it."""

RANGES = (
    Range(("port",), least=0, most=65_535),
    Range(("max_prompt_tokens", "max_body_bytes"), least=1, most=2**31 - 1),
    Range(("max_requests", "max_waiting", "max_searches"), least=1, most=1_000_000),
    Range(("max_batch",), least=1, most=10_000),
    Range(("max_kept_bytes",), least=0, most=2**50),
    Range(("request_seconds", "drain_seconds"), least=0, most=86_400),
)
"""Ranges of the numbers of a server."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(HttpOptions, ModelOptions, RewardOptions):
    """Serve a policy with its reference: OpenAI's API with rewards, and a web app to look, branch and compare."""

    proxy: Mapping[str, str] = field(default_factory=dict)
    """Small models that may steer the policy, by a name of yours for requests: --proxy expert=TUNED,UNTUNED."""
    alpha: Mapping[str, str] = field(default_factory=dict)
    """Weight of each --proxy: --alpha expert=1.5. Default: 1."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        self.check_http()
        if (self.policy is None) == (self.run is None):
            hint = "Give --policy P --reference R, or --run RUN."
            raise UserError("There is nothing to serve, or too much.", hint)
        if self.reward_weights and self.reward_model is None:
            raise UserError("--reward-weights is given, and no --reward-model.", "Name the model that they belong to.")
        alphas_of(self)


def pairs_of(config: ServeConfig) -> Mapping[str, list[tuple[str, str]]]:
    """Return the (tuned, untuned) models of each name of `--proxy`.

    Raises:
        UserError: a name has not two models, or four, …
    """
    found = {}
    for name, given in config.proxy.items():
        models = given.split(",")
        if len(models) % 2 or not all(models):
            hint = f"Name the tuned and the untuned one: --proxy {name}=TUNED,UNTUNED."
            raise UserError(f"--proxy {name}={given}: those are no pairs of models.", hint)
        found[name] = list(zip(models[::2], models[1::2], strict=True))
    return found


def alphas_of(config: ServeConfig) -> Mapping[str, list[float]]:
    """Return the weight of every pair of each name.

    Raises:
        UserError: a weight of no pair, not one for each, or one that is no number.
    """
    pairs = pairs_of(config)
    odd = [name for name in config.alpha if name not in pairs]
    if odd:
        raise unknown_name("name of --proxy in --alpha", odd[0], pairs)
    found = {}
    for name, both in pairs.items():
        given = config.alpha.get(name, ",".join("1" for _ in both))
        try:
            found[name] = [float(text) for text in given.split(",")]
        except ValueError:
            found[name] = []
        if len(found[name]) != len(both) or not all(isfinite(one) and abs(one) <= STRONGEST for one in found[name]):
            hint = f"Give a number of up to ±{STRONGEST:,} for each pair of {name}: {len(both)}."
            raise UserError(f"--alpha {name}={given}: those are no weights.", hint)
    return found


SECTIONS = {
    **dict.fromkeys(("policy", "proxy", "reward_model"), "models"),
    **dict.fromkeys(("host", "model_name"), "where"),
    **dict.fromkeys(("api_key_file",), "who may ask"),
    **dict.fromkeys(("sessions", "access_log"), "what is kept"),
    **dict.fromkeys(("max_new_tokens",), "how much at once"),
    **dict.fromkeys(("dtype",), "how"),
}
SPELT_ELSEWHERE = {
    "model": "policy",
    "ref": "reference",
    "api_key": "Keys are never on a command line: set TOKENQ_API_KEY, or give --api-key-file",
    "admin_key": "Keys are never on a command line: set TOKENQ_ADMIN_KEY, or give --admin-key-file",
    "served_model_name": "model_name",
    "allowed_origins": "allow_origin",
    "allowed_hosts": "allow_host",
    "cors": "allow_origin",
    "max_num_seqs": "max_batch",
    "concurrency": "max_requests",
    "timeout": "request_seconds",
    "adapter": "policy",
}
