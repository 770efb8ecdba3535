"""Is this curve normal? Rewards, log-probs and KL of a run, held against what theory says of them.

Every check is a function of the record that returns a finding or None; thresholds are constants with their reason.
A check that lacks its numbers finds nothing.
"""

import math

import numpy as np

from tokenq.doctor.finding import Evidence, Finding, shown
from tokenq.runs.record import RunRecord, Series, State
from tokenq.score.health import FAR_APART

START_APART = 0.01
"""Mean log-ratio of a token, in nats, from which policy and reference did not start as one model: rounding of half
precision averages to less over a batch, a whole training moves a model by a few hundredths (docs/experiments.md)."""

START_LOSS = 0.015
"""Relative deviation of the first loss from its value at policy = reference: rounding of single pairs enters it
squared, and adds less."""

CHOSEN_FALL = 0.1
"""Fall of the chosen responses' log-prob, in nats per token, from which it is looked at: their perplexity is up by a
tenth. Well-trained models fall by less than this or by less than the margin grows."""

MARGIN_ENOUGH = 5.0
"""Mean reward margin beyond which pairs teach nothing: σ(5) = 0.993, while people agree on about three in four."""

MARGIN_GROWS = 1.2
"""Ratio of the margin in the last third to that in the middle third, from which it is still growing."""

KL_FAR = 0.1
"""KL of a token, in nats, from which a large margin has cost too much: quality peaks at a moderate KL and falls behind
it (arXiv 2210.10760; for DPO 2406.02900)."""

PERFECT = 0.99
"""Share of right pairs in training that no data of human preferences allows, before a pair was seen twice."""

PERFECT_PAIRS = 64
"""Pairs over which that share is taken."""

EARLY = 0.25
"""Part of a run that is its beginning."""


def start(record: RunRecord) -> Finding | None:
    """Return a finding where the policy did not start as its reference: the wrong one, a stale one, or dropout."""
    state, expected = record.start(), record.start_loss()
    rewards = {} if state is None else state.rewards()
    if state is None or expected is None or not rewards:
        return None
    apart = max(map(abs, rewards.values())) / record.beta
    a_token, loss = apart / state.length(), state.values.get("loss", expected)
    if a_token <= START_APART and abs(loss - expected) <= START_LOSS * expected:
        return None
    asked = record.config.get("reference")
    change = (
        "If no other reference is meant, leave --reference out: the policy before its first step is the reference. "
        "With another one, rewards and KL count from there and not from the start of this run."
        if asked
        else "Nothing may differ here: switch dropout off, and run once with --reference-store off, in case the "
        "stored log-probs belong to other weights."
    )
    named = f" The reference is {asked}, training began from {record.config.get('model')}." if asked else ""
    return Finding(
        "start-off-reference",
        "warning" if asked and a_token <= FAR_APART else "error",
        f"Before the first update the policy is not its reference, so rewards do not start at 0.{named}",
        (
            Evidence("log π − log π_ref, nats per token", a_token, 0),
            *(Evidence(f"rewards/{side}", reward, 0) for side, reward in rewards.items()),
            Evidence(f"loss, {shown(expected)} where policy = reference", loss, 0),
        ),
        change,
    )


def drift(record: RunRecord) -> Finding | None:
    """Check the curves of the chosen and of the rejected log-probs, each by itself.

    Both fall in healthy runs: over responses that the reference would write, the mean reward is −β KL(π_ref‖π)
    (arXiv 2404.12358, Eq. 16), and a reference fitted to the chosen ones makes theirs fall too. It is a finding where
    the chosen ones fall for more than the margin gains: likelihood displacement (arXiv 2410.08847, 2402.13228).
    """
    state = record.end()
    if state is None or len(state.rewards()) < 2:
        return None
    chosen, rejected = (reward / record.beta for reward in state.rewards().values())
    margin, fall = chosen - rejected, -chosen / state.length()
    evidence = (
        Evidence("log π − log π_ref of the chosen responses, nats", chosen, state.step),
        Evidence("log π − log π_ref of the rejected responses, nats", rejected, state.step),
        Evidence("chosen minus rejected, nats", margin, state.step),
        Evidence("change of the chosen responses, nats per token", -fall, state.step),
        Evidence("mean reward of both, −β times the estimate of KL(π_ref‖π)", -record.beta * _kl(state), state.step),
    )
    if fall > FAR_APART or (fall > CHOSEN_FALL and -chosen > margin):
        gained = "which is more than the margin gained" if -chosen > margin else "though the margin gained more"
        return Finding(
            "chosen-collapses",
            "error" if fall > FAR_APART else "warning",
            f"The chosen responses lost {shown(-chosen)} nats, {gained}: probability goes to responses that are in "
            "no pair (likelihood displacement).",
            evidence,
            "Lower --learning-rate or raise --beta; train fewer epochs; leave out pairs that differ in few tokens; "
            "fit the reference to the chosen responses first (--loss sft).",
        )
    if chosen >= 0 or rejected >= 0:
        return None
    if margin <= 0:
        return Finding(
            "both-fall",
            "note",
            "Chosen and rejected log-probs both fell, and the gap between them, which alone is trained, has not grown.",
            evidence,
            "Train longer before it is judged; then look at labels, columns and --learning-rate.",
        )
    return Finding(
        "both-fall",
        "note",
        "Chosen and rejected log-probs both fell, the rejected ones more. That is how it should look: over responses "
        "that the reference would write, the mean reward is −β KL(π_ref‖π), below 0 as soon as anything was learnt; "
        "only the gap is trained.",
        evidence,
        "Nothing, provided chosen responses lose little log-probability per token and held-out metrics stay stable.",
    )


