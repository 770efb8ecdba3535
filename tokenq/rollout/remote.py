"""A writer behind an OpenAI-compatible server: token ids go in, token ids and log-probs come out.

Requests are vLLM's: `/v1/completions` with a prompt of token ids, `return_token_ids` and `logprobs`. A request says
every setting of the sampling, so that none of the server's own applies. Each has a seed of its own and changes nothing
on the server, so that it can be sent again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from tokenq.errors import UserError, unknown_name
from tokenq.judge.endpoint import Connection, Down, Endpoint, Refused, Stopped
from tokenq.records.rollouts import Distribution
from tokenq.rollout.writer import Sample, Seed
from tokenq.rollout.writer_checks import audited, fault
from tokenq.search.branches import Limits
from tokenq.search.sampling import each_seed, mixed_seed
from tokenq.search.settings import Sampling

SEEDS = 2**31
"""Seeds are smaller: some servers take 32 bits."""

AT_ONCE = 64
"""Requests that are under way at once; each may ask for many responses."""

KEEPS = "What was written is on the disk: give the same command with --resume when it is up."


@dataclass(frozen=True)
class Server:
    """A server that writes.

    Attributes:
        endpoint: where, and under which name it knows the model.
        engine: what computes there, and in which type, as far as it says so.
        longest: most tokens of prompt and response together; None where it does not say.
    """

    endpoint: Endpoint
    engine: str
    longest: int | None

    @property
    def root(self) -> str:
        """The URL above /v1, where vLLM has what is not OpenAI's."""
        return self.endpoint.url.removesuffix("/v1")

    def send(self, path: str, bodies: Sequence[Mapping[str, Any] | None], *, text: bool = False) -> list[Any]:
        """Return the answers to requests that are under way at once, as JSON gives them, or as text.

        Raises:
            UserError: the server is down, or refuses a request.
        """
        with Connection(self.endpoint) as connection, ThreadPoolExecutor(min(AT_ONCE, len(bodies))) as pool:
            tasks = [pool.submit(connection.send, path, body, str if text else json.loads) for body in bodies]
            try:
                problems = [problem for task in tasks if (problem := task.exception()) is not None]
            except BaseException:  # a person breaks it off: what is under way is waited for, nothing is sent again
                connection.stop()
                raise
            worst = [
                one for one in problems if not isinstance(one, Stopped)
            ]  # what ended it all, and not what it ended
            if worst:
                raise self._error(path, worst[0])
            return [task.result() for task in tasks]

    def _error(self, path: str, problem: BaseException) -> BaseException:
        name = path.removeprefix(self.root)
        if isinstance(problem, Down):
            return UserError(f"The writer at {self.endpoint.shown} does not answer: {problem}.", KEEPS)
        if isinstance(problem, Refused):
            said = f"The writer at {self.endpoint.shown} will not do {name}: {problem}."
            return UserError(
                said, "Look at what it says, and at its log; token ids outside its vocabulary mean another model."
            )
        return problem


def find_server(url: str, model: str | None, endpoint: Endpoint) -> Server:
    """Return the server at a URL.

    Args:
        url: with or without /v1.
        model: its name there; None for the only one.
        endpoint: how patiently it is asked.

    Raises:
        UserError: nobody answers there, or the model is not among those that are served.
    """
    base = url.rstrip("/")
    asked = Server(replace(endpoint, base_url=base if base.endswith("/v1") else f"{base}/v1"), "", None)
    served = served_models(asked)
    bases = [name for name, one in served.items() if not one.get("parent")]  # adapters name the model below them
    if model is None and len(bases) != 1:
        hint = f"Name one with --writer-model: {', '.join(bases)}." if bases else "Serve one: vllm serve MODEL."
        raise UserError(f"The writer at {asked.endpoint.shown} serves {len(bases) or 'no'} models.", hint)
    name = bases[0] if model is None else model
    if name not in served:
        raise unknown_name(f"model of the writer at {asked.endpoint.shown}", name, served)
    longest = served[name].get("max_model_len")
    found = replace(asked, endpoint=replace(asked.endpoint, model=name), longest=longest)
    return replace(found, engine=_engine(found, str(served[name].get("owned_by", "server"))))


