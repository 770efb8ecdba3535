"""What a trace says about where an error is: read-outs of both models, and the baselines that they have to beat.

Every read-out gives one number for each token that the policy wrote, in nats, and larger = more suspicious. Here
r = β log π(y_t|s_t)/π_ref(y_t|s_t) is the implicit reward; expectations and entropies are over the whole vocabulary at
s_t. One table, `READOUTS`, at the foot. Which tokens are wrong is not known here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
from tokenq.records.traces import TokenTrace

Floats = NDArray[np.float64]
Suspicion = Callable[[TokenTrace], Floats]
"""(trace) → [W] suspicion of each token that the policy wrote; larger = more suspicious."""


def implicit_reward(trace: TokenTrace) -> Floats:
    """Return −r = −β (log π − log π_ref): less likely after training than before (Eq. 10 of arXiv 2404.12358)."""
    return -_rewards(trace)


def implicit_reward_minus_reference_mean(trace: TokenTrace) -> Floats:
    """Return −(r − E_ref[r]) = −(r + β KL(π_ref‖π)): against what a draw from the reference would have earned here."""
    return -(_rewards(trace) + trace.beta * _column(trace, "ref_kl"))


def implicit_reward_minus_policy_mean(trace: TokenTrace) -> Floats:
    """Return −(r − E_π[r]) = −(r − β KL(π‖π_ref)): against what a draw from the policy would have earned here."""
    return -(_rewards(trace) - trace.beta * _column(trace, "kl"))


def regret(trace: TokenTrace) -> Floats:
    """Return max_v r(v) − r ≥ 0, over the token taken and the alternatives that the trace keeps of either model.

    Over the whole vocabulary the maximum would lie on tokens that neither model would write.

    Raises:
        UserError: the trace keeps no alternatives.
    """
    return _lead(trace, "favoured", "rewards", _rewards(trace))


def policy_surprisal(trace: TokenTrace) -> Floats:
    """Return −log π: the baseline that needs no reference."""
    return -_policy(trace)


def centred_advantage(trace: TokenTrace) -> Floats:
    """Return −β (log π + H(π)) = −(A − E_π[A]) with A = β log π: surprisal beyond what the policy expects of itself."""
    return -trace.beta * (_policy(trace) + entropy(trace))


def reference_surprisal(trace: TokenTrace) -> Floats:
    """Return −log π_ref: the baseline that needs no training."""
    return -_reference(trace)


def centred_reference_surprisal(trace: TokenTrace) -> Floats:
    """Return −(log π_ref + H(π_ref)): the centred advantage's counterpart before training, without β."""
    return -(_reference(trace) + _column(trace, "ref_entropy"))


def entropy(trace: TokenTrace) -> Floats:
    """Return H(π): suspicion of the position, whatever stands there."""
    return _column(trace, "entropy")


def gap_to_best(trace: TokenTrace) -> Floats:
    """Return max_v log π(v) − log π ≥ 0: how far the token is from the policy's first choice.

    Raises:
        UserError: the trace keeps no alternatives.
    """
    return _lead(trace, "likely", "logps", _policy(trace))


def both_surprisals(trace: TokenTrace) -> Floats:
    """Return −(log π + log π_ref): the implicit reward with the reference's sign turned round."""
    return -(_policy(trace) + _reference(trace))


def position(trace: TokenTrace) -> Floats:
    """Return 0, 1, 2 …: the later, the more suspicious. Looks at no model."""
    return np.arange(trace.tokens.written.sum(), dtype=np.float64)


def random(trace: TokenTrace) -> Floats:
    """Return uniform draws from [0, 1) that depend on the trace's name alone, not on machine, folder or order.

    Looks at no model.
    """
    name = trace.id.replace("\\", "/").rpartition("/")[2]  # of a row without one: its file's, and the number
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(int(trace.tokens.written.sum()))


