"""Checks of the cost of a run and of its end: notes, none of which makes a run worse."""

import numpy as np

from tokenq.doctor.finding import Evidence, Finding, shown
from tokenq.runs.record import RunRecord, Series
from tokenq.stats.bootstrap import Floats

FEW = 10
"""Steps below which no trend is read from a run."""

PADDING = 0.2
"""Share of computed positions without a token that is worth a remark."""

SLOWER = 0.5
"""Ratio of the speed at the end to that at the beginning that is worth a remark."""

MORE_MEMORY = 1.25
"""Ratio of peak memory at the end to that half-way: it should stand still once the longest batch has been seen."""


def cost(record: RunRecord) -> Finding | None:
    """Return a note where the run pads, slows down or takes more and more memory."""
    said: list[Evidence] = []
    padding = record.training("padding_share")
    if len(padding) and padding.values.mean() > PADDING:
        said.append(Evidence("mean padding_share", float(padding.values.mean())))
    speed, memory = record.training("tokens_per_second"), record.training("peak_memory_gb")
    if len(speed) >= 2 * FEW:
        first, last = (float(np.median(part)) for part in quarters(speed))
        if last < SLOWER * first:
            said += [Evidence("tokens_per_second, first quarter", first), Evidence("last quarter", last)]
    if len(memory) >= 2 * FEW:
        half, end = float(memory.values[len(memory) // 2]), float(memory.values[-1])
        if end > MORE_MEMORY * half > 0:
            said += [Evidence("peak_memory_gb, half-way", half), Evidence("at the end", end, int(memory.steps[-1]))]
    if not said:
        return None
    return Finding(
        "costly",
        "note",
        "The run computes padding, slows down, or takes more memory as it goes.",
        tuple(said),
        "For padding look which --attention was chosen and why (the console says so); for the others, what else ran "
        "on the machine, and --tokens-per-batch.",
    )


def unfinished(record: RunRecord) -> Finding | None:
    """Return a note where the run has not come to its end."""
    if record.finished or not record.steps:
        return None
    step, total = int(record.steps[-1]["step"]), record.planned_steps()
    command = "online" if record.rounds else "train"
    return Finding(
        "unfinished",
        "note",
        "No policy was written: the run is still going on, or was stopped.",
        (Evidence("last step", step, step), Evidence("steps planned", shown(total) if total else "unknown")),
        f"Wait, or continue it: tokenq {command} --config {record.path}/config.yaml --resume.",
    )


def quarters(series: Series) -> tuple[Floats, Floats]:
    """Return the first and the last quarter of a metric."""
    size = max(1, len(series) // 4)
    return series.values[:size], series.values[-size:]
