"""A server with the app over a tiny pair: in a thread of this process, or in a process of its own that can be killed.

`python tests/server/web/web_apps.py PORT [SESSIONS]` starts one to be looked at.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import uvicorn
from tiny import tiny_model, tiny_tokenizer

from tokenq import load
from tokenq.server.app import create_app
from tokenq.server.engine.engine import Engine
from tokenq.server.settings import Settings

TESTS = Path(__file__).parents[2]


def tiny_reader(kind="bytes", **how):
    """Return a pair of byte-level models: any text is a text of theirs, and what they write is bytes of all kinds."""
    tokenizer = tiny_tokenizer(kind, **how)
    return load(tiny_model("llama", seed=0), tiny_model("llama", seed=1), tokenizer=tokenizer)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def app_of(reader, sessions=None, **settings):
    """Return (application, engine)."""
    engine = Engine(reader)
    return create_app(engine, Settings(name="tiny", sessions=sessions, **settings)), engine


@contextlib.contextmanager
def served(app, engine, port=None):
    """Serve an application in a thread, and give its address."""
    port = port or free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        engine.close()


class Process:
    """A server in a process of its own, which may be killed and started again at the same address."""

    def __init__(self, sessions):
        self.port, self.sessions = free_port(), sessions
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        command = [sys.executable, __file__, str(self.port), *([str(self.sessions)] if self.sessions else [])]
        self.process = subprocess.Popen(command, env=environ)
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.1)
        raise TimeoutError

    def kill(self):
        self.process.kill()
        self.process.wait()


def slow(reader, seconds=0.03):
    """Return a reader whose policy takes its time, so that something can be done while it writes."""
    pair = reader.pair
    inner = pair.models.policy.lm.forward

    def forward(*given, **named):
        time.sleep(seconds)
        return inner(*given, **named)

    pair.models.policy.lm.forward = forward
    return replace(reader)


if __name__ == "__main__":
    chosen = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with served(*app_of(tiny_reader(), chosen), port=int(sys.argv[1])):
        threading.Event().wait()
