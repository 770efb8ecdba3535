"""The cost of a run: tokens, time and memory."""

import resource
import sys
import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator


@dataclass
class Meter:
    """Counts tokens and seconds between two readings.

    Attributes:
        tokens: real tokens that went through the policy since the last reading.
        positions: the same with padding.
        total_tokens: real tokens since the start.
    """

    tokens: int = 0
    positions: int = 0
    total_tokens: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def count(self, tokens: int, positions: int) -> None:
        """Add one forward pass."""
        self.tokens += tokens
        self.positions += positions
        self.total_tokens += tokens

    def restart(self) -> None:
        """Begin a new interval now (after an evaluation or a checkpoint, whose time is not training time)."""
        self.tokens, self.positions, self._since = 0, 0, time.perf_counter()

    def read(self, device: torch.device) -> dict[str, float]:
        """Return the metrics of the interval and begin a new one."""
        seconds = time.perf_counter() - self._since
        metrics = {
            "tokens": float(self.total_tokens),
            "tokens_per_second": self.tokens / seconds if seconds > 0 else 0.0,
            "padding_share": 1 - self.tokens / self.positions if self.positions else 0.0,
            "peak_memory_gb": peak_memory(device) / 1e9,
            "seconds": seconds,
        }
        self.restart()
        return metrics


def cost_of(meter: Meter, accelerator: Accelerator) -> dict[str, float]:
    """Return the metrics of an interval over all processes, and begin a new one."""
    cost = meter.read(accelerator.device)
    if accelerator.num_processes > 1:
        row = torch.tensor([cost["tokens"], cost["tokens_per_second"]], dtype=torch.float64)
        cost["tokens"], cost["tokens_per_second"] = accelerator.reduce(row.to(accelerator.device), "sum").tolist()
    return cost


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: of the accelerator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
