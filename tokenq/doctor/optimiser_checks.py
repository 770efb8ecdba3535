"""Does the optimiser work? Checks of losses, gradients, learning rate and cost of a run, step by step.

A check that lacks its numbers finds nothing; a run of a few steps has no trend, and is asked for none.
"""

import math
from collections.abc import Callable

import numpy as np

from tokenq.doctor.cost_checks import FEW, quarters
from tokenq.doctor.finding import Evidence, Finding, percent
from tokenq.runs.record import RunRecord, Series
from tokenq.stats.bootstrap import Floats

WINDOW = 20
"""Steps before a step that it is compared with."""

GRADIENT_JUMP = 10.0
"""A gradient so many times the median of the steps before is a spike; sound runs with batches of eight reach 7."""

LOSS_JUMP = 3.0
"""The same for the loss; sound runs reach 2."""

LOSS_ABOVE = 1.05
"""A loss at the end above so many times that of an untrained policy: the run did harm, and noise does not."""

EARLY_LOSS = 1.5
"""A loss in the first steps above so many times the first one was thrown up by the first updates."""

MOVED = 1e-3
"""Mean log-ratio of a token, in nats, below which a run has changed nothing: rounding of half precision is as large."""

SFT_MOVED = 0.01
"""Relative change of the loss of demonstrations below which it is flat."""

CLIPPED = 0.95
"""Share of clipped steps from which the clipping, not the gradient, sets the length of every step."""

FP16_SKIPS = 0.05
"""Share of steps that a gradient scaler may skip while it looks for its scale."""


def not_finite(record: RunRecord) -> Finding | None:
    """Return a finding where a loss or a gradient was no number."""
    bad = {
        name: [row["step"] for row in record.steps if name in row and row[name] is None]
        for name in ("loss", "grad_norm")
    }
    steps = sorted({*bad["loss"], *bad["grad_norm"]})
    if not steps:
        return None
    scaled = record.config.get("mixed_precision") == "fp16" and not bad["loss"]
    if scaled and len(steps) <= FP16_SKIPS * len(record.steps):
        return None
    return Finding(
        "not-finite",
        "error",
        f"Loss or gradient was not a number in {len(steps)} of {len(record.steps)} steps.",
        tuple(Evidence(name, "not finite", found[0]) for name, found in bad.items() if found),
        "Lower --learning-rate; compute in float32 or bfloat16 (--dtype, --mixed-precision bf16) instead of float16.",
    )


