"""What `tokenq.play` returns: episodes in memory or at rest, their numbers, a table, a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.records.episodes import Episode, read_episodes
from tokenq.report.notebook import frame
from tokenq.rollout.episodes.summary import PlayNumbers, numbers_of

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Played:
    """Episodes that were played.

    Attributes:
        source: the episodes, or the file that they are in, which is read when they are asked for.
        title: of the page.
        record: where they come from.
    """

    source: Sequence[Episode] | Path = field(repr=False)
    title: str = "tokenq play"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Episode]:
        """Go through the episodes, one after the other."""
        return read_episodes(self.source) if isinstance(self.source, Path) else iter(self.source)

    @cached_property
    def episodes(self) -> list[Episode]:
        """All episodes."""
        return list(self)

    @cached_property
    def numbers(self) -> PlayNumbers:
        """What they come to: success and return with intervals, how they ended."""
        return numbers_of(self)

    def to_frame(self) -> "DataFrame":
        """Return a pandas table with one row per turn; a turn without a reference has no implicit reward.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(
            {"episode": place, "seed": one.seed, "number": one.number, "turn": number}
            | {"observation": turn.observation, "action": turn.action, "reward": turn.reward}
            | {"tokens": len(turn.action_ids), "logp": sum(turn.logps), "finish": turn.finish}
            | {"implicit": None if turn.implicit is None else sum(turn.implicit)}
            | {"return": one.return_, "terminal": one.terminal, "reason": one.reason, "success": one.success}
            for place, one in enumerate(self)
            for number, turn in enumerate(one.turns)
        )

    def html(self, path: str | Path) -> Path:
        """Write the page of conversations, which opens from disk, and return its file."""
        from tokenq.report.episodes.page import write_episode_page

        write_episode_page(Path(path), self, title=self.title, record=self.record)
        return Path(path)
