"""The numbers of a round, as its line of `metrics.jsonl` has them."""

from collections.abc import Mapping, Sequence

import numpy as np

from tokenq.records.rollouts import Rollout
from tokenq.stats.bootstrap import Resampling, mean_interval

RESAMPLES = 1000
"""Resamples behind the interval of the mean reward."""


def round_numbers(
    rollouts: Sequence[Rollout], ref_logps: Sequence[float], pairs: Sequence[int], seed: int
) -> dict[str, float]:
    """Return what a round says of its writer, under `round/`.

    Reward, length, entropy, KL and what is distinct or cut are over the compared responses that the policy wrote; ties
    and what the judge could not use over all that were compared; the cost over all that were written. Entropy is −log π
    per token and KL is Σ log π/π_ref against the first reference: estimates from samples, exact in expectation at
    temperature 1 without filters. The interval of the reward takes prompts as its units.

    Args:
        rollouts: all responses of the round, judged.
        ref_logps: Σ log π_ref of each under the first reference.
        pairs: how many pairs each prompt gave.
        seed: of the interval.
    """
    rows = list(zip(rollouts, ref_logps, strict=True))
    own = [(one, ref) for one, ref in rows if one.compared and one.writer == "policy"]
    compared = [one for one in rollouts if one.compared]
    known = [one for one in compared if one.reward is not None]
    worth = [(one.reward, one.id) for one, _ in own if one.reward is not None]
    values = np.array([reward for reward, _ in worth], np.float64)
    reward = mean_interval(values, [name for _, name in worth], Resampling(RESAMPLES, seed=seed))
    lengths = np.array([len(one.token_ids) for one, _ in own], np.float64)
    sums = np.array([sum(one.logps) for one, _ in own])
    found = {
        "reward": reward.value,
        "reward_low": reward.low,
        "reward_high": reward.high,
        "unusable": _share(len(compared) - len(known), len(compared)),
        "prompts": len(pairs),
        "pairs": sum(pairs),
        "without_signal": _share(sum(count == 0 for count in pairs), len(pairs)),
        "ties": _ties(known),
        "length": float(lengths.mean()),
        "truncated": _share(sum(one.finish == "length" for one, _ in own), len(own)),
        "entropy": float(-sums.sum() / lengths.sum()),
        "kl": float((sums - np.array([ref for _, ref in own])).mean()),
        "distinct": _share(len({(one.id, one.token_ids) for one, _ in own}), len(own)),
        "written_tokens": sum(len(one.token_ids) for one in rollouts),
        "judged_tokens": sum(len(one.token_ids) for one in compared),
    }
    return {f"round/{name}": float(value) for name, value in found.items()}


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