def no_gradient(record: RunRecord) -> Finding | None:
    """Return a finding where no gradient comes: from the first step on, or after the loss has come to 0."""
    norms, losses = record.training("grad_norm"), record.training("loss")
    if not len(norms) or not len(losses):
        return None
    zero = norms.values == 0
    if zero.all():
        return Finding(
            "nothing-trains",
            "error",
            "The gradient is exactly 0 in every step: no weight that the loss depends on is being trained.",
            (Evidence("largest grad_norm", 0.0, int(norms.steps[-1])), _last("loss", losses)),
            "Look what is trainable: an adapter loaded frozen, --lora-targets that name no layer in use, or rows "
            "without a token that the policy wrote.",
        )
    if len(norms) < FEW or not zero[-len(zero) // 4 :].all():
        return None
    first = int(norms.steps[int(np.flatnonzero(~zero)[-1]) + 1])
    return Finding(
        "nothing-left-to-learn",
        "warning",
        f"From step {first} on the gradient is exactly 0: the loss has run into its floor, and margins are as large "
        "as numbers hold.",
        (Evidence("grad_norm", 0.0, first), _last("loss", losses), *_ends(record, "rewards/margins")),
        "Lower --learning-rate by a factor of ten or more, raise --beta, or stop where the loss reached its floor.",
    )


def nothing_moved(record: RunRecord) -> Finding | None:
    """Return a finding where the run has ended with the policy that it began with: the learning rate is too small."""
    losses, rates = record.training("loss"), record.training("learning_rate")
    norms = record.training("grad_norm")
    state = record.end()
    if state is None or len(losses) < FEW or not len(norms) or not norms.values.any():
        return None
    if state.rewards():
        apart = max(map(abs, state.rewards().values()))
        moved, least = apart / record.beta / state.length(), MOVED
        what = Evidence("log π − log π_ref, nats per token", moved, state.step)
    else:
        moved, least = _sft_change(record, losses), SFT_MOVED
        what = Evidence("relative change of the loss", moved, int(losses.steps[-1]))
    if moved >= least:
        return None
    return Finding(
        "nothing-moved",
        "warning",
        f"After {int(losses.steps[-1])} steps the policy is where it began, though there is a gradient.",
        (
            what,
            Evidence("loss", float(losses.values[0]), int(losses.steps[0])),
            _last("loss", losses),
            Evidence("largest learning_rate", float(rates.values.max()) if len(rates) else 0.0),
            Evidence("median grad_norm", float(np.median(norms.values))),
        ),
        "Raise --learning-rate by a factor of three to ten (an adapter takes about ten times that of all weights), or "
        "train longer; look at --schedule and warm-up for a rate that is never reached.",
    )


def _sft_change(record: RunRecord, losses: Series) -> float:
    """Return the relative change of the loss: on held-out data, else between the first and the last quarter."""
    held_out = record.evaluation("loss")
    if len(held_out) > 1:
        return float(abs(held_out.values[-1] / held_out.values[0] - 1))
    first, last = quarters(losses)
    return float(abs(last.mean() / first.mean() - 1))


def spikes(record: RunRecord) -> Finding | None:
    """Return a finding where loss or gradient jumps out of the steps before: the learning rate is too large."""
    found: list[Evidence] = []
    for name, jump in (("grad_norm", GRADIENT_JUMP), ("loss", LOSS_JUMP)):
        series = record.training(name)
        ratios = _against_before(series)
        # Late in a run most steps may have almost nothing left to learn; a spike also stands out of the beginning.
        early = float(np.median(series.values[:FEW])) if len(series) else 0.0
        at = np.flatnonzero((ratios >= jump) & (series.values > (jump if name == "grad_norm" else 1.0) * early))
        worst = at[np.argsort(-ratios[at])][:3]
        found += [
            Evidence(f"{name}, {ratios[i]:.0f} times the median before", float(series.values[i]), int(series.steps[i]))
            for i in sorted(worst)
        ]
    if not found:
        return None
    return Finding(
        "spikes",
        "warning",
        "Loss or gradient jumps far out of the steps before it: the steps are too long, or single rows are odd.",
        tuple(found),
        "Lower --learning-rate, lengthen the warm-up, set --max-grad-norm 1, raise --batch-size; look at the rows of "
        "that step if it is always the same one.",
    )


def _against_before(series: Series) -> Floats:
    """Return [n] each value over the median of up to `WINDOW` values before it; 0 where there are too few."""
    values, ratios = series.values, np.zeros(len(series))
    for place in range(FEW, len(values)):
        median = float(np.median(values[max(0, place - WINDOW) : place]))
        ratios[place] = values[place] / median if median > 0 else 0.0
    return ratios


def loss_above_start(record: RunRecord) -> Finding | None:
    """Return a finding where training ended with a larger training loss than an untrained policy has."""
    losses = record.training("loss")
    if len(losses) < FEW:
        return None
    first, last = quarters(losses)
    start = record.start_loss()
    level, noise = (float(first.mean()), _error(first)) if start is None else (start, 0.0)
    if last.mean() - 2 * math.hypot(_error(last), noise) <= level or last.mean() <= LOSS_ABOVE * level:
        return None
    return Finding(
        "worse-than-untrained",
        "warning",
        "The training loss ended above that of the untrained policy: the steps overshoot.",
        (
            Evidence("loss at policy = reference" if start is not None else "mean loss, first quarter", level, 0),
            Evidence("mean loss, last quarter", float(last.mean()), int(losses.steps[-1])),
            *_ends(record, "learning_rate", max),
        ),
        "Lower --learning-rate by a factor of three to ten.",
    )


def warm_up(record: RunRecord) -> Finding | None:
    """Return a finding where the first updates threw the loss up and nothing warmed them up."""
    losses = record.training("loss")
    if record.config.get("warmup_steps") or record.config.get("warmup_ratio") or len(losses) < 2 * FEW:
        return None
    level = record.start_loss() or float(losses.values[0])
    worst = int(losses.values[:FEW].argmax())
    if losses.values[worst] < EARLY_LOSS * level or quarters(losses)[1].mean() > level:
        return None
    return Finding(
        "no-warm-up",
        "warning",
        "The first updates threw the loss up before it fell: an adaptive optimiser knows no scale yet in its first "
        "steps, and there is no warm-up.",
        (
            Evidence("loss before", level, 0),
            Evidence("loss", float(losses.values[worst]), int(losses.steps[worst])),
            Evidence("warm-up steps", 0),
        ),
        "Set --warmup-ratio 0.1.",
    )


def clipped(record: RunRecord) -> Finding | None:
    """Return a note where every gradient is clipped."""
    norms, limit = record.training("grad_norm"), float(record.config.get("max_grad_norm") or math.inf)
    hits = int((norms.values > limit).sum())
    if len(norms) < FEW or hits < CLIPPED * len(norms):
        return None
    return Finding(
        "always-clipped",
        "note",
        f"The gradient was clipped in {percent(hits, len(norms))} of the steps. AdamW divides by the size of its "
        "gradients, so this changes little there; with --optimizer sgd it makes every step equally long.",
        (Evidence("median grad_norm", float(np.median(norms.values))), Evidence("max_grad_norm", limit)),
        "Nothing with AdamW or RMSprop; with sgd raise --max-grad-norm.",
    )


def _error(values: Floats) -> float:
    """Return the standard error of the mean, 0 for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _last(name: str, series: Series) -> Evidence:
    return Evidence(name, float(series.values[-1]), int(series.steps[-1]))


def _ends(
    record: RunRecord, name: str, pick: Callable[[list[float]], float] = lambda values: values[-1]
) -> tuple[Evidence, ...]:
    """Return the last (or otherwise picked) value of a metric, nothing where there is none."""
    values = record.training(name).values.tolist()
    return (Evidence(f"largest {name}" if pick is max else name, pick(values)),) if values else ()