def served_models(server: Server) -> dict[str, Mapping[str, Any]]:
    """Return what a server says of each of its models and adapters, by their names.

    Raises:
        UserError: it does not answer.
    """
    listed = server.send("/models", [None])[0]
    return {str(one["id"]): one for one in listed.get("data", [])} if isinstance(listed, dict) else {}


def _engine(server: Server, owner: str) -> str:
    """Return what computes: name, version and type, as far as the server tells them."""
    said = [owner]
    for path, pattern in (("/version", r'"version": ?"([^"]+)"'), ("/server_info?config_format=json", _DTYPE)):
        try:
            with Connection(replace(server.endpoint, attempts=1)) as connection:
                said += re.findall(pattern, connection.send(f"{server.root}{path}", None, str))[:1]
        except (UserError, Refused, Down):
            continue  # only some servers have it, and only in some modes
    return " ".join([*said, server.endpoint.model])


_DTYPE = r'"dtype": ?"(?:torch\.)?(\w+)"'


@dataclass
class RemoteWriter:
    """Writes through a server. What it is told after each publication stands in it.

    Attributes:
        server: where.
        limits: where responses end.
        size: tokens that the policy knows.
        model: the name under which the server has the weights now.
        published: updates of the weights that were published last; None where nobody published any.
        version: updates of those that the server has.
        logps_of: which distribution log-probs are of, where it is not the model.
    """

    server: Server
    limits: Limits
    size: int
    model: str
    published: int | None = None
    version: int | None = None
    logps_of: dict[Sampling, Distribution] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """What computes, and in which type."""
        return self.server.engine

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return `count` responses to every prompt.

        Raises:
            UserError: the server is down, or what it gives back cannot be learnt from.
        """
        asked = 1 if sampling.temperature == 0 else count
        seeds = [mixed_seed(*one, 0) % SEEDS for one in zip(each_seed(seed, len(prompts)), prompts, strict=True)]
        bodies = [self._body(prompt, asked, sampling, own) for prompt, own in zip(prompts, seeds, strict=True)]
        answers = self.server.send("/completions", bodies)
        whose = self.logps_of.get(sampling, "model")
        found = [self._samples(prompt, answer, asked, whose) for prompt, answer in zip(prompts, answers, strict=True)]
        return [some * (count // asked) for some in found]

    def _body(self, prompt: Sequence[int], count: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return a request; a setting that is not said would be the server's, or the model's."""
        return {
            "model": self.model,
            "prompt": list(prompt),
            "n": count,
            "max_tokens": self._ends(prompt).max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "logprobs": 1,
            "return_token_ids": True,
            "stop_token_ids": list(self.limits.eos),
        }

    def _ends(self, prompt: Sequence[int]) -> Limits:
        return self.limits.behind(prompt)

    def _samples(self, prompt: Sequence[int], answer: Any, count: int, whose: Distribution) -> list[Sample]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) < count:
            raise fault("few-responses", f"{len(choices or ())} for {count}").raised(self.server.endpoint.shown)
        version = _stamp(answer)
        return [
            self._sample(prompt, choice, version, whose)
            for choice in sorted(choices, key=lambda one: one.get("index", 0))[:count]
        ]

    def _sample(
        self, prompt: Sequence[int], choice: Mapping[str, Any], version: int | None, whose: Distribution
    ) -> Sample:
        wrong = audited(prompt, choice, self._ends(prompt), self.size)
        if wrong is not None:
            raise wrong.raised(self.server.endpoint.shown)
        logps = tuple(min(0.0, float(one)) for one in choice["logprobs"]["token_logprobs"])
        own = self.version if version is None else version
        return Sample(tuple(choice["token_ids"]), logps, None, choice["finish_reason"], whose, own)


def _stamp(answer: Mapping[str, Any]) -> int | None:
    """Return the version that an answer says its weights have, None where it says none that is ours."""
    said = re.fullmatch(r"(?:.*-v)?(\d+)", str(answer.get("weight_version", "")))
    return int(said[1]) if said else None
