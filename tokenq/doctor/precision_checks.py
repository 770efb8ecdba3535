"""Can an update move the weights? The type in which they are updated beside the size of an update.

A number with p bits of mantissa has its neighbour 2^(⌊log₂|w|⌋ − p) away, and rounding to the nearest loses an update
of less than half of that. AdamW and RMSprop change a weight by about the learning rate, whatever the gradient.
"""

import math

from tokenq.doctor.finding import Evidence, Finding, percent
from tokenq.runs.facts import Moved
from tokenq.runs.record import RunRecord

MANTISSA = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
"""Bits of the mantissa behind the point."""

TYPICAL = 0.02
"""Size of a weight where the weights themselves are not looked at: language models are initialised with it."""

NEAR = 100.0
"""Updates so many times what moves a typical weight move all weights: few are a hundred times larger."""

REACH = 0.5
"""Share of the weights that one update must be able to move; with fewer the others wait for luck."""


def half_spacing(size: float, dtype: str) -> float:
    """Return half the distance of a number of this size to the next: the least update that is not rounded away."""
    return 2.0 ** (math.floor(math.log2(size)) - MANTISSA[dtype] - 1)


def updated_in(record: RunRecord) -> str | None:
    """Return the type in which the optimiser of a run updates its weights, None where that is not recorded."""
    said = record.provenance.get("precision") or {}
    stored = said.get("weights") or (record.provenance.get("model") or {}).get("dtype")
    # A run that says nothing of a copy has none; its adapter, if it had one, was in float32.
    adapts = record.config.get("lora_rank") or record.config.get("adapter")
    dtype = said.get("master") or (None if not said and adapts else stored)
    return dtype if dtype in MANTISSA else None


def update_size(record: RunRecord) -> float:
    """Return the size of an update of a weight at the peak of the learning rate; 0 if unknown."""
    rates = record.training("learning_rate").values
    rate = float(rates.max()) if len(rates) else 0.0
    if record.config.get("optimizer", "adamw") != "sgd":
        return rate
    norms, limit = record.training("grad_norm").values, float(record.config.get("max_grad_norm") or math.inf)
    parameters = int((record.provenance.get("model") or {}).get("parameters") or 0)
    if not len(norms) or not parameters:
        return 0.0
    return rate * min(float(norms.max()), limit) / math.sqrt(parameters)


def doubtful(record: RunRecord) -> bool:
    """Return whether an update is so small for its type that the weights themselves are worth a look."""
    dtype, update = updated_in(record), update_size(record)
    return dtype is not None and 0 < update < NEAR * half_spacing(TYPICAL, dtype)


def out_of_reach(record: RunRecord) -> Finding | None:
    """Return a finding where an update is too small for the type of the weights that it is added to."""
    dtype, update = updated_in(record), update_size(record)
    if dtype is None or update <= 0:
        return None
    least = half_spacing(TYPICAL, dtype)
    moved = record.moved
    if (update >= least) if moved is None else (moved.within_reach >= REACH * moved.weights):
        return None
    return Finding(
        "weights-out-of-reach",
        "error",
        f"The weights are updated in {dtype}, and an update is too small to move "
        f"{'most of them' if moved is None else percent(moved.weights - moved.within_reach, moved.weights)}: it is "
        "rounded away in every step.",
        (
            Evidence("largest update of a weight", update),
            Evidence(f"least update that moves a weight of {TYPICAL} in {dtype}", least),
            *_measured(moved),
        ),
        "Leave --dtype out (what is trained is then held in float32), or use --dtype float32 --mixed-precision bf16; "
        "or raise --learning-rate.",
    )


def _measured(moved: Moved | None) -> tuple[Evidence, ...]:
    if moved is None:
        return ()
    return (
        Evidence("weights that an update can move", percent(moved.within_reach, moved.weights)),
        Evidence("weights that are not what they were", percent(moved.moved, moved.weights)),
    )
