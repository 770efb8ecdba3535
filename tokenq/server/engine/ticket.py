"""Requests that were taken, and the order in which they have their turns."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenq.server.engine.request import Deliver, Delivery, Generation


@dataclass(eq=False)
class Ticket:
    """A request that was taken; any thread may call it off.

    Attributes:
        asked: what is asked for.
        deliver: takes what comes.
        client: whose it is.
        most: most tokens of a choice: what was asked for, or what the context holds.
        cancelled: whether it was called off.
        stopped: choices that were.
        ended: whether the end was delivered.
    """

    asked: Generation
    deliver: Deliver
    client: str
    most: int
    cancelled: bool = False
    stopped: set[int] = field(default_factory=set)
    ended: bool = False

    def cancel(self) -> None:
        """End all choices before the next step; what is still delivered is None."""
        self.cancelled = True

    def stop(self, choice: int) -> None:
        """End one choice before the next step; nothing more of it is delivered."""
        self.stopped.add(choice)

    def give(self, what: Delivery) -> None:
        """Deliver; whoever cannot take it any more has called the request off."""
        try:
            self.deliver(what)
        except Exception:  # a connection that is gone, a loop that is closed: nobody is there to be told
            self.cancelled = True

    def end(self, problem: BaseException | None = None) -> None:
        """Deliver the end, once, behind the problem that there may be."""
        if not self.ended:
            self.ended = True
            if problem is not None:
                self.give(problem)
            self.give(None)


class Line:
    """Requests that wait: clients have their turns one after the other, each client's requests in their order."""

    def __init__(self) -> None:
        self._clients: dict[str, deque[Ticket]] = {}
        self._lock = threading.Lock()
        self._length = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._length

    def add(self, ticket: Ticket) -> None:
        """Let a request wait; any thread may."""
        with self._lock:
            self._clients.setdefault(ticket.client, deque()).append(ticket)
            self._length += 1

    def next(self) -> Ticket | None:
        """Return the request whose turn it is; it goes on waiting."""
        with self._lock:
            return next((own[0] for own in self._clients.values()), None)

    def take(self) -> Ticket:
        """Take that request out of the line; its client has its next turn behind all others."""
        with self._lock:
            client, own = next(iter(self._clients.items()))
            ticket = own.popleft()
            del self._clients[client]
            if own:
                self._clients[client] = own
            self._length -= 1
            return ticket

    def leave(self, who: Callable[[Ticket], bool]) -> list[Ticket]:
        """Take some requests out of the line, and return them."""
        with self._lock:
            gone = [one for own in self._clients.values() for one in own if who(one)]
            for ticket in gone:
                own = self._clients[ticket.client]
                own.remove(ticket)
                if not own:
                    del self._clients[ticket.client]
            self._length -= len(gone)
            return gone
