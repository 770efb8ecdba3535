"""A stand-in for the hub: as much of its API as an upload asks for, with what was uploaded kept in memory.

Every file comes in the commit itself, as small ones do; the storage of large ones is not stood in for.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Takes models of whoever shows the token.

    Attributes:
        files: by the id of a model, its files by name.
        log: method and path of every request.
    """

    daemon_threads = True

    def __init__(self, token):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.token, self.files, self.log = token, {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Requests(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body, code=200):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.server.log.append(("GET", self.path))
        self.answer({"id": "model", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        data = self.body()
        self.server.log.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer({"error": "Invalid credentials"}, 401)
            return
        name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
        if self.path == "/api/repos/create":
            made = json.loads(data)
            made = f"{made.get('organization') or 'me'}/{made['name']}"
            self.server.files.setdefault(made, {})
            self.answer({"url": f"{self.server.url}/{made}", "name": made, "id": made})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(data)["files"]
            kept = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            self.answer({"files": kept})
        elif "/commit/" in self.path:
            for line in data.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            commit = "0" * 40
            url = f"{self.server.url}/{name}/commit/{commit}"
            self.answer({"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self.answer({"error": f"no {self.path}"}, 404)


@contextmanager
def hub(token="hf_stand_in"):
    """Yield a hub that runs on this machine inside the block."""
    server = Hub(token)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
