"""Episodes in lockstep: what all environments say goes to the writer as one batch, a turn at a time.

An action is a function of weights, of what was said and done before, and of a seed made of the seed of the sampling, of
that of the episode, its number, and the turn: which episodes are played beside it changes no draw.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenq.listener import Progress, silent
from tokenq.records.episodes import Episode
from tokenq.rollout.episodes.game import Game, Player, Rules, Spent, Start
from tokenq.rollout.episodes.search import chosen
from tokenq.rollout.episodes.seat import Seat
from tokenq.rollout.writer import Remembering, Sample
from tokenq.search.sampling import mixed_seed


def play(
    game: Game, starts: Sequence[Start], player: Player, rules: Rules, spent: Spent | None = None
) -> Iterator[Episode]:
    """Yield an episode for every start, in their order, so many side by side.

    Raises:
        UserError: an environment lacks something, a chat template refuses what it says, or the writer is down.
    """
    for batch in batches(starts, rules.side_by_side):
        yield from lockstep(game, batch, player, rules, spent)


def batches(starts: Sequence[Start], size: int) -> list[Sequence[Start]]:
    """Return the starts in parts of a size: what is played side by side, whoever plays it."""
    return [starts[first : first + size] for first in range(0, len(starts), size)]


def lockstep(
    game: Game,
    starts: Sequence[Start],
    player: Player,
    rules: Rules,
    spent: Spent | None = None,
    progress: Progress = silent,
) -> list[Episode]:
    """Return an episode for every start, all of them played side by side.

    Args:
        game: what is played.
        starts: how each begins.
        player: who plays.
        rules: how.
        spent: is told what it costs.
        progress: told (episodes that are over, all).

    Raises:
        UserError: see `play`.
    """
    spent = spent or Spent()
    if isinstance(player.writer, Remembering):
        player = replace(player, writer=player.writer.remembering())
    seats = [Seat(game, start, player, rules, spent) for start in starts]
    with spent.on("seconds"), contextlib.ExitStack() as opened:
        for seat in seats:
            seat.begin(opened)
        while running := [seat for seat in seats if seat.goes_on()]:
            progress(len(seats) - len(running), len(seats))
            for seat, sample in zip(running, _written(running, player, rules, spent), strict=True):
                seat.act(sample)
    progress(len(seats), len(seats))
    return [seat.episode() for seat in seats]


def _written(running: Sequence[Seat], player: Player, rules: Rules, spent: Spent) -> list[Sample]:
    if rules.search is not None:
        return chosen(running, rules.search, player, rules, spent)
    prompts = [seat.state.ids for seat in running]
    seeds = [mixed_seed(rules.seed, (seat.start.seed, seat.start.number, len(seat.turns)), 0) for seat in running]
    with spent.on("writing"):
        found = [samples[0] for samples in player.writer.write(prompts, 1, rules.sampling, seeds)]
    spent.read += sum(map(len, prompts))
    spent.written += sum(len(one.token_ids) for one in found)
    return found
