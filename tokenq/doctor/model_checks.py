"""Are the models still those of the run, do they belong together, and what does the policy write?

The checks judge what was measured with the models (`ModelNow`, `Scored`, `Samples`); without them they find nothing.
"""

import math

import numpy as np

from tokenq.doctor.finding import Evidence, Finding, percent
from tokenq.runs.facts import Written
from tokenq.runs.record import RunRecord

LENGTHS = 1.5
"""Ratio of the lengths that policy and reference write, from which length is a result of the training by itself."""

UNENDED = 0.2
"""Share of responses that end under the reference and no longer under the policy."""

UNENDED_ALONE = 0.5
"""Share of responses without an end where there is no reference to compare with."""

CIRCLES = 0.1
"""Share of responses that go in circles, beyond those of the reference: one in ten is seen by every user."""

LENGTH_IS_REWARD = 0.5
"""Correlation of margin and length difference from which a quarter of the reward is length; on the data of a training
it is small as a rule, on samples it reaches twice this share (arXiv 2403.19159)."""

FEW_PAIRS = 50
"""Pairs from which a correlation is more than chance."""


def stale(record: RunRecord) -> Finding | None:
    """Return a finding where a path of the run holds other weights than it did."""
    other = [model for model in record.models if model.now != model.recorded]
    if not other:
        return None
    sure = [model for model in other if not model.doubt or model.newer]
    named = "; ".join(f"{model.role} {model.path}" for model in sure or other)
    evidence = tuple(
        Evidence(
            f"SHA-256 of {model.role}, recorded {model.recorded[:12]}",
            model.now[:12] + (", written after the run began" if model.newer else ""),
        )
        for model in other
    )
    if not sure:
        doubts = "; ".join(dict.fromkeys(model.doubt for model in other))
        return Finding(
            "weights-not-compared",
            "note",
            f"The weights have another hash than the run recorded ({named}), which may mean nothing: {doubts}.",
            evidence,
            "Nothing, unless something was written to that place since.",
        )
    reference = any(model.role == "reference" for model in sure)
    return Finding(
        "stale-reference" if reference else "start-model-changed",
        "error" if reference and not all(model.doubt for model in sure) else "warning",
        f"The weights are not those that the run recorded: {named}. Rewards and KL that are computed with them now are "
        "not those of the run.",
        evidence,
        "Restore the weights, or name the right ones with --reference when the policy is scored; never train into a "
        "folder that another run names as its reference.",
    )


def apart(record: RunRecord) -> Finding | None:
    """Return a finding where two models are no policy and its reference."""
    if record.scored is None or not record.scored.warnings:
        return None
    return Finding(
        "models-do-not-belong-together",
        "warning",
        "; ".join(warning.rstrip(".") for warning in record.scored.warnings),
        (Evidence("pairs scored", record.scored.pairs),),
        "Name the reference that the policy was trained against, and the style of its training (--style chat).",
    )


def reward_is_length(record: RunRecord) -> Finding | None:
    """Return a finding where margins go with lengths."""
    scored = record.scored
    if scored is None or scored.pairs < FEW_PAIRS or not abs(scored.length_correlation) >= LENGTH_IS_REWARD:
        return None
    share = scored.length_correlation**2
    return Finding(
        "reward-is-length",
        "warning",
        f"{percent(share, 1)} of the variance of margins is that of lengths: what was learnt is in good part to "
        f"write {'more' if scored.length_correlation > 0 else 'less'}.",
        (
            Evidence("correlation of margin and length difference", scored.length_correlation),
            Evidence("pairs", scored.pairs),
        ),
        "Balance the lengths of chosen and rejected responses; judge length-controlled; see --answer-prompts for what "
        "the policy writes.",
    )


def length_drift(record: RunRecord) -> Finding | None:
    """Return a finding where the policy writes much more, or much less, than its reference."""
    samples = record.samples
    if samples is None or samples.reference is None:
        return None
    own, other = (np.array(written.lengths, np.float64) for written in (samples.policy, samples.reference))
    ratio = own.mean() / max(other.mean(), 1.0)
    noise = 2 * math.sqrt(own.var() / len(own) + other.var() / len(other))
    if 1 / LENGTHS < ratio < LENGTHS or abs(own.mean() - other.mean()) <= noise:
        return None
    return Finding(
        "length-drift",
        "warning",
        f"To the same prompts the policy writes {'longer' if ratio > 1 else 'shorter'} responses than its reference.",
        (
            Evidence("tokens per response, policy", float(own.mean())),
            Evidence("tokens per response, reference", float(other.mean())),
            Evidence("prompts", len(own)),
        ),
        "Balance the lengths of chosen and rejected responses, raise --beta, stop earlier; judge length-controlled.",
    )


def no_end(record: RunRecord) -> Finding | None:
    """Return a finding where responses no longer come to their end."""
    samples = record.samples
    if samples is None:
        return None
    own = _share(samples.policy.ended)
    before = None if samples.reference is None else _share(samples.reference.ended)
    if own >= (1 - UNENDED_ALONE if before is None else before - UNENDED):
        return None
    return Finding(
        "does-not-stop",
        "warning",
        f"{percent(1 - own, 1)} of the policy's responses do not come to EOS within {samples.limit} tokens.",
        (
            Evidence("share with EOS, policy", own),
            *(() if before is None else (Evidence("share with EOS, reference", before),)),
            Evidence("prompts", len(samples.policy.ended)),
        ),
        "See whether responses of the data were cut (--truncation), whether they end in the EOS that generation "
        "waits for, and whether --max-new-tokens is long enough.",
    )


def repeats_itself(record: RunRecord) -> Finding | None:
    """Return a finding where the policy goes in circles."""
    samples = record.samples
    if samples is None:
        return None
    own = _share(samples.policy.loops)
    before = 0.0 if samples.reference is None else _share(samples.reference.loops)
    if own - before < CIRCLES:
        return None
    return Finding(
        "repeats-itself",
        "error" if own > 0.5 else "warning",
        f"{percent(own, 1)} of the policy's responses go in circles (half of their four-grams stood there before).",
        (
            Evidence("share that goes in circles, policy", own),
            Evidence("share that goes in circles, reference", before),
            Evidence("prompts", len(samples.policy.loops)),
        ),
        "The policy has left what the reference would write: raise --beta, lower --learning-rate, take an earlier "
        "checkpoint.",
    )


def samples_kl(record: RunRecord) -> Finding | None:
    """Return a note with the KL of the objective, where samples of the policy tell it."""
    samples = record.samples
    if samples is None or samples.kl is None:
        return None
    written: Written = samples.policy
    return Finding(
        "kl-of-samples",
        "note",
        "Over responses that the policy writes itself, KL(π‖π_ref) is the price that the objective pays; the kl of "
        "metrics.jsonl is the other direction, over responses of the data.",
        (
            Evidence("KL(π‖π_ref), nats per response", samples.kl),
            Evidence("KL(π‖π_ref), nats per token", samples.kl / max(1.0, float(np.mean(written.lengths)))),
            Evidence("responses", len(written.lengths)),
        ),
        "Nothing.",
    )


def _share(flags: tuple[bool, ...]) -> float:
    return sum(flags) / max(1, len(flags))
