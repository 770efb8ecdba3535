"""Where a server will stand, settled before models are loaded: its port, its keys, its names. Then it can be opened.

Whoever has no port, no key for an open address or a package too few is told at once, and not after a minute's loading.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.listener import Listener
from tokenq.server.config import HttpOptions
from tokenq.server.guards.hosts import Names, is_loopback, names_of
from tokenq.server.guards.keys import MAKE, Keys, read_keys

if TYPE_CHECKING:
    from tokenq.server.engine.engine import Terms
    from tokenq.server.running import ServerHandle

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
        raise NotImplementedError


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