def reward_model(trace: TokenTrace) -> Floats:
    """Return −(R_t − R_{t−1}), R_t what a reward model says of the response up to t, and 0 before its first token.

    So the credits of a response add up to R at its end, and those up to the end of a step to the score that a process
    reward model gives the step. It has the unit of R.
    """
    rewards = _column(trace, "reward")
    return -np.diff(rewards, prepend=0.0)


READOUTS: Mapping[str, Suspicion] = {
    function.__name__: function
    for function in (
        implicit_reward,
        implicit_reward_minus_reference_mean,
        implicit_reward_minus_policy_mean,
        regret,
        centred_advantage,
        gap_to_best,
        both_surprisals,
        policy_surprisal,
        reference_surprisal,
        centred_reference_surprisal,
        entropy,
        position,
        random,
    )
}
"""All read-outs of a policy and its reference, by name; the baselines last."""

LEADS = ("regret", "gap_to_best")
"""Those that look at the best alternative of a token."""

BLIND = ("position", "random")
"""Those that look at no model."""


def readouts_of(traces: Sequence[TokenTrace]) -> dict[str, Suspicion]:
    """Return the read-outs that traces have numbers for: `READOUTS`, and `reward_model` where one has read them all."""
    read = all(trace.totals.logp is not None for trace in traces)
    found = {name: readout for name, readout in READOUTS.items() if read or name in BLIND}
    if all(trace.totals.reward is not None for trace in traces):
        found[reward_model.__name__] = reward_model
    return found


def _policy(trace: TokenTrace) -> Floats:
    return _column(trace, "logp")


def _reference(trace: TokenTrace) -> Floats:
    return _column(trace, "ref_logp")


def _rewards(trace: TokenTrace) -> Floats:
    return _column(trace, "implicit_reward")


def _column(trace: TokenTrace, name: str) -> Floats:
    """Return one number of every token that the policy wrote.

    Raises:
        UserError: a token does not have it.
    """
    values: Floats = trace.tokens.numbers(name)
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise UserError(
            f"Trace {trace.id}: token {missing[0] + 1} that the policy wrote has no {name!r}.",
            "It is missing where the two models have different tokenizers, and where it would be infinite; "
            "leave out the read-outs that need it.",
        )
    return values


def _lead(trace: TokenTrace, name: str, number: Literal["logps", "rewards"], own: Floats) -> Floats:
    """Return how far the first alternative of a list is above the token taken; 0 where the token itself is the best.

    Raises:
        UserError: the trace keeps no alternatives.
    """
    alternatives, written = trace.tokens.alternatives, trace.tokens.written
    if not all(alternatives.sizes[one][written].all() for one in ("likely", "favoured")):
        raise UserError(
            f"Trace {trace.id} keeps no alternatives, so what is best at a position cannot be told.",
            "Score with --top-k 5, say, or leave out regret and gap_to_best.",
        )
    best: Floats = getattr(alternatives, number)[alternatives.firsts(name)[written]]
    return np.maximum(best - own, 0.0)


LABELS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "pooled_auroc": "AUROC, pooled",
    "pooled_average_precision": "average precision, pooled",
    "top_1": "top 1",
    "top_5": "top 5",
    "implicit_reward_minus_policy_mean": "implicit reward − its mean under π",
    "implicit_reward_minus_reference_mean": "implicit reward − its mean under π_ref",
    "policy_surprisal": "surprisal of the policy",
    "reference_surprisal": "surprisal of the reference",
    "centred_reference_surprisal": "centred surprisal of the reference",
    "both_surprisals": "sum of both surprisals",
    "reference_likelihood": "likelihood under the reference",
    "mean_implicit_reward": "mean implicit reward per token",
    "mean_likelihood": "mean likelihood per token",
    "gap_to_best": "gap to the best token",
    "entropy": "entropy of the policy",
}
"""Identifiers whose words alone do not say it."""


def label(identifier: str) -> str:
    """Return the label of an identifier."""
    return LABELS.get(identifier, identifier.replace("_", " "))
