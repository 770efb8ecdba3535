"""Do rounds of an online run go well? Checks of what their policy writes, and of what judges say of it.

The numbers are those of the rounds, in the order in which they were; what was read of the rollouts again
(`RolloutFacts`) stands beside them. A run without rounds is not asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenq.doctor.finding import Evidence, Finding, percent
from tokenq.doctor.model_checks import LENGTHS
from tokenq.runs.record import RunRecord
from tokenq.score.health import FAR_APART

HELD_OUT = ("accuracy", "judge_accuracy", "reward")
"""Numbers of evaluations that a training reward is held against, the most independent one first."""

CUT = 0.2
"""Share of responses that are cut, and were not in the first round."""

ENTROPY_LEFT = 1 / 3
"""Part of the first round's entropy below which a policy has little left to say: pairs need two different responses."""

SAME = 0.5
"""Share of different responses to a prompt below which most comparisons are of one text with itself."""

TIED = 0.9
"""Share of prompts without a pair, or with equal rewards, from which most of what is written teaches nothing."""

MISMATCH = 0.05
"""Mean absolute difference of a token's log-prob, in nats, between what a writer gave and what the same weights give
now: engines in half precision differ by a hundredth or two, other weights by tenths."""


def hacked(record: RunRecord) -> Finding | None:
    """Return a finding where the reward of training rose for certain and a held-out judge's fell for certain.

    For certain: the 95 % intervals lie apart, of the first and the last round, and of the best evaluation and the last:
    where a judge is over-optimised, the truth rises with it at first.
    """
    first, last = ends(record.rounds)
    if not apart(first, last, "round/reward"):
        return None
    start, after = ends(record.evaluations)
    verifies = record.config.get("judge") == "verifier"
    bests = {name: _best(record.evaluations, f"eval/{name}") for name in HELD_OUT}
    fallen = [name for name in HELD_OUT if apart(after, bests[name], f"eval/{name}")]
    if not fallen:
        return None
    name = fallen[0]
    best = bests[name]
    independent = name == "judge_accuracy" or (name == "accuracy" and not verifies)
    when = "start" if best is start else "best"
    return Finding(
        "reward-hacking",
        "error" if independent else "warning",
        "The reward of the rounds rose while what they do not train on fell: the policy has found what the judge likes "
        + ("and nobody else does." if independent else "in these prompts alone."),
        (
            Evidence("round/reward, first round", first["round/reward"], int(first["step"])),
            Evidence("round/reward, last round", last["round/reward"], int(last["step"])),
            Evidence(f"eval/{name}, {when}", best[f"eval/{name}"], int(best["step"])),
            Evidence(f"eval/{name}, last", after[f"eval/{name}"], int(after["step"])),
        ),
        f"{_earlier(best)}, {_held(record, last)}; read the examples of report/index.html side by side, and judge by "
        "something that they cannot please.",
    )


def _earlier(best: Mapping[str, Any]) -> str:
    """Return which policy to take instead of the last."""
    number = int(best["after_round"])
    return f"Take the policy after round {number} (--rounds {number})" if number else "Begin again from the start"


def _held(record: RunRecord, last: Mapping[str, Any]) -> str:
    """Return what holds a policy to its reference."""
    if _noun(last) == "pairs":
        return "raise --beta, keep --reference-moves never"
    penalised = record.config.get("kl") in ("reward", "loss")
    return "raise --beta" if penalised else "add a KL penalty (--kl reward --beta 0.1)"


def length_creep(record: RunRecord) -> Finding | None:
    """Return a finding where responses grew much longer, or came to be cut."""
    first, last = ends(record.rounds)
    if len(record.rounds) < 2 or "round/length" not in first:  # pictures have no words
        return None
    ratio = last["round/length"] / max(first["round/length"], 1.0)
    cut = (last.get("round/truncated") or 0.0) - (first.get("round/truncated") or 0.0)
    if ratio < LENGTHS and cut < CUT:
        return None
    return Finding(
        "length-creep",
        "warning",
        "Responses grow from round to round"
        + (", and more and more of them are cut before their end." if cut >= CUT else "."),
        (
            Evidence("tokens per response, first round", first["round/length"], int(first["step"])),
            Evidence("tokens per response, last round", last["round/length"], int(last["step"])),
            Evidence("share that is cut, first round", first.get("round/truncated") or 0.0, int(first["step"])),
            Evidence("share that is cut, last round", last.get("round/truncated") or 0.0, int(last["step"])),
        ),
        "See whether the judge likes length (tokenq eval win-rate is length-controlled): "
        f"{_SHORTER[_noun(last)]}; raise --max-new-tokens if length is meant.",
    )


_SHORTER = {
    "pairs": "--pairs length_regularised takes length out of pairs; --truncated drop leaves cut responses out",
    "responses": "a KL penalty holds length; --truncated zero gives cut responses nothing, mask leaves them out",
    "weights": "an attribute of length among --condition holds it; --truncated drop leaves cut responses out",
}
"""What keeps responses short, by what is learnt from."""


