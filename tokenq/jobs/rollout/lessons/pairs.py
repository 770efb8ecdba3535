"""Rounds that end in pairs: new ones of this round, with earlier ones beside them where the method replays."""

from collections.abc import Sequence
from pathlib import Path

from tokenq.jobs.rollout.lessons.lesson import Learning, Lesson, Scoring
from tokenq.models.reference_store import ReferenceStore
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout, pair_row, read_pairs
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import learnt, without_columns
from tokenq.rollout.optimism import Optimism, beyond_limit
from tokenq.rollout.rounds import draw_replay, replayed
from tokenq.rundir import RunDir

PAIRS, REPLAY = "pairs.jsonl", "replay.jsonl"


def learning_from_pairs(
    config: OnlineConfig, scoring: Scoring, run: RunDir, offline: Sequence[TokenGroup], optimism: Optimism | None
) -> Learning:
    """Return how rounds end in pairs.

    Args:
        config: the settings.
        scoring: the models.
        run: the folder of the run, for pairs of earlier rounds.
        offline: pairs that were there before the first round.
        optimism: what the loss lowers without end where its limit is passed; None where it has none.
    """

    def lesson(number: int, rollouts: Sequence[Rollout]) -> Lesson:
        keep = config.truncated == "keep"
        fresh = learnt(rollouts, config.pairs, number, config.seed, keep_truncated=keep, flip_labels=config.flip_labels)
        earlier = [group for before in range(1, number) for group in read_pairs(run.round(before) / PAIRS)]
        pool = [*offline, *earlier]
        count = replayed(len(fresh.groups), config.replayed_share, len(pool))
        replay = [without_columns(group) for group in draw_replay(pool, count, config.seed, number)]
        with scoring.clock.of("trainer"):
            every = _referenced([*fresh.groups, *replay], scoring, config.tokens_per_batch)
        new, old = every[: len(fresh.groups)], every[len(fresh.groups) :]
        files = {
            PAIRS: [pair_row(group, number, row) for group, row in zip(new, fresh.rows, strict=True)],
            REPLAY: [pair_row(group, number, {}) for group in old],
        }
        numbers = {**fresh.numbers, "replayed": float(len(old))}
        if optimism is not None and every:
            beyond, asked = beyond_limit(every, optimism)
            numbers |= {"beyond_optimism_limit": beyond / asked, "optimistic_prompts": float(asked)}
        return Lesson(every, files, fresh.counts, numbers)

    def read(place: Path) -> list[TokenGroup]:
        return [*read_pairs(place / PAIRS), *read_pairs(place / REPLAY)]

    return Learning("pairs", lesson, read)


def _referenced(groups: Sequence[TokenGroup], scoring: Scoring, budget: int) -> list[TokenGroup]:
    """Return the pairs with log π_ref of every token under the reference of this round."""
    if scoring.identity is None:
        return list(groups)
    store = ReferenceStore(None, scoring.identity)
    store.fill(groups, scoring.reference, budget, scoring.device)
    return list(store.with_logps(groups))
