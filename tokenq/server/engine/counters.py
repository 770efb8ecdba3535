"""What the engine counts, for whoever watches it."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Counters:
    """Sums since the start.

    Attributes:
        requests: that were taken.
        ended: by how they ended: "done", "cancelled", "failed".
        refused: because as many waited as may.
        steps: of the running texts, with the prompts that were read beside them.
        step_seconds: that these took.
        tokens_written: of all choices.
        tokens_read: of prompts, that went through the policy.
        tokens_known: of prompts, whose keys and values were there already.
        searches: that were begun.
        reloads: of the models.
    """

    requests: int = 0
    ended: dict[str, int] = field(default_factory=lambda: {"done": 0, "cancelled": 0, "failed": 0})
    refused: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    tokens_written: int = 0
    tokens_read: int = 0
    tokens_known: int = 0
    searches: int = 0
    reloads: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the sums by name."""
        return asdict(self)
