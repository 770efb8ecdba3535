"""Does what was learnt hold on data that was not trained on? Checks of the evaluations of a run.

A check that lacks its numbers finds nothing.
"""

import math
import shlex

import numpy as np

from tokenq.doctor.finding import Evidence, Finding, Severity
from tokenq.runs.record import TAIL, RunRecord, Series
from tokenq.stats.bootstrap import proportion_interval

LOSS_WORSE = 0.05
"""Relative rise of the held-out loss above its best, from which it is no noise of evaluation on the same rows."""

ACCURACY_WORSE = 0.02
"""Least fall of held-out accuracy that is spoken of, where the standard error is smaller still."""

CERTAIN = 500
"""Held-out pairs from which an accuracy at chance is no matter of too few pairs: the interval is ± 0.044."""

SPREAD = 2.0
"""Ratio of the spread of one segment's margins to that of all others together, from which it decides every pair: it is
four fifths of the variance. Where it is a coin on held-out data, the others are taught by its noise (in a trial of
words and an image, blame of the right one fell from an AUROC of .97 to .57)."""


def over_optimisation(record: RunRecord) -> Finding | None:
    """Return a finding where training goes on gaining and held-out data loses."""
    losses, accuracies = record.evaluation("loss"), record.evaluation("rewards/accuracies")
    trained = record.training("loss")
    if len(losses) < 2 or len(trained) < 2:
        return None
    best = int(losses.values.argmin())
    tail, around = _around(trained, int(trained.steps[-1])), _around(trained, int(losses.steps[best]))
    worse = losses.values[-1] > losses.values[best] * (1 + LOSS_WORSE) and tail < around
    fell = _fall_of_accuracy(accuracies, record.eval_pairs) if tail < trained.values[0] else ()
    if not worse and not fell:
        return None
    turn = int(losses.steps[best]) if worse else fell[0].step
    what = "the held-out loss has risen" if worse else "held-out accuracy has fallen"
    return Finding(
        "over-optimised",
        "warning",
        f"Training still gains while {what} since step {turn}: what is "
        "learnt from there on is these rows, not what they have in common.",
        (
            Evidence("best eval_loss", float(losses.values[best]), int(losses.steps[best])),
            Evidence("last eval_loss", float(losses.values[-1]), int(losses.steps[-1])),
            *fell,
            Evidence("training loss then", around, int(losses.steps[best])),
            Evidence("training loss at the end", tail, int(trained.steps[-1])),
        ),
        f"{_earlier(record, turn)} train fewer --epochs, raise --beta or lower --learning-rate.",
    )


def _earlier(record: RunRecord, step: int | None) -> str:
    """Return how to get back to the policy of a step: where it lies, or what keeps it the next time."""
    if step in record.checkpoints:
        command = f"tokenq export {shlex.quote(record.path)} --output FOLDER --step {step}"
        return f"Take the checkpoint of step {step} ({command}),"
    if not step:
        return "The start was best:"
    return "Keep the checkpoint of the best held-out loss the next time (--keep-best eval_loss, --eval-steps),"


def chance(record: RunRecord) -> Finding | None:
    """Return a finding where held-out accuracy is not told apart from a coin, or is below it."""
    state = record.end()
    if state is None or not state.pairs or "rewards/accuracies" not in state.values:
        return None
    accuracy, n = state.values["rewards/accuracies"], state.pairs
    low, high = proportion_interval(round(accuracy * n), n)
    if low > 0.5:
        return None
    evidence = (
        Evidence("rewards/accuracies", accuracy, state.step),
        Evidence("95 % interval", f"{low:.3f} to {high:.3f}", state.step),
        Evidence("pairs", n),
    )
    if high < 0.5:
        return Finding(
            "labels-reversed",
            "warning",
            f"On {state.where} the implicit reward prefers the rejected response: the labels there contradict those "
            "of the training data.",
            evidence,
            "Look whether chosen and rejected are exchanged in one of the two files (--columns).",
        )
    severity: Severity = "warning" if n >= CERTAIN else "note"
    return Finding(
        "accuracy-at-chance",
        severity,
        f"On {state.where} the implicit reward is not told apart from a coin"
        + ("." if severity == "warning" else f": {n} pairs are too few to say more."),
        evidence,
        "Look at labels and columns, and at the log-probs of single pairs (tokenq score); then train longer or with a "
        "larger --learning-rate."
        if severity == "warning"
        else "Evaluate on more pairs before the run is called better or worse than another.",
    )


def blamed_segment(record: RunRecord) -> Finding | None:
    """Return a finding where one segment decides held-out pairs, and is not told apart from a coin in them."""
    state, strengths = record.end(), record.config.get("segments") or {}
    if state is None or not state.pairs or len(strengths) < 2:
        return None
    spreads = {name: state.values.get(f"rewards/margin_sd/{name}", 0.0) for name in strengths}
    name = max(spreads, key=lambda one: spreads[one])
    others = math.sqrt(sum(sd**2 for other, sd in spreads.items() if other != name))
    accuracy = state.values.get(f"rewards/accuracies/{name}")
    if accuracy is None or spreads[name] < SPREAD * others:
        return None
    low, high = proportion_interval(round(accuracy * state.pairs), state.pairs)
    if low > 0.5:
        return None
    return Finding(
        "segment-overfits",
        "warning",
        f"On {state.where} segment {name} decides most pairs by the spread of its margins, and is right as often as a "
        "coin: its strength is too large, and the others are blamed for its noise.",
        (
            Evidence(f"rewards/accuracies/{name}", accuracy, state.step),
            Evidence("95 % interval", f"{low:.3f} to {high:.3f}", state.step),
            Evidence("pairs", state.pairs),
            *(
                Evidence(f"rewards/margin_sd/{one}, strength {strengths[one]}", sd, state.step)
                for one, sd in spreads.items()
            ),
        ),
        f"Lower the strength of {name} in --segments (choose by held-out rewards/accuracies), stop earlier, or add "
        "demonstrations of the chosen responses (--loss dpo+0.2*sft).",
    )


def no_held_out(record: RunRecord) -> Finding | None:
    """Return a note where nothing was held out, so that over-optimisation cannot be seen."""
    if record.evals or record.evaluations or record.scored is not None or not record.steps:
        return None
    return Finding(
        "nothing-held-out",
        "note",
        "No data was held out: whether the run learnt its rows or what they have in common cannot be seen.",
        (Evidence("evaluations", 0),),
        "Give --eval-size or --eval-prompts."
        if record.rounds
        else "Give --eval-size or --eval-data, and --eval-steps for a curve.",
    )


def _around(series: Series, step: int) -> float:
    """Return the mean of the last steps up to `step`, of the first ones where it is 0."""
    size = max(1, math.ceil(TAIL * len(series)))
    stop = max(size, int(np.searchsorted(series.steps, step, "right")))
    return float(series.values[stop - size : stop].mean())


def _fall_of_accuracy(held_out: Series, pairs: int) -> tuple[Evidence, ...]:
    """Return best and last accuracy where the fall is more than noise; before the first update all pairs are tied."""
    after = held_out.steps > 0
    steps, values = held_out.steps[after], held_out.values[after]
    if len(values) < 2 or not pairs:
        return ()
    best = int(values.argmax())
    noise = 2 * math.sqrt(max(values[best] * (1 - values[best]), 1 / pairs) / pairs)
    if values[best] - values[-1] <= max(ACCURACY_WORSE, noise):
        return ()
    return (
        Evidence("best eval_rewards/accuracies", float(values[best]), int(steps[best])),
        Evidence("last eval_rewards/accuracies", float(values[-1]), int(steps[-1])),
    )
