"""Which names and pages a server answers to, so that no web page reaches it through somebody's browser.

A page may have its own name resolve to this machine (DNS rebinding); its requests then carry that name as `Host`. And
a page may send a request to this machine outright; it then carries the page's address as `Origin`.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenq.errors import UserError

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?")


@dataclass(frozen=True)
class Names:
    """What a server is called, and which pages may use it.

    Attributes:
        hosts: names in lower case, beside addresses in numbers and those of this machine.
        origins: pages of other addresses that may use it, as browsers name them: https://HOST[:PORT].
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def knows(self, header: str) -> bool:
        """Return whether the server is called what a Host header says.

        An address in numbers is no name that could be made to point elsewhere.
        """
        name = host_of(header)
        return name is not None and (name in self.hosts or is_local_name(name) or address_of(name) is not None)

    def admits(self, origin: str, header: str, scheme: str) -> bool:
        """Return whether a page may use the server.

        Args:
            origin: the page's Origin header.
            header: the request's Host header.
            scheme: "http" or "https", as the server is reached.
        """
        own = {f"{one}://{header}".lower() for one in {scheme, "https"}}  # https: behind a proxy that ends TLS
        return origin.lower() in own | self.origins


def host_of(header: str) -> str | None:
    """Return the name or address in a Host header, without port, in lower case; None where it is none."""
    try:
        parts = urlsplit(f"//{header}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    whole = parts.netloc == header and not parts.path and "@" not in header
    if not name or not whole or port == 0:
        return None
    name = name.removesuffix(".")
    return name if address_of(name) is not None or _NAME.fullmatch(name) else None


def address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a name is, None where it is a name."""
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def is_local_name(name: str) -> bool:
    """Return whether a name is this machine's, wherever it is asked for (RFC 6761)."""
    return name == "localhost" or name.endswith(".localhost")


def is_loopback(host: str) -> bool:
    """Return whether what is served at a host can be reached from this machine alone."""
    address = address_of(host)
    return is_local_name(host.lower()) if address is None else address.is_loopback


def names_of(host: str, allowed: Sequence[str], origins: Sequence[str]) -> Names:
    """Return what a server is called.

    Args:
        host: where it listens.
        allowed: further names.
        origins: pages that may use it.

    Raises:
        UserError: a name or an origin is none.
    """
    for name in allowed:
        if host_of(name) != name.lower().strip("[]").removesuffix("."):
            hint = "Give the name alone, as in --allow-host tokenq.example.org."
            raise UserError(f"--allow-host {name}: that is no name of a machine.", hint)
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin or not parts.netloc:
            hint = "Give scheme, name and port as browsers do: --allow-origin https://pages.example.org."
            raise UserError(f"--allow-origin {origin}: that is no address of a page.", hint)
    hosts = {name.lower().removesuffix(".") for name in (host, *allowed)}
    return Names(frozenset(hosts), frozenset(origin.lower() for origin in origins))