def margins(record: RunRecord) -> Finding | None:
    """Return a finding where the margin was bought with a KL that no quality survives."""
    state, margin = record.end(), record.training("rewards/margins")
    if state is None or "rewards/margins" not in state.values:
        return None
    a_token = _kl(state) / state.length()
    reached = state.values["rewards/margins"]
    middle, last = _third(margin, 1), _third(margin, 2)
    grows = reached > MARGIN_ENOUGH and last > MARGIN_GROWS * middle > 0
    if a_token <= FAR_APART and not (grows and a_token > KL_FAR):
        return None
    tempo = "is still growing" if grows else "was paid for dearly"
    return Finding(
        "kl-explodes",
        "warning",
        f"The reward margin {tempo}, while the policy is {shown(a_token)} nats per token away from its reference. A "
        "margin says how sure the model is, not how right: quality peaks at a moderate KL and falls behind it.",
        (
            Evidence("KL(π_ref‖π), nats per response", _kl(state), state.step),
            Evidence("KL(π_ref‖π), nats per token", a_token, state.step),
            Evidence("rewards/margins", reached, state.step),
            *((Evidence("mean margin of the middle third", middle),) if len(margin) > 2 else ()),
            *((Evidence("mean margin of the last third", last),) if len(margin) > 2 else ()),
        ),
        "Raise --beta, lower --learning-rate or stop earlier; --loss cdpo or ipo bound the margin by themselves.",
    )


def perfect(record: RunRecord) -> Finding | None:
    """Return a finding where every pair of training is right before one was seen twice."""
    right = record.training("rewards/accuracies")
    window = max(3, math.ceil(PERFECT_PAIRS / int(record.config.get("batch_size", 8))))
    if len(right) < window:
        return None
    means = np.convolve(right.values, np.full(window, 1 / window), "valid")
    reached = np.flatnonzero(means >= PERFECT)
    total = record.planned_steps() or int(right.steps[-1])
    if not len(reached):
        return None
    step = int(right.steps[reached[0] + window - 1])
    epochs = {int(row["step"]): float(row.get("epoch", 0.0)) for row in record.steps}
    if step > EARLY * total or epochs.get(step, 0.0) > 1:
        return None
    held_out = record.evaluation("rewards/accuracies")
    evidence = [Evidence(f"mean rewards/accuracies over {window} steps", float(means[reached[0]]), step)]
    evidence += [Evidence("steps of the run", total)]
    if len(held_out):
        evidence.append(Evidence("eval_rewards/accuracies", float(held_out.values[-1]), int(held_out.steps[-1])))
    if record.data is not None and record.data.unequal:
        share = record.data.longer / record.data.unequal
        evidence.append(Evidence("share of pairs whose chosen response is longer", share))
    return Finding(
        "perfect-too-early",
        "warning",
        f"By step {step} every pair of training is right, before any was seen twice: something other than quality "
        "tells chosen from rejected (length, a phrase, a format, EOS), or the learning rate is far too large.",
        tuple(evidence),
        "Read some pairs side by side for what all chosen ones share; lower --learning-rate.",
    )


def _kl(state: State) -> float:
    return state.values.get("kl", 0.0)


def _third(series: Series, number: int) -> float:
    """Return the mean of one third of a series, 0 for fewer than three values."""
    size = len(series) // 3
    return float(series.values[number * size : (number + 1) * size].mean()) if size else 0.0
