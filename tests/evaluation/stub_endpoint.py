"""An OpenAI-compatible endpoint on the loopback interface that answers, fails and dawdles as a test tells it to."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Sent = tuple[int, dict[str, str], bytes]
Behaviour = Callable[[int, str], Sent]
"""(how many requests came before, the question) → status, headers, body."""


def said(text: str | None, *, finish: str = "stop", tokens: tuple[int, int] | None = (40, 5)) -> Sent:
    """The answer of a healthy server."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [message], **usage}
    return 200, {}, json.dumps(body).encode()


def failed(status: int, message: str = "no", **headers: str) -> Sent:
    """An error as OpenAI words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()


def _asked(body: dict[str, Any]) -> str:
    return str(body["prompt"] if "prompt" in body else body["messages"][0]["content"])


class StubEndpoint:
    """Serves until `close`; remembers what it was asked.

    Args:
        behave: what to answer.
    """

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub._lock:
                    number = len(stub.requests)
                    stub.requests.append({"path": self.path, **body})
                    stub.keys.append(self.headers["Authorization"])
                    stub._at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub._at_once)
                try:
                    status, headers, content = stub.behave(number, _asked(body))
                finally:
                    with stub._lock:
                        stub._at_once -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client did not wait

            def do_GET(self) -> None:
                found = self.path.endswith("/models")
                content = json.dumps({"data": [{"id": "m", "owned_by": "stub"}]} if found else {}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        """Stop serving: the next connection is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
