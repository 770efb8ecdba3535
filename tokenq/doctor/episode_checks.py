"""Has a policy that acts fallen below its reference? Checks of runs that learn from episodes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenq.doctor.finding import Evidence, Finding
from tokenq.doctor.round_checks import apart, ends
from tokenq.runs.record import RunRecord
from tokenq.stats.coverage import MOVED

RETURNS = {"eval/reward": "held-out seeds", "round/reward": "the seeds of rounds"}
"""Numbers that say what new episodes are worth, those of seeds that nothing was learnt from first."""

MOVES = "implicit"
"""The judge whose numbers of two rounds do not compare."""


def below_reference(record: RunRecord) -> Finding | None:
    """Return a finding where new episodes are worth less than the reference's, or the policy has left its pairs.

    Less for certain: the 95 % intervals of the first ones, which the policy played before its first update, and of the
    last ones lie apart. Without that, coverage speaks, which needs no return: a policy that gives less probability to
    the episodes of its pairs than its reference does plays what no pair has shown. It is not asked where returns rose
    for certain.
    """
    lines = {"eval/reward": record.evaluations, "round/reward": record.rounds}
    acts = record.config.get("environment") is not None and record.config.get("judge") != MOVES
    both = {name: ends(lines[name]) for name in RETURNS} if acts else {}
    fallen = [name for name, (first, last) in both.items() if apart(last, first, name)]
    risen = any(apart(first, last, name) for name, (first, last) in both.items())
    if not fallen and (risen or not _left(record.coverage)):
        return None
    found = (
        f"Episodes on {RETURNS[fallen[0]]} are worth less than at the start, when the policy was its reference."
        if fallen
        else "The policy has moved to episodes that its pairs do not show, and may have fallen below its reference."
    )
    shown = [name for name in both if name in fallen or not fallen]
    evidence = [one for name in shown for one in _returns(name, *both[name])]
    pairs = sum(int(line.get("round/pairs") or 0) for line in record.rounds)
    evidence += [Evidence("pairs of all rounds", pairs)] if pairs else []
    return Finding(
        "below-its-reference",
        "error" if fallen else "warning",
        found,
        (*evidence, *_covered(record.coverage)),
        "Learn from more pairs (--environment-seeds, --samples), raise --beta, lower --learning-rate or take fewer "
        "--epochs; take the policy of an earlier round. tokenq play says what it is worth.",
    )


def _left(coverage: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the pairs show less of the policy than of its reference: for certain, or by all that is there."""
    if not coverage:
        return False
    high = coverage[-1].get("covered/change_high")
    return bool((coverage[-1]["covered/change"] if high is None else high) < -MOVED)


def _returns(name: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[Evidence]:
    """Yield what episodes were worth at first and at last, with their intervals, and how many of them succeeded."""
    success = name.replace("reward", "success")
    for when, line in (("first", first), ("last", last)):
        if line.get(name) is None:
            continue
        low, high = line.get(f"{name}_low"), line.get(f"{name}_high")
        said = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
        yield Evidence(f"{name}, {when}{said}", line[name], int(line["step"]))
        if line.get(success) is not None:
            yield Evidence(f"{success}, {when}", line[success], int(line["step"]))


def _covered(coverage: Sequence[Mapping[str, Any]]) -> Iterator[Evidence]:
    for line in coverage[-1:]:
        step = int(line["step"])
        yield Evidence("different episodes in the pairs", line["covered/episodes"], step)
        yield Evidence("probability that the policy plays one of them", line["covered/policy"], step)
        yield Evidence("probability that its reference does", line["covered/reference"], step)
        yield Evidence("log of their ratio, mean over beginnings, nats", line["covered/change"], step)
