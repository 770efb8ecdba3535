"""Episodes that were there before: by their seeds, in the tokens of the policy, with its log-probs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokenq.data.dialogue import Dialogue
from tokenq.errors import UserError
from tokenq.records.episodes import Episode, Turn, read_episodes, untold
from tokenq.records.examples import TokenResponse
from tokenq.rollout.episodes.game import Game
from tokenq.rollout.episodes.rollouts import earned, rollouts_of


def experts_of(paths: Sequence[str], game: Game, seeds: Sequence[int]) -> dict[int, list[Episode]]:
    """Return the episodes of files by their seeds, those that return most first.

    Args:
        paths: files that `tokenq play` wrote, or lines of the same form.
        game: what is played.
        seeds: those that are asked for.

    Raises:
        UserError: an episode is of another environment, or none is of these seeds.
    """
    found: dict[int, list[Episode]] = {}
    for path in paths:
        for one in read_episodes(Path(path)):
            if (one.environment, _said(one.options)) != (game.name, _said(game.options)):
                raise UserError(
                    f"{path}: {one.id} is of {one.environment} with options {dict(one.options)}, and {game.name} with "
                    f"{dict(game.options)} is played.",
                    "Give episodes of the same environment and the same --environment-options.",
                )
            if one.seed in seeds and one.turns:
                found.setdefault(one.seed, []).append(one)
    if paths and not found:
        raise UserError(
            f"No episode of {', '.join(paths)} has a seed from {min(seeds)} to {max(seeds)}.",
            "Play those: tokenq play --seed 0 --episodes N, with N as --environment-seeds.",
        )
    return {seed: sorted(some, key=lambda one: -one.return_) for seed, some in found.items()}


def _said(options: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}


def in_tokens(episode: Episode, dialogue: Dialogue) -> Episode:
    """Return an episode in the tokens that the policy reads: as it is where they are these, else from its text."""
    first = dialogue.start(untold(episode.turns[0].observation))
    if episode.turns[0].observation_ids == first.ids:
        return episode
    state, turns = first, list[Turn]()
    for turn, after in zip(episode.turns, (*episode.turns[1:], None), strict=True):
        ids = dialogue.action_ids(turn.action)
        read = replace(turn, observation_ids=state.observation_ids, starts_over=state.starts_over, finish="stop")
        turns.append(replace(read, action_ids=ids, logps=(0.0,) * len(ids), kept_mass=None, pieces=()))
        if after is not None:
            state = dialogue.extend(state, ids, turn.action, untold(after.observation))
    return replace(episode, turns=tuple(turns))


def with_logps(
    episode: Episode,
    logps: Callable[[tuple[int, ...], Sequence[TokenResponse]], Sequence[Sequence[float]]],
) -> Episode:
    """Return an episode with other log-probs.

    Args:
        episode: in tokens.
        logps: (prompt, responses) → log-probs of the policy's tokens of each.
    """
    numbers = [
        value
        for one in rollouts_of(episode, "compared", earned)
        for value in logps(one.prompt_ids, [one.tokens("plain")])[0]
    ]
    rest, turns = iter(numbers), list[Turn]()
    for turn in episode.turns:
        turns.append(replace(turn, logps=tuple(next(rest) for _ in turn.action_ids)))
    return replace(episode, turns=tuple(turns), logps_of="model")
