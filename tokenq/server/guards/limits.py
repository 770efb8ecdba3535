"""How much a server does at once, for how long: numbers, and nothing that needs more than Python."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much a server does at once, for how long.

    Attributes:
        body_bytes: most bytes of a request.
        of_a_client: most requests of one client that are under way.
        seconds: longest time that a request may take.
    """

    body_bytes: int = 8 * 2**20
    of_a_client: int = 256
    seconds: float = 600.0
