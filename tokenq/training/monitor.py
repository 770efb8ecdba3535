"""The cost of a run: tokens, time and memory."""

import resource
import sys
import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator


@dataclass
class Meter:
    """Counts tokens, or what else goes through a policy, and seconds between two readings.

    Attributes:
        counted: what is counted.
        done: how many went through the policy since the last reading.
        positions: the same with padding.
        total: how many since the start.
    """

    counted: str = "tokens"
    done: int = 0
    positions: int = 0
    total: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def count(self, done: int, positions: int) -> None:
        """Add one forward pass."""
        self.done += done
        self.positions += positions
        self.total += done

    def restart(self) -> None:
        """Begin a new interval now (after an evaluation or a checkpoint, whose time is not training time)."""
        self.done, self.positions, self._since = 0, 0, time.perf_counter()

    def read(self, device: torch.device) -> dict[str, float]:
        """Return the metrics of the interval and begin a new one."""
        seconds = time.perf_counter() - self._since
        metrics = {
            self.counted: float(self.total),
            f"{self.counted}_per_second": self.done / seconds if seconds > 0 else 0.0,
            "padding_share": 1 - self.done / self.positions if self.positions else 0.0,
            "peak_memory_gb": peak_memory(device) / 1e9,
            "seconds": seconds,
        }
        self.restart()
        return metrics


def cost_of(meter: Meter, accelerator: Accelerator) -> dict[str, float]:
    """Return the metrics of an interval over all processes, and begin a new one."""
    cost = meter.read(accelerator.device)
    if accelerator.num_processes > 1:
        names = meter.counted, f"{meter.counted}_per_second"
        row = torch.tensor([cost[name] for name in names], dtype=torch.float64)
        cost |= zip(names, accelerator.reduce(row.to(accelerator.device), "sum").tolist(), strict=True)
    return cost


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: of the accelerator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
