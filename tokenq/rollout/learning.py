"""What a round learns from: the judged responses of each prompt, put into pairs in token space."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.pairing import PAIRINGS, Candidates, RoundPairs


class Learnt(NamedTuple):
    """The new pairs of a round.

    Attributes:
        groups: the pairs in tokens, with a response to calibrate on where the method writes one.
        rows: what stands beside each for readers: texts, rewards, the name of the prompt.
        counts: pairs of each prompt.
        numbers: what the way of pairing has to say.
    """

    groups: list[TokenGroup]
    rows: list[dict[str, Any]]
    counts: list[int]
    numbers: dict[str, float]


def learnt(
    rollouts: Sequence[Rollout], pairing: str, number: int, seed: int, *, keep_truncated: bool, flip_labels: float = 0.0
) -> Learnt:
    """Return the pairs that follow from judged responses.

    Args:
        rollouts: all responses of the round, those of a prompt together.
        pairing: a key of `PAIRINGS`.
        number: of the round.
        seed: of drawn labels, with the number.
        keep_truncated: whether responses that were cut are compared too.
        flip_labels: probability that a pair is turned round.
    """
    prompts = by_prompt(rollouts)
    compared = [[one for one in some if _usable(one, keep_truncated=keep_truncated)] for some in prompts]
    dice = np.random.default_rng([seed, number, _LABELS])
    way, candidates = PAIRINGS[pairing], [_candidates(some) for some in compared]
    found: RoundPairs = way.pairs(candidates, dice)
    turned = np.random.default_rng([seed, number, _FLIPS]).random(sum(map(len, found.pairs))) < flip_labels
    numbers = {**found.numbers, **({"flipped": float(turned.sum())} if flip_labels else {})}
    turn = iter(turned)
    labelled = [[(j, i) if next(turn) else (i, j) for i, j in pairs] for pairs in found.pairs]
    groups, rows = [], []
    for every, some, worth, pairs in zip(prompts, compared, candidates, labelled, strict=True):
        calibration = [one.tokens("calibration") for one in every if one.calibrates][:1]
        for pair in pairs:
            chosen, rejected = (some[place] for place in pair)
            cut = way.shared(worth, pair)
            sides = (chosen.tokens("chosen").behind(cut), rejected.tokens("rejected").behind(cut), *calibration)
            ids = np.array((*chosen.prompt_ids, *chosen.token_ids[:cut]), np.int32)
            groups.append(TokenGroup(ids, sides, True, f"round {number}, prompt {chosen.id}"))
            rows.append(_row(chosen, rejected, every))
    return Learnt(groups, rows, [len(pairs) for pairs in found.pairs], numbers)


_LABELS = 0xBEEF
"""Sets the draws of labels apart from others of the same seed and round."""


_FLIPS = 0xF11B
"""Sets the draws of pairs that are turned round apart from others of the same seed and round."""


def by_prompt(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Return the responses to each prompt together, in the order in which prompts come up."""
    found: dict[str, list[Rollout]] = {}
    for one in rollouts:
        found.setdefault(one.id, []).append(one)
    return list(found.values())


def by_prefix(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Return responses in their order, those that stand next to each other and behind the same tokens together."""
    return [list(some) for _, some in groupby(rollouts, lambda one: (one.id, one.prompt_ids))]


def group_of(rollouts: Sequence[Rollout]) -> TokenGroup:
    """Return responses behind the same tokens as a group."""
    ids = np.array(rollouts[0].prompt_ids, np.int32)
    return TokenGroup(ids, tuple(one.tokens("plain") for one in rollouts), False, f"prompt {rollouts[0].id}")


def without_columns(group: TokenGroup) -> TokenGroup:
    """Return a group without what was read beside its tokens in an earlier round."""
    return group.map(lambda one: replace(one, token_columns={}))


def _usable(one: Rollout, *, keep_truncated: bool) -> bool:
    return one.compared and one.reward is not None and (keep_truncated or one.finish == "stop")


def _candidates(rollouts: Sequence[Rollout]) -> Candidates:
    return Candidates(
        np.array([one.reward for one in rollouts], np.float64),
        np.array([one.length for one in rollouts], np.int64),
        [one.token_ids for one in rollouts],
        [tuple(turn.start for turn in one.turns) for one in rollouts],
    )


def _row(chosen: Rollout, rejected: Rollout, every: Sequence[Rollout]) -> dict[str, Any]:
    calibration = [one.response for one in every if one.calibrates][:1]
    return {
        "id": chosen.id,
        "prompt": chosen.to_dict()["prompt"],
        "chosen": chosen.response,
        "rejected": rejected.response,
        **({"calibration": calibration[0]} if calibration else {}),
        "chosen_number": chosen.number,
        "rejected_number": rejected.number,
        "score_chosen": chosen.reward,
        "score_rejected": rejected.reward,
    }
