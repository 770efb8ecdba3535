"""Who writes a chain, texts in and texts out: a policy in this process, or a model behind an OpenAI endpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tokenq.jobs.density.config import DensifyConfig
from tokenq.jobs.searcher import load_searcher, searched_models
from tokenq.judge.cache import encodable
from tokenq.judge.endpoint import Endpoint
from tokenq.listener import Listener
from tokenq.models.loaded import Loaded
from tokenq.rollout.remote import SEEDS, Server, find_server
from tokenq.rollout.sync import LOCAL
from tokenq.search.config import SearchConfig
from tokenq.search.sampling import mixed_seed

PATIENCE = Endpoint("", role="writer", key_variable="OPENAI_API_KEY", timeout=600.0)
"""How patiently an endpoint is asked."""

Write = Callable[[Sequence[str], int], list[str]]
"""(questions, attempt) → an answer each; another attempt draws anew."""


class Writer(NamedTuple):
    """Who writes.

    Attributes:
        write: answers questions.
        identity: what identifies it, for the record.
    """

    write: Write
    identity: dict[str, Any]


def writer_of(config: DensifyConfig, in_memory: Mapping[str, Loaded], listener: Listener) -> Writer:
    """Return who writes.

    Args:
        config: says who.
        in_memory: the policy, where it is loaded already.
        listener: told what could not be done as asked.

    Raises:
        UserError: the model cannot be opened, or nobody answers.
    """
    return _here(config, in_memory, listener) if config.writer == LOCAL else _served(config)


def _here(config: DensifyConfig, in_memory: Mapping[str, Loaded], listener: Listener) -> Writer:
    shared = ("policy", "run", "base", "dtype", "device", "attention", "trust_remote_code", "eos", "batch_size", "seed")
    drawn = {"method": "sample", "n": 1, "temperature": config.temperature, "top_p": config.top_p}
    asked = SearchConfig(
        **{name: getattr(config, name) for name in shared},
        **(drawn if config.temperature > 0 else {"method": "greedy"}),
        max_new_tokens=config.most_tokens,
    )
    models = searched_models(asked, in_memory)
    searcher = load_searcher(
        asked, None, lambda text: listener.say(f"warning: {text}"), replace(models, reference=None)
    )

    def write(questions: Sequence[str], attempt: int) -> list[str]:
        own = replace(searcher, config=replace(searcher.config, seed=(config.seed + 7919 * attempt) % SEEDS))
        prompts = own.prompts([one for one in questions])
        return [found.candidates[0].text if found.candidates else "" for found in own.results(prompts)]

    return Writer(write, dict(searcher.identities["policy"]))


def _served(config: DensifyConfig) -> Writer:
    server = find_server(config.writer, config.writer_model, PATIENCE)
    ask = _APIS[config.writer_api]
    settings: dict[str, Any] = {"model": server.endpoint.model, "max_tokens": config.most_tokens}
    settings |= {"temperature": config.temperature, "top_p": config.top_p}
    settings |= {"stop": [one.replace("\\n", "\n") for one in config.eos]} if config.eos else {}

    def write(questions: Sequence[str], attempt: int) -> list[str]:
        seeds = [mixed_seed(config.seed, list(one.encode()), attempt) % SEEDS for one in questions]
        return ask(server, [encodable(one) for one in questions], [{**settings, "seed": one} for one in seeds])

    return Writer(write, {"url": server.endpoint.shown, "model": server.endpoint.model, "engine": server.engine})


def _chat(server: Server, questions: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    bodies = [
        {**own, "messages": [{"role": "user", "content": one}]} for one, own in zip(questions, settings, strict=True)
    ]
    return [_text(answer, lambda choice: choice["message"]["content"]) for answer in _sent(server, "chat/", bodies)]


def _completions(server: Server, questions: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    bodies = [{**own, "prompt": one} for one, own in zip(questions, settings, strict=True)]
    return [_text(answer, lambda choice: choice["text"]) for answer in _sent(server, "", bodies)]


def _sent(server: Server, family: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
    return server.send(f"/{family}completions", bodies) if bodies else []


def _text(answer: Any, read: Callable[[Any], Any]) -> str:
    """Return the text of an answer; one without any says nothing."""
    try:
        found = read(answer["choices"][0])
    except (LookupError, TypeError):
        return ""
    return encodable(found) if isinstance(found, str) else ""


_APIS: Mapping[str, Callable[[Server, Sequence[str], Sequence[Mapping[str, Any]]], list[str]]] = {
    "chat": _chat,
    "completions": _completions,
}
