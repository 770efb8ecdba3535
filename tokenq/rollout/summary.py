"""The numbers of a round, as its line of `metrics.jsonl` has them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokenq.records.rollouts import Rollout
from tokenq.stats.bootstrap import Resampling, mean_interval
from tokenq.stats.win_rate import win_rate

RESAMPLES = 1000
"""Resamples behind the interval of the mean reward."""


def round_numbers(
    rollouts: Sequence[Rollout],
    ref_logps: Sequence[float | None],
    counts: Sequence[int],
    seed: int,
    noun: str = "pairs",
) -> dict[str, float]:
    """Return what a round says of its writer, under `round/`.

    Reward, length, entropy, KL and what is distinct or cut are over the compared responses that the policy wrote; ties
    and what the judge could not use over all that were compared; the cost over all that were written, without those
    that were there before. Entropy is −log π per token and KL is Σ log π/π_ref against the first reference: estimates
    from samples, exact in expectation at temperature 1 without filters. The interval of the reward takes prompts as its
    units. `distinct_n` is the share of different n-grams of tokens among all of the round (Li et al. 2016).

    Args:
        rollouts: all responses of the round, judged.
        ref_logps: Σ log π_ref of each under the first reference, None where it was not read: KL is over those
            that were.
        counts: how many examples each prompt gave.
        seed: of the interval.
        noun: what an example is called.
    """
    rows = list(zip(rollouts, ref_logps, strict=True))
    own = [one for one, _ in rows if _own(one)]
    ratios = [sum(one.logps) - ref for one, ref in rows if _own(one) and ref is not None]
    compared = [one for one in rollouts if one.compared]
    known = [one for one in compared if one.reward is not None]
    worth = [(one.reward, one.id) for one in own if one.reward is not None and not one.part]
    values = np.array([reward for reward, _ in worth], np.float64)
    reward = mean_interval(values, [name for _, name in worth], Resampling(RESAMPLES, seed=seed))
    lengths = np.array([one.length for one in own], np.float64)
    sums = np.array([sum(one.logps) for one in own])
    found = {
        "reward": reward.value,
        "reward_low": reward.low,
        "reward_high": reward.high,
        "unusable": _share(len(compared) - len(known), len(compared)),
        "prompts": len(counts),
        noun: sum(counts),
        "without_signal": _share(sum(count == 0 for count in counts), len(counts)),
        "ties": _ties([one for one in known if not one.part]),
        "length": float(lengths.mean()),
        "truncated": _share(sum(one.finish == "length" for one in own), len(own)),
        "entropy": float(-sums.sum() / lengths.sum()),
        "kl": sum(ratios) / len(ratios),
        "distinct": _share(len({(one.id, one.token_ids) for one in own}), len(own)),
        **{f"distinct_{n}": distinct([one.written(one.token_ids) for one in own], n) for n in (1, 2)},
        "written_tokens": sum(one.length for one in rollouts if one.writer != "data"),
        "judged_tokens": sum(one.length for one in compared),
    }
    return {f"round/{name}": float(value) for name, value in found.items()}


def read_for_kl(rollouts: Sequence[Rollout]) -> list[int]:
    """Return the places of the responses by which KL is estimated: the first of the policy's own to each prompt.

    They are independent, and a round of thousands of responses is not read again for one number.
    """
    first: dict[str, int] = {}
    for place, one in enumerate(rollouts):
        if _own(one) and len(first) < KL_PROMPTS:
            first.setdefault(one.id, place)
    return list(first.values())


KL_PROMPTS = 256
"""Prompts whose responses are read for KL."""


def _own(one: Rollout) -> bool:
    return one.compared and one.writer == "policy"


class Judged(NamedTuple):
    """The response to a held-out prompt.

    Attributes:
        rollout: the response, judged.
        start: preference for it over what the policy wrote at the start: 1, 0, or ½ for a tie; None where unknown.
        last: the same over what the policy wrote after the round before.
        correct: 1 for the true answer, 0 for another, None where there is none.
    """

    rollout: Rollout
    start: float | None
    last: float | None
    correct: float | None


def preference(reward: float | None, other: float | None) -> float | None:
    """Return 1 for the larger reward, 0 for the smaller, ½ for a tie; None where one is unknown."""
    if reward is None or other is None:
        return None
    return (1.0 + (reward > other) - (reward < other)) / 2


def evaluation_numbers(rows: Sequence[Judged], seed: int) -> dict[str, float]:
    """Return what the greedy responses to held-out prompts say of a policy, under `eval/`.

    Args:
        rows: one a prompt.
        seed: of the interval of the reward.
    """
    own = [row.rollout for row in rows]
    found: dict[str, float] = {
        "prompts": len(rows),
        "length": sum(one.length for one in own) / len(own),
        "truncated": _share(sum(one.finish == "length" for one in own), len(own)),
        "written_tokens": sum(one.length for one in own),
    }
    means = {"reward": [one.reward for one in own], "accuracy": [row.correct for row in rows]}
    for name, values in means.items():
        if known := [value for value in values if value is not None]:
            mean = mean_interval(np.array(known, np.float64), None, Resampling(RESAMPLES, seed=seed))
            found |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    won = {"won_start": [row.start for row in rows], "won_last": [row.last for row in rows]}
    for name, shares in won.items():
        if any(share is not None for share in shares):
            rate = win_rate(shares)
            found |= {name: rate.win_rate, f"{name}_low": rate.interval[0], f"{name}_high": rate.interval[1]}
            found[f"{name.replace('won', 'ties')}"] = _share(rate.ties, rate.n)
    return {f"eval/{name}": float(value) for name, value in found.items()}


def judge_numbers(right: Sequence[float | None]) -> dict[str, float]:
    """Return how often a judge prefers what is known to be the better response, under `eval/`.

    Args:
        right: its preference for the better response of each pair, as `preference` has it.
    """
    if all(share is None for share in right):
        return {"eval/judge_pairs": 0.0}
    rate = win_rate(right)
    ends = dict(zip(("eval/judge_accuracy_low", "eval/judge_accuracy_high"), rate.interval, strict=True))
    return {"eval/judge_pairs": float(rate.n), "eval/judge_accuracy": rate.win_rate, **ends}


def distinct(responses: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among all n-grams of tokens of some responses."""
    grams = [tuple(ids[start : start + n]) for ids in responses for start in range(len(ids) - n + 1)]
    return _share(len(set(grams)), len(grams))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _ties(known: Sequence[Rollout]) -> float:
    """Return the share of comparisons of two responses to a prompt that end in a tie."""
    by_prompt: dict[str, list[float]] = {}
    for one in known:
        by_prompt.setdefault(one.id, []).append(float(one.reward or 0.0))
    tied = whole = 0
    for rewards in by_prompt.values():
        n = len(rewards)
        whole += n * (n - 1) // 2
        tied += sum(count * (count - 1) // 2 for count in _counts(rewards).values())
    return _share(tied, whole)


def _counts(rewards: Sequence[float]) -> Mapping[float, int]:
    values, counts = np.unique(rewards, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
