"""One pair, one engine and one real server for all tests of endpoints; and an engine that writes what a test says."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import uvicorn
from starlette.testclient import TestClient
from tiny import CHATML, tiny_model, tiny_tokenizer

import tokenq
from tokenq.server.app import create_app
from tokenq.server.engine.engine import Engine
from tokenq.server.engine.request import Token
from tokenq.server.settings import Settings

TOOLS = "{% if tools %}{{ 'Tools: ' }}{% for one in tools %}{{ one.function.name + '\n' }}{% endfor %}{% endif %}"
CALL = "{{ c.function.name + '(' + c.function.arguments | tojson + ')' }}"
CALLS = f"{{% for c in message.tool_calls or [] %}}{CALL}{{% endfor %}}"
TEMPLATE = TOOLS + CHATML.replace("message['content'] + ", f"(message['content'] or '') }}}}{CALLS}{{{{ ")


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer("bytes", eos="<|im_end|>", chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def pair(tokenizer):
    """A policy with its reference, over single bytes: what is written is read as the same tokens."""
    models = (tiny_model("llama", layers=1, seed=seed) for seed in (0, 1))
    policy, reference = ((one, tokenizer) for one in models)
    return tokenq.load(policy, reference, dtype="float32", device="cpu", beta=0.2)


@pytest.fixture(scope="session")
def engine(pair):
    engine = Engine(pair)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def settings():
    return Settings(name="tiny", max_new_tokens=200, max_prompts=8, max_documents=16)


@pytest.fixture(scope="session")
def client(engine, settings):
    with TestClient(create_app(engine, settings), raise_server_exceptions=False) as client:
        yield client


@contextlib.contextmanager
def listening(app) -> Iterator[str]:
    """Serve an application at a free port, and yield its address."""
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{place.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    place.close()


@pytest.fixture(scope="session")
def url(engine, settings):
    with listening(create_app(engine, settings)) as url:
        yield url


class Slip:
    """A ticket that remembers what was called off."""

    def __init__(self):
        self.cancelled, self.stopped = False, set()

    def cancel(self):
        self.cancelled = True

    def stop(self, choice):
        self.stopped.add(choice)


class Scripted:
    """An engine that writes what it is told: the n-th choice of every prompt is the n-th script.

    Args:
        reader: the pair.
        scripts: token ids; the last one ends the response, in "stop" where it is an end, else in "length".
        hangs: whether nothing comes behind the last token.
    """

    def __init__(self, reader, scripts: Sequence[Sequence[int]], hangs=False):
        self.reader, self.scripts, self.hangs, self.max_running = reader, scripts, hangs, 64
        self.slips, self.asked = [], []

    def generate(self, asked, deliver, client=""):
        slip = Slip()
        self.slips.append(slip)
        self.asked.append(asked)
        for choice in range(asked.n):
            script = self.scripts[choice]
            for place, one in enumerate(script):
                last = place == len(script) - 1 and not self.hangs
                finish = ("stop" if one in asked.eos else "length") if last else None
                deliver(Token(choice, one, -0.5 - place, ref_logp=-1.0, finish=finish))
        if not self.hangs:
            deliver(None)
        return slip


@pytest.fixture
def scripted(pair, settings, tokenizer):
    """Return a function: texts → a client of an engine that writes them, each with its end."""
    with contextlib.ExitStack() as stack:

        def make(*texts: str, ends: bool = True) -> TestClient:
            ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
            own = Scripted(pair, [[*one, tokenizer.eos_token_id] if ends else one for one in ids])
            client = stack.enter_context(TestClient(create_app(own, settings), raise_server_exceptions=False))
            client.engine = own
            return client

        yield make
