"""Episodes as rows to be read: the ids that were played, a step for each turn, labelled by whether its action was best.

A label is what the environment itself said (`info["optimal"]`), else what playing the episode again in an environment
that can be solved says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenq.data.encoding import ResponseText, pieces_of
from tokenq.data.sources import Data, tables_of
from tokenq.envs.guarded import guarded
from tokenq.envs.table import find_environment
from tokenq.envs.truth import optimal_actions
from tokenq.errors import UserError
from tokenq.evaluation.episodes.turns import GOES_ON
from tokenq.listener import Listener
from tokenq.records.episodes import Episode, Turn
from tokenq.records.examples import Example, Response, TokenGroup, TokenResponse
from tokenq.score.config import ScoreConfig
from tokenq.score.rows import ScoredRow

if TYPE_CHECKING:
    from tokenq.jobs.reader import Reader


@dataclass(frozen=True)
class LabelledEpisode:
    """An episode, and which of its turns were best.

    Attributes:
        where: its row, for messages.
        episode: what was played.
        best: whether the action of each turn was one of the best.
    """

    where: str
    episode: Episode
    best: tuple[bool, ...]


def labelled_episodes(data: Data) -> list[LabelledEpisode]:
    """Return the episodes of files or rows, labelled.

    Raises:
        UserError: a row is no episode, or the truth about one is not known.
    """
    found = []
    for row in (row for table in tables_of(data) for row in table):
        if row.fault:
            raise UserError(f"{row.where}: {row.fault}.", "Play again, or take the row out.")
        episode = Episode.from_dict(row.values, row.where)
        if episode.turns:  # one that the environment could not begin says nothing
            found.append(LabelledEpisode(row.where, episode, _labels(row.where, episode)))
    return found


def _labels(where: str, episode: Episode) -> tuple[bool, ...]:
    said = [turn.info.get("optimal") for turn in episode.turns]
    if None in said:
        make = find_environment(episode.environment).make(episode.options)
        environment = guarded(make)
        try:
            known = optimal_actions(environment, episode.seed, [turn.action for turn in episode.turns])
        finally:
            environment.close()
        said = [one if one is not None else other for one, other in zip(said, known or said, strict=True)]
    if None in said:
        raise UserError(
            f"{where}: nobody knows whether the action of turn {said.index(None) + 1} was one of the best.",
            f"The states of {episode.environment} cannot be listed: have it say so in info['optimal'], for each turn.",
        )
    return tuple(map(bool, said))


def episode_rows(config: ScoreConfig, reader: "Reader", listener: Listener, data: Data) -> tuple[list[ScoredRow], str]:
    """Return a row for each stretch of an episode whose tokens follow each other, and what is to be said of them.

    Args:
        config: what is asked for.
        reader: the models.
        listener: not needed; rows of other data tell what was mended.
        data: files of episodes, or rows.

    Raises:
        UserError: another tokenizer has made the ids, or an episode is longer than a model reads.
    """
    if reader.other_tokenizer is not None:
        raise UserError("The reference reads other tokens than the policy.", "Name the model that it was trained from.")
    if config.max_length is not None:
        hint = "Leave it out: an episode is read as it was played, or refused where a model cannot."
        raise UserError("--max-length would cut episodes.", hint)
    episodes = labelled_episodes(data)
    rows, beyond = reader.readable([row for one in episodes for row in _rows(reader.tokenizer, one)], config.bad_rows)
    turns, wrong = (sum(count(one.best) for one in episodes) for count in (len, lambda best: best.count(False)))
    said = f"{len(episodes)} episodes of {turns} turns, {wrong} of them not the best that could be done"
    return rows, said + (f"; {beyond} longer than the model's context are left out" if beyond else "")


def _rows(tokenizer: Any, one: LabelledEpisode) -> list[ScoredRow]:
    found = []
    for segment in one.episode.segments():
        turns = one.episode.turns[segment.first : segment.first + len(segment.rewards)]
        where = one.where if segment.first == 0 else f"{one.where}{GOES_ON}{segment.first + 1}"
        prompt, parts = "".join(pieces_of(tokenizer, (), segment.prompt_ids)), list[list[str]]()
        before = segment.prompt_ids
        for number, turn in enumerate(turns):
            parts.append([])
            for ids in (() if number == 0 else turn.observation_ids, turn.action_ids):
                pieces = pieces_of(tokenizer, before, ids)
                parts[-1] += pieces
                before = (*before, *ids)
            _check(where, tokenizer, turn, pieces)
        steps, labels = tuple(map("".join, parts)), one.best[segment.first : segment.first + len(turns)]
        response = Response("".join(steps), steps=steps, step_labels=labels)
        token_ids = np.array(segment.token_ids, np.int32)
        tokens = TokenResponse(token_ids, np.array(segment.own), segment.finish == "stop", given=response)
        group = TokenGroup(np.array(segment.prompt_ids, np.int32), (tokens,), False, where)
        text = ResponseText(prompt, "".join(steps), np.cumsum([len(piece) for part in parts for piece in part]))
        found.append(ScoredRow(where, group, (text,), Example(prompt, (response,), False, where)))
    return found


def _check(where: str, tokenizer: Any, turn: Turn, pieces: Sequence[str]) -> None:
    """Refuse ids that are another text to this tokenizer than they were to the one that played."""
    special = {str(one.content) for one in tokenizer.added_tokens_decoder.values() if one.special}
    played = "".join(piece for piece in turn.pieces if piece not in special)
    if turn.pieces and played != "".join(pieces):
        raise UserError(
            f"{where}: to this policy's tokenizer the ids are another text than was played.",
            "Episodes are read by their ids: name a model with the tokenizer of the one that played.",
        )
