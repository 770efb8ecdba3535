"""From the engine's thread to the event loop: what is written for some prompts, as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from tokenq.server.engine.engine import Engine
from tokenq.server.engine.request import Delivery, Generation
from tokenq.server.engine.ticket import Ticket


class Writing:
    """What the engine writes for several prompts at once; leaving it calls off what still runs.

    Args:
        engine: writes.
        asked: a generation for each prompt.
        client: who asks.

    Raises:
        Full: too many requests wait; nothing of this one is written then.
    """

    def __init__(self, engine: Engine, asked: Sequence[Generation], client: str = "") -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Delivery]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for number, one in enumerate(asked):
                self._tickets.append(engine.generate(one, self._deliver_to(number), client))
        except BaseException:
            self.cancel()
            raise

    def _deliver_to(self, number: int) -> "_Deliver":
        return _Deliver(self._loop, self._queue, number)

    def stop(self, number: int, choice: int) -> None:
        """End one choice of a prompt."""
        self._tickets[number].stop(choice)

    def cancel(self) -> None:
        """End everything before the next step."""
        for ticket in self._tickets:
            ticket.cancel()

    async def deliveries(self) -> AsyncIterator[tuple[int, Delivery]]:
        """Yield what comes, with the number of its prompt, until everything has ended.

        Raises:
            BaseException: what the engine has failed with.
        """
        running = len(self._tickets)
        while running:
            number, found = await self._queue.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield number, found

    def __enter__(self) -> "Writing":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Call off what still runs: the client has gone, or something has failed."""
        self.cancel()


class _Deliver:
    """Hands what the engine delivers to the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[tuple[int, Delivery]]", number: int
    ) -> None:
        self._loop, self._queue, self._number = loop, queue, number

    def __call__(self, found: Delivery) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (self._number, found))