def entropy_collapse(record: RunRecord) -> Finding | None:
    """Return a finding where the policy has come to say one thing."""
    first, last = ends(record.rounds)
    if len(record.rounds) < 2 or "round/entropy" not in first:  # pictures have no words
        return None
    lost = last["round/entropy"] < ENTROPY_LEFT * first["round/entropy"]
    same = last["round/distinct"] < SAME * first["round/distinct"]
    if not (lost or same):
        return None
    names = ("round/entropy", "round/distinct", "round/distinct_1", "round/distinct_2")
    known = [name for name in names if first.get(name) is not None and last.get(name) is not None]
    return Finding(
        "entropy-collapse",
        "warning",
        "The policy has come to write nearly the same to a prompt each time: there is little left to compare.",
        tuple(
            Evidence(f"{name}, {when} round", line[name], int(line["step"]))
            for name in known
            for when, line in (("first", first), ("last", last))
        ),
        "Raise --temperature or --beta, lower --learning-rate, take fewer --epochs or an earlier round.",
    )


def everything_tied(record: RunRecord) -> Finding | None:
    """Return a finding where the last round has next to nothing to learn from."""
    _, last = ends(record.rounds)
    if not last or (last.get("round/without_signal") or 0.0) < TIED:
        return None
    unusable = last.get("round/unusable") or 0.0
    noun = _noun(last)
    learnt = sum(line[f"round/{noun}"] for line in record.rounds)
    what = "gave no pair" if noun == "pairs" else "said nothing of what is better"
    why = "The judge gave no number for most responses" if unusable > SAME else "The judge cannot tell them apart"
    return Finding(
        "everything-tied",
        "warning" if learnt else "error",
        f"{percent(last['round/without_signal'], 1)} of the prompts of the last round {what}. {why}.",
        (
            Evidence("round/without_signal", last["round/without_signal"], int(last["step"])),
            Evidence("round/ties", _known(last, "round/ties"), int(last["step"])),
            Evidence("round/unusable", unusable, int(last["step"])),
            Evidence("round/reward", _known(last, "round/reward"), int(last["step"])),
            Evidence(f"{noun} of all rounds", learnt),
        ),
        "Take prompts that the policy gets right now and then, more --samples, or a judge with finer numbers; see "
        "whether --answer finds answers at all, and whether --max-new-tokens cuts them off.",
    )


def stale_rollouts(record: RunRecord) -> Finding | None:
    """Return a finding where responses were not written by the weights that they are taken to be of."""
    facts = record.rollouts
    if facts is None:
        return None
    apart = facts.gap is not None and facts.gap > MISMATCH
    if facts.lag <= int(record.config.get("max_staleness", 0)) and not apart:
        return None
    evidence = [Evidence("responses of the policy", facts.responses)]
    if facts.lag:
        evidence.append(Evidence("of them written by weights older than their round", facts.stale))
        evidence.append(Evidence("updates that the oldest lag behind", facts.lag))
    if facts.gap is not None:
        evidence.append(Evidence(f"mean |Δ log π| of a token against {facts.weights}, nats", facts.gap))
        evidence.append(Evidence("responses read again", facts.read_again))
    far = facts.gap is not None and facts.gap > FAR_APART
    return Finding(
        "stale-rollouts",
        "error" if far else "warning",
        f"Responses of round {facts.number} "
        + ("do not have the log-probs that their weights give them." if apart else "are of older weights."),
        tuple(evidence),
        "See that the writer takes the new weights before each round and empties its prefix cache, and that its "
        "log-probs are taken before temperature and filters; tokenq doctor --writer URL tries it.",
    )


def template_drift(record: RunRecord) -> Finding | None:
    """Return a finding where prompts are other tokens for the writer than for the trainer."""
    facts = record.rollouts
    if facts is None or not facts.other_prompts:
        return None
    return Finding(
        "template-drift",
        "error" if facts.other_prompts == facts.prompts else "warning",
        f"{facts.other_prompts} of {facts.prompts} prompts of round {facts.number} were written to in other tokens "
        "than the run's tokenizer and chat template give them now.",
        (
            Evidence("prompts in other tokens", facts.other_prompts),
            Evidence("prompts", facts.prompts),
            Evidence("the first of them", facts.first_other),
        ),
        "Give writer and trainer one tokenizer and one chat template (--chat-template), and restore the prompts if "
        "they were changed since.",
    )


def _noun(line: Mapping[str, Any]) -> str:
    """Return what a round counts: pairs, responses with advantages, or prompts whose responses have weights."""
    return next((noun for noun in ("pairs", "weights") if f"round/{noun}" in line), "responses")


def _best(lines: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the first of the lines with the largest number of a name; an empty one where none has it."""
    known = [line for line in lines if line.get(name) is not None]
    return max(known, key=lambda line: float(line[name])) if known else {}


def ends(lines: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the first and the last of some lines; empty ones where there are none."""
    return (lines[0], lines[-1]) if lines else ({}, {})


def apart(lower: Mapping[str, Any], upper: Mapping[str, Any], name: str) -> bool:
    """Return whether a number of one line lies below that of another, interval and all."""
    high, low = lower.get(f"{name}_high"), upper.get(f"{name}_low")
    return high is not None and low is not None and bool(high < low)


def _known(line: Mapping[str, Any], name: str) -> float | str:
    value = line.get(name)
    return "unknown" if value is None else float(value)
