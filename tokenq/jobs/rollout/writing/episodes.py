"""Episodes with an environment: those of a round, by everybody who plays, and the greedy ones of held-out seeds.

What is played is a function of weights, of the seed of the run and the round, and of an episode's own seed and number.
The episodes of a prompt are those of one seed: they begin alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tokenq.errors import UserError
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.writing.responses import GREEDY, drawn_as, seed_of
from tokenq.jobs.rollout.writing.written import Writing, Written
from tokenq.records.episodes import Episode, Turn
from tokenq.records.examples import TokenResponse
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.episodes.game import Game, Player, Rules, Start
from tokenq.rollout.episodes.player import lockstep
from tokenq.rollout.episodes.rollouts import earned, earned_without_luck, refuse_rewritten, rollouts_of, whole_rollout
from tokenq.rollout.episodes.stored import in_tokens, with_logps
from tokenq.rollout.methods import Draw, OnlineMethod
from tokenq.search.settings import Sampling


@dataclass(frozen=True)
class Stage:
    """Everything that episodes are played with.

    Attributes:
        config: the settings.
        method: says who plays.
        game: what is played.
        rules: how, but for sampling and seed.
        seeds: those that rounds play.
        held_out: those that the policy is evaluated on.
        player: (who, version of the policy) → who plays.
        experts: stored episodes by their seeds.
        logps: (prompt, responses) → log π of the policy's tokens of each, under the policy as it is.
        clock: measures where the time goes.
    """

    config: OnlineConfig
    method: OnlineMethod
    game: Game
    rules: Rules
    seeds: Sequence[int]
    held_out: Sequence[int]
    player: Callable[[str, int], Player]
    experts: Mapping[int, Sequence[Episode]]
    logps: Callable[[tuple[int, ...], Sequence[TokenResponse]], Sequence[Sequence[float]]]
    clock: Clock


def writing_of_episodes(stage: Stage) -> Writing:
    """Return how episodes are written."""
    config, worth = stage.config, earned_without_luck if stage.config.subtract_luck else earned

    def of_round(number: int, version: int, places: Sequence[int]) -> list[Written]:
        seeds = [stage.seeds[place] for place in places]
        found: list[list[Episode]] = [[] for _ in seeds]
        rollouts: list[list[Rollout]] = [[] for _ in seeds]
        for turn, draw in enumerate(stage.method.draws):
            asked = Round(number, turn, version, seeds, found)
            for own, before, some in zip(rollouts, found, SOURCES[draw.source](stage, draw, asked), strict=True):
                before += some
                own += [one for each in some if each.error is None for one in rollouts_of(each, draw.use, worth)]
        for some in found:
            _refuse_unlike(some)
        every = [one for some in found for one in some]
        _refuse_failed(every)
        if stage.method.learns == "pairs":
            refuse_rewritten(every, config.method)
        return [Written(own, some) for own, some in zip(rollouts, found, strict=True)]

    def of_evaluation(version: int, places: Sequence[int]) -> list[Written]:
        starts = [Start(stage.held_out[place]) for place in places]
        played = _played(stage, starts, stage.player("policy", version), GREEDY, config.seed)
        return [Written([whole_rollout(one, worth)], [one]) for one in played]

    return Writing(len(stage.seeds), of_round, of_evaluation)


class Round(NamedTuple):
    """What is asked for in one of a round's draws.

    Attributes:
        number: of the round.
        turn: which of the method's draws this is.
        version: of the policy.
        seeds: to be played.
        before: the episodes of each that are there already.
    """

    number: int
    turn: int
    version: int
    seeds: Sequence[int]
    before: Sequence[Sequence[Episode]]


def _whole(stage: Stage, draw: Draw, asked: Round) -> list[list[Episode]]:
    """Return episodes that are played from their beginning."""
    return _by_writer(stage, draw, asked, [() for _ in asked.seeds])


def _branches(stage: Stage, draw: Draw, asked: Round) -> list[list[Episode]]:
    """Return episodes that take the turns of the first one of their seed up to one that is drawn, and then go on."""
    pasts = []
    for seed, before in zip(asked.seeds, asked.before, strict=True):
        dice = np.random.default_rng([stage.config.seed, asked.number, asked.turn, seed, _TURNS])
        turns = before[0].turns if before else ()
        pasts.append(turns[: int(dice.integers(len(turns)))] if turns else ())
    return _by_writer(stage, draw, asked, pasts)


_TURNS = 0xB0A7
"""Sets the draws of turns apart from others of the same seed and round."""


def _stored(stage: Stage, draw: Draw, asked: Round) -> list[list[Episode]]:
    """Return episodes that were there before, with log-probs of the policy as it is."""
    count, player = draw.count(stage.config.samples_of_prompt), stage.player("policy", asked.version)
    found = []
    for seed, before in zip(asked.seeds, asked.before, strict=True):
        some = [in_tokens(one, player.dialogue) for one in stage.experts.get(seed, ())[:count]]
        name = f"{stage.game.name} seed {seed}"
        named = [replace(one, id=name, number=number, writer="data") for number, one in enumerate(some, len(before))]
        with stage.clock.of("writer"):
            found.append([replace(with_logps(one, stage.logps), version=asked.version) for one in named])
    return found


def _refuse_unlike(episodes: Sequence[Episode]) -> None:
    """Refuse episodes of one seed that do not begin alike: they are no answers to one prompt.

    Raises:
        UserError: names the seed.
    """
    if len({one.turns[0].observation_ids for one in episodes if one.turns}) > 1:
        hint = "An environment begins as its seed says. Play an expert's episodes (--data) again with the same options."
        raise UserError(f"Episodes of {episodes[0].id} do not begin alike.", hint)


SOURCES: Mapping[str, Callable[[Stage, Draw, Round], list[list[Episode]]]] = {
    "start": _whole,
    "turn": _branches,
    "data": _stored,
}
"""Where the episodes of a draw come from, by `Draw.source`."""


def _by_writer(stage: Stage, draw: Draw, asked: Round, pasts: Sequence[tuple[Turn, ...]]) -> list[list[Episode]]:
    count = draw.count(stage.config.samples_of_prompt)
    rows = zip(asked.seeds, asked.before, pasts, strict=True)
    starts = [Start(seed, len(before) + k, past) for seed, before, past in rows for k in range(count)]
    sampling = GREEDY if draw.greedy else drawn_as(stage.config)
    seed = seed_of(stage.config, asked.number, asked.turn)
    played = _played(stage, starts, stage.player(draw.writer, asked.version), sampling, seed)
    return [played[place * count : (place + 1) * count] for place in range(len(asked.seeds))]


def _played(stage: Stage, starts: Sequence[Start], player: Player, sampling: Sampling, seed: int) -> list[Episode]:
    with stage.clock.of("writer"):
        return lockstep(stage.game, starts, player, replace(stage.rules, sampling=sampling, seed=seed))


def _refuse_failed(episodes: Sequence[Episode]) -> None:
    """Refuse episodes that all have failed.

    Raises:
        UserError: says why the first has.
    """
    if episodes and all(one.error is not None for one in episodes):
        raise UserError(f"Every episode of a batch has failed; {episodes[0].id}: {episodes[0].error}.", _MEND)


_MEND = "Mend the environment, or change its --environment-options."
