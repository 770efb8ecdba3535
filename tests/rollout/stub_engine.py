"""An engine behind HTTP that speaks token ids and log-probs as vLLM does, and misbehaves as a test tells it to.

It steps through models of this package. Weights are taken from a folder (`/collective_rpc`) or as adapters
(`/v1/load_lora_adapter`), and prompts go through a cache of prefixes that keeps what the weights of then have made of
them until it is reset, so that a forgotten reset has the effect that it has in an engine.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch

from tokenq.core.packing import pack
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import logits_of
from tokenq.models.forward.stepper import ModelStepper
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.search.branches import Limits, Walk
from tokenq.search.sampling import filtered, sample
from tokenq.search.settings import Sampling


@dataclass
class Behaviour:
    """How the engine misbehaves; honest by default.

    Attributes:
        text_only: whether answers hold text alone.
        syncs: whether new weights are taken, whatever is answered.
        resets: whether the cache of prefixes is emptied when it is asked.
        other_adapter: gives another model under the name of an adapter.
        recoded: what becomes of ids on their way back.
        own: sampling that is added to what is asked for.
        processed: whether log-probs are those of what was drawn from.
        fails: by path, how many of the next requests fail, and with which status.
        dies_after: completions after which no connection is answered.
        stamp: what answers call the version of the weights.
        tokens: what /tokenize says of any prompt; None for a server that has no such path.
        choice: what becomes of a response at last.
    """

    text_only: bool = False
    syncs: bool = True
    resets: bool = True
    other_adapter: PackedLM | None = None
    recoded: Callable[[list[int]], list[int]] | None = None
    own: Sampling | None = None
    processed: bool = False
    fails: dict[str, tuple[int, int]] = field(default_factory=dict)
    dies_after: int | None = None
    stamp: Callable[[int], str] | None = None
    tokens: list[int] | None = None
    choice: Callable[[dict[str, Any]], dict[str, Any]] = lambda one: one


def table(lm: PackedLM, prompt: list[int], tokens: list[int], cached: PackedLM | None = None) -> torch.Tensor:
    """Return [T, V] log-probs at each of some tokens; what stands before the last of the prompt as `cached` has it."""
    if cached is None:
        one = TokenResponse(np.array(tokens, np.int32), np.ones(len(tokens), np.bool_), terminal=False)
        batch = pack([TokenGroup(np.array(prompt, np.int32), (one,), False, "")])
        with torch.no_grad():
            return logits_of(lm)(batch).row(slice(None)).T.double().log_softmax(-1)
    stepper = Cached(lm, cached)
    frontier = stepper.start([prompt])
    rows = []
    for token in tokens:
        rows.append(frontier.logps[0])
        frontier = stepper.step(frontier.state, torch.tensor([0]), torch.tensor([token]))
    return torch.stack(rows).double()


class Cached:
    """A stepper whose prompts, but for the last token, were read by other weights."""

    def __init__(self, lm: PackedLM, cached: PackedLM) -> None:
        self._now, self._then = ModelStepper(lm), ModelStepper(cached)

    def start(self, prompts):
        before = self._then.start([prompt[:-1] for prompt in prompts])
        last = torch.tensor([prompt[-1] for prompt in prompts])
        return self._now.step(before.state, torch.arange(len(prompts)), last)

    def step(self, state, parents, tokens):
        return self._now.step(state, parents, tokens)

    def gather(self, places):
        return self._now.gather(places)


class StubEngine:
    """Serves until `close`; remembers what it was asked.

    Args:
        model: folder of the model, or the model.
        name: under which it is served.
        text: ids → text.
    """

    def __init__(self, model: str | PackedLM, name: str = "tiny", text: Callable[[list[int]], str] = str) -> None:
        self.base = str(model)
        self.now = model if isinstance(model, PackedLM) else opened(self.base)
        self.adapters: dict[str, PackedLM] = {}
        self.name, self.text = name, text
        self.behaviour = Behaviour()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.completions = self.version = 0
        self.paused = self.dead = False
        self._prefixes: dict[tuple[str, tuple[int, ...]], PackedLM] = {}
        self._lock = threading.Lock()
        self._server = _serving(self)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and content for a request."""
        with self._lock:
            self.requests.append((path, body))
            failing, status = self.behaviour.fails.get(urlsplit(path).path, (0, 0))
            if failing:
                self.behaviour.fails[urlsplit(path).path] = failing - 1, status
                return status, {"error": {"message": "not now"}}
            serve = _PATHS.get(urlsplit(path).path)
            return (404, {"error": {"message": "Not Found"}}) if serve is None else serve(self, body, path)

    def models(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        rows = [{"id": self.name, "owned_by": "stub", "max_model_len": 128, "parent": None}]
        return 200, {"data": [*rows, *({"id": one, "parent": self.name} for one in self.adapters)]}

    def load_adapter(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        if body["lora_name"] in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}}
        honest = opened(self.base, body["lora_path"]) if self.behaviour.syncs else self.now
        self.adapters[body["lora_name"]] = self.behaviour.other_adapter or honest
        return 200, "Success"

    def unload_adapter(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        found = self.adapters.pop(body["lora_name"], None)
        return (404, {"error": {"message": "no such adapter"}}) if found is None else (200, "Success")

    def pause(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        assert parse_qs(urlsplit(path).query) == {"mode": ["keep"]}
        self.paused = True
        return 200, {"status": "paused"}

    def rpc(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        assert self.paused
        assert body["method"] == "reload_weights"
        if self.behaviour.syncs:
            self.now = opened(body["kwargs"]["weights_path"])
        return 200, {"results": [None]}

    def reset(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        if self.behaviour.resets:
            self._prefixes.clear()
        return 200, None

    def update_version(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        self.version = int(body["new_version"])
        return 200, {"version": body["new_version"]}

    def resume(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        self.paused = False
        return 200, {"status": "resumed"}

    def tokenize(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        if self.behaviour.tokens is None:
            return 404, {"error": {"message": "Not Found"}}
        return 200, {"tokens": self.behaviour.tokens}

    def complete(self, body: Mapping[str, Any], path: str) -> tuple[int, Any]:
        assert not self.paused
        if self.behaviour.dies_after is not None and self.completions >= self.behaviour.dies_after:
            self.dead = True
            return 0, None
        self.completions += 1
        lm = self.now if body["model"] == self.name else self.adapters.get(body["model"])
        if lm is None:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        prompt = body["prompt"]
        if max(prompt) >= lm.model.config.vocab_size:
            return 400, {"error": {"message": f"Token id {max(prompt)} is out of vocabulary"}}
        assert "prompt_logprobs" not in body  # with adapters vLLM's engine ends by it
        cached = self._prefixes.setdefault((body["model"], tuple(prompt)), lm) if len(prompt) > 1 else lm
        stamp = {} if self.behaviour.stamp is None else {"weight_version": self.behaviour.stamp(self.version)}
        return 200, {"model": body["model"], "choices": self._drawn(lm, cached, body), **stamp}

    def _drawn(self, lm: PackedLM, cached: PackedLM, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked = Sampling(body["temperature"], max(0, body["top_k"]), body["top_p"])
        sampling = self.behaviour.own or asked
        stepper = ModelStepper(lm) if cached is lm else Cached(lm, cached)
        ends = Limits(tuple(body["stop_token_ids"]), body["max_tokens"])
        branches = sample(Walk(stepper, [body["prompt"]], ends), sampling, count=body["n"], seed=body["seed"])[0]
        choices = []
        for index, branch in enumerate(branches):
            ids, logps = list(branch.tokens), list(branch.logps)
            if self.behaviour.processed and sampling.temperature > 0:
                rows = filtered(table(lm, body["prompt"], ids, None if cached is lm else cached), sampling)
                logps = [float(row[token]) for row, token in zip(rows, ids, strict=True)]
            finish = "stop" if ids[-1] in ends.eos else "length"
            shown = self.behaviour.recoded(ids) if self.behaviour.recoded else ids
            held = {"token_ids": shown, "prompt_token_ids": body["prompt"], "logprobs": {"token_logprobs": logps}}
            held = {} if self.behaviour.text_only else held
            choice = {"index": index, "text": self.text(ids), "finish_reason": finish, **held}
            choices.append(self.behaviour.choice(choice))
        return choices


_PATHS: Mapping[str, Callable[..., tuple[int, Any]]] = {
    "/v1/models": StubEngine.models,
    "/v1/completions": StubEngine.complete,
    "/v1/load_lora_adapter": StubEngine.load_adapter,
    "/v1/unload_lora_adapter": StubEngine.unload_adapter,
    "/tokenize": StubEngine.tokenize,
    "/version": lambda engine, body, path: (200, {"version": "1.2"}),
    "/server_info": lambda engine, body, path: (200, {"vllm_config": {"model_config": {"dtype": "torch.float32"}}}),
    "/pause": StubEngine.pause,
    "/collective_rpc": StubEngine.rpc,
    "/reset_prefix_cache": StubEngine.reset,
    "/update_weight_version": StubEngine.update_version,
    "/resume": StubEngine.resume,
}


def opened(path: str, adapter: str | None = None) -> PackedLM:
    """Return a model from a folder, with an adapter where one is named."""
    return open_model(ModelSpec(path, "float32", "cpu", adapter=adapter), max_length=128).lm


def _serving(engine: StubEngine) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            status, content = (0, None) if engine.dead else engine.answer(self.path, body)
            if not status:
                self.close_connection = True
                self.connection.close()
                return
            said = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None
    return server
