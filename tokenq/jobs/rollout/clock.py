"""Where the time of a round goes: writer, judge, trainer, and what is outside all three."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["writer", "judge", "trainer", "outside"]

PHASES: tuple[Phase, ...] = ("writer", "judge", "trainer", "outside")


@dataclass
class Clock:
    """Adds up the seconds of this process by what it does.

    Attributes:
        seconds: since the last reading.
        phase: what it is doing.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    phase: Phase = "outside"
    _since: float = field(default_factory=time.perf_counter)

    def turn(self, phase: Phase) -> Phase:
        """Begin to do something else, and return what was done until now."""
        now, before = time.perf_counter(), self.phase
        self.seconds[before] += now - self._since
        self.phase, self._since = phase, now
        return before

    @contextlib.contextmanager
    def of(self, phase: Phase) -> Iterator[None]:
        """Do something else inside the block."""
        before = self.turn(phase)
        try:
            yield
        finally:
            self.turn(before)

    def read(self) -> dict[str, float]:
        """Return the seconds since the last reading under `seconds/`, and the share that was spent outside."""
        self.turn(self.phase)
        found = {f"seconds/{phase}": self.seconds[phase] for phase in PHASES}
        whole = sum(found.values())
        self.seconds.update(dict.fromkeys(PHASES, 0.0))
        return {**found, "seconds/outside_share": found["seconds/outside"] / whole if whole else 0.0}
