"""Where a server will stand, settled before models are loaded: its port, its keys, its names. Then it can be opened.

Whoever has no port, no key for an open address or a package too few is told at once, and not after a minute's loading.
"""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.data.conditioning.control import control_of, control_text
from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.listener import Listener
from tokenq.server.config import HttpOptions
from tokenq.server.guards.hosts import Names, is_loopback, names_of
from tokenq.server.guards.keys import MAKE, Keys, read_keys
from tokenq.server.guards.limits import Limits

if TYPE_CHECKING:
    from tokenq.jobs.searcher import Terms
    from tokenq.server.engine.engine import Engine
    from tokenq.server.running import ServerHandle
    from tokenq.server.settings import Settings

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra brings."""


@dataclass(frozen=True)
class Site:
    """Where a server will stand.

    Attributes:
        options: how it serves.
        keys: who may ask.
        names: what it is called.
        listening: its socket.
        listener: told where it serves, what, and what is doubtful about it.
    """

    options: HttpOptions
    keys: Keys
    names: Names
    listening: socket.socket
    listener: Listener

    def open(self, session: Reader, proxies: Mapping[str, "Terms"]) -> "ServerHandle":
        """Serve what was loaded.

        Args:
            session: a policy with its reference.
            proxies: small pairs that may steer it, by name.

        Raises:
            UserError: a reward model alone was loaded, or the file of sessions cannot be used.
        """
        from tokenq.server.app import create_app
        from tokenq.server.guards.guarded import Guards, guarded
        from tokenq.server.guards.metrics import Metrics
        from tokenq.server.measured import Engines
        from tokenq.server.running import ServerHandle

        with self:
            if session.pair is None:
                raise UserError("A reward model alone writes nothing.", "Load a policy with its reference.")
            for said in self._doubts(session):
                self.listener.say(f"warning: {said}")
            options = self.options
            metrics = Metrics()
            engines = Engines(self._make, metrics)
            metrics.watch(engines.numbers)
            engine = engines(session, proxies)
            app = create_app(engine, self._settings(session), engines)
            limits = Limits(options.max_body_bytes, options.max_requests, options.request_seconds)
            behind = guarded(app, Guards(self.keys, self.names, limits), metrics)
            handle = ServerHandle(behind, self.listening.dup(), options.host, options.drain_seconds, engine.close)
        self.listener.say(f"{self._says(session)}: {handle.url} (Ctrl-C ends it)")
        return handle

    def _make(self, session: Reader, **more: Any) -> "Engine":
        from tokenq.server.engine.engine import Engine

        options = self.options
        return Engine(
            session,
            max_running=options.max_batch,
            max_waiting=options.max_waiting,
            max_searches=options.max_searches,
            most_kept=options.max_kept_bytes,
            **more,
        )

    def _settings(self, session: Reader) -> "Settings":
        from tokenq.server.settings import Settings

        options = self.options
        sessions = None if options.sessions is None else Path(options.sessions)
        return Settings(
            name=self._name(session),
            max_new_tokens=options.max_new_tokens,
            max_prompt_tokens=options.max_prompt_tokens,
            sessions=sessions,
        )

    def _name(self, session: Reader) -> str:
        """Return what requests call the policy: the name of its folder, or that of its run."""
        path = Path(str(session.identities[0]["path"]))
        return self.options.model_name or (path.parent if path.name == "policy" else path).name or "policy"

    def _says(self, session: Reader) -> str:
        own, other = (str(one["path"]) for one in session.identities)
        keys = "a key is needed" if self.keys.needed else "no key is needed"
        return f"serving {self._name(session)} ({own} against {other}, β {session.options.beta:g}), {keys}"

    def _doubts(self, session: Reader) -> Iterator[str]:
        if session.other_tokenizer is not None:
            yield (
                "policy and reference have two tokenizers: texts are read by stretches, and what is being written has "
                "no rewards"
            )
        if session.pair is not None:
            yield from session.pair.warnings
        control = control_of(session.tokenizer)
        if control is not None:
            asked = control_text(dict.fromkeys(control.attributes, control.high))
            yield f"the policy was trained to be asked for attributes: a request has {asked} behind its prompt"
        if not self.keys.admin:
            return
        if not self.keys.needed:
            yield "there is an admin key and no key: whoever reaches the server may ask"

    def __enter__(self) -> "Site":
        """Return the site."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the port back, if nothing was opened there."""
        self.listening.close()


def settle(options: HttpOptions, listener: Listener) -> Site:
    """Return where a server will stand.

    Args:
        options: how it serves.
        listener: told what is doubtful.

    Raises:
        UserError: a number out of its range, a package that is missing, an open address without a key, or a port that
            is taken.
    """
    options.check_http()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"A server needs {', '.join(missing)}.", "pip install 'tokenq[serve]'")
    names = names_of(options.host, options.allow_host, options.allow_origin)
    keys = read_keys(options.api_key_file, options.admin_key_file)
    if not is_loopback(options.host) and not keys.needed:
        raise UserError(
            f"--host {options.host} can be reached from other machines, and there is no key.",
            f"Set TOKENQ_API_KEY, or give --api-key-file FILE. {MAKE}",
        )
    for said in keys.warnings:
        listener.say(f"warning: {said}")
    from tokenq.server.running import bound

    return Site(options, keys, names, bound(options.host, options.port), listener)
