"""What episodes come to: success and return with intervals, how they ended, what their actions were like."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tokenq.records.episodes import Episode
from tokenq.stats.bootstrap import Estimate, mean_interval


@dataclass(frozen=True)
class PlayNumbers:
    """Numbers of some episodes.

    Attributes:
        episodes: how many there are.
        success: share that reached what it was for (Wilson's interval); None where no environment says so of any. One
            that was broken off has not.
        mean_return: mean of the sums of rewards (bootstrap over seeds).
        turns: actions in all.
        tokens: of all actions.
        invalid: actions that the environment did not understand.
        truncated: actions that were cut at their most tokens.
        ended: episodes by how they ended.
        cut_turns: episodes whose oldest turns were left out.
        errors: what environments failed with, how often.
    """

    episodes: int
    success: Estimate | None
    mean_return: Estimate
    turns: int
    tokens: int
    invalid: int
    truncated: int
    ended: Mapping[str, int]
    cut_turns: int
    errors: Mapping[str, int]

    def lines(self) -> list[str]:
        """Return the numbers in words."""
        ended = ", ".join(f"{reason} {count}" for reason, count in self.ended.items())
        success = "no episode came so far that its environment says" if self.success is None else _said(self.success)
        actions = max(1, self.turns)
        found = [
            f"success: {success}",
            f"return: {_said(self.mean_return)}",
            f"actions: {self.turns}, {self.turns / max(1, self.episodes):.1f} an episode; invalid "
            f"{self.invalid / actions:.1%}, cut at --max-new-tokens {self.truncated / actions:.1%}",
            f"ended: {ended}",
        ]
        if self.cut_turns:
            found.append(f"{self.cut_turns} episodes filled the context: their oldest turns were left out")
        found += [f"warning: {error} ({count} episodes)" for error, count in self.errors.items()]
        return found


def _said(one: Estimate) -> str:
    interval = "" if np.isnan(one.low) else f" [{one.low:.3f}, {one.high:.3f}]"
    return f"{one.value:.3f}{interval}"


def numbers_of(episodes: Iterable[Episode]) -> PlayNumbers:
    """Return the numbers of episodes, at least one."""
    ended, errors = Counter[str](), Counter[str]()
    returns, successes, seeds = list[float](), list[bool | None](), list[int]()
    turns = tokens = invalid = truncated = cut = 0
    for one in episodes:
        ended[one.reason] += 1
        errors.update([one.error] if one.error is not None else [])
        returns.append(one.return_)
        successes.append(one.success)
        seeds.append(one.seed)
        turns += len(one.turns)
        tokens += sum(len(turn.action_ids) for turn in one.turns)
        invalid += sum(bool(turn.info.get("invalid")) for turn in one.turns)
        truncated += sum(turn.finish == "length" for turn in one.turns)
        cut += any("cut_turns" in turn.info for turn in one.turns)
    groups = seeds if len(set(seeds)) < len(seeds) else None
    told = any(one is not None for one in successes)
    success = mean_interval(np.array([one is True for one in successes], float), groups) if told else None
    mean_return = mean_interval(np.array(returns), groups)
    ordered = dict(ended.most_common())
    return PlayNumbers(
        len(returns), success, mean_return, turns, tokens, invalid, truncated, ordered, cut, dict(errors.most_common())
    )
