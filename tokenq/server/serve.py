"""`tokenq.serve`: a loaded pair behind HTTP, in this process, until somebody ends it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tokenq.jobs.reader import Reader
from tokenq.listener import SILENCE, Listener
from tokenq.server.config import HttpOptions
from tokenq.server.site import settle

if TYPE_CHECKING:
    from tokenq.jobs.searcher import Terms
    from tokenq.server.running import ServerHandle


def serve(  # noqa: PLR0913 (one keyword a setting)
    session: Reader,
    *,
    proxies: Mapping[str, "Terms"] = {},
    listener: Listener = SILENCE,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str | None = None,
    api_key_file: str | None = None,
    admin_key_file: str | None = None,
    allow_host: Sequence[str] = (),
    allow_origin: Sequence[str] = (),
    sessions: str | None = None,
    max_new_tokens: int = 4096,
    max_prompt_tokens: int | None = None,
    max_body_bytes: int = 8 * 2**20,
    max_requests: int = 256,
    max_waiting: int = 256,
    max_batch: int = 64,
    max_searches: int = 4,
    max_kept_bytes: int = 2**30,
    request_seconds: float = 600.0,
    drain_seconds: float = 60.0,
    access_log: bool = True,
) -> "ServerHandle":
    """Serve what was loaded: `with tokenq.serve(tokenq.load(policy, reference)) as server: print(server.url)`.

    The server runs in threads of its own, and what was loaded belongs to it until it has ended.

    Args:
        session: a policy with its reference, as `tokenq.load` returns it.
        proxies: small pairs that may steer the policy, by the names that requests have for them.
        listener: told where it serves, what, and what is doubtful about it.
        host: address to listen at; one that other machines reach needs a key.
        port: port to listen at; 0 takes a free one.
        model_name: name of the policy in requests. Default: that of its folder.
        api_key_file: file of keys, one of which a request must have. Default: the key in TOKENQ_API_KEY.
        admin_key_file: file of keys that may load adapters and weights. Default: TOKENQ_ADMIN_KEY.
        allow_host: further names that the server goes by.
        allow_origin: addresses of web pages that may use it.
        sessions: SQLite file of the web app's saved sessions. Default: they are kept until the server ends.
        max_new_tokens: most tokens that a request may have written for a response.
        max_prompt_tokens: most tokens of a prompt. Default: what the models read.
        max_body_bytes: most bytes of a request.
        max_requests: most requests of one client that are under way.
        max_waiting: most requests that wait for room in the batch.
        max_batch: most responses that are written side by side.
        max_searches: most searches that run at once.
        max_kept_bytes: most bytes of keys and values that each model keeps for texts that begin alike.
        request_seconds: longest time that a request may take.
        drain_seconds: time that requests under way have when the server ends.
        access_log: whether requests are logged, by the logger `tokenq.access`.

    Raises:
        UserError: the port is taken, the host is open and there is no key, or something is missing.
    """
    options = HttpOptions(
        host=host,
        port=port,
        model_name=model_name,
        api_key_file=api_key_file,
        admin_key_file=admin_key_file,
        allow_host=allow_host,
        allow_origin=allow_origin,
        sessions=sessions,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_body_bytes=max_body_bytes,
        max_requests=max_requests,
        max_waiting=max_waiting,
        max_batch=max_batch,
        max_searches=max_searches,
        max_kept_bytes=max_kept_bytes,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
        access_log=access_log,
    )
    return settle(options, listener).open(session, proxies)
