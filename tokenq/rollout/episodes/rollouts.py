"""Episodes as what is learnt from: responses in which some tokens are the environment's, with a reward a turn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from tokenq.errors import UserError
from tokenq.records.episodes import Episode, Segment, Turn, untold
from tokenq.records.examples import Text
from tokenq.records.rollouts import Rollout, TurnSpan

Earned = Callable[[Turn], float]
"""(turn) → what the policy is credited with for it."""


def earned(turn: Turn) -> float:
    """Return the reward of a turn."""
    return turn.reward


def earned_without_luck(turn: Turn) -> float:
    """Return the reward of a turn less what the environment's draw added to the return beyond its expectation."""
    return turn.reward - float(turn.info.get("luck", 0.0))


def rollouts_of(episode: Episode, use: Literal["compared", "calibration", "both"], worth: Earned) -> list[Rollout]:
    """Return an episode in tokens: one response, or one for each stretch where a template wrote the past anew.

    Args:
        episode: at least one turn, else nothing is returned.
        use: whether it is compared with others, read to calibrate pairs, or both.
        worth: the reward of a turn.
    """
    return [_rollout(episode, part, one, use, worth) for part, one in enumerate(episode.segments())]


def whole_rollout(episode: Episode, worth: Earned) -> Rollout:
    """Return an episode as one response that nothing is learnt from: what was read anew is the environment's."""
    first, *others = rollouts_of(episode, "compared", worth) or [_empty(episode)]
    for one in others:
        start = len(first.token_ids) + len(one.prompt_ids)
        own = (*first.mask.tolist(), *(False for _ in one.prompt_ids), *one.mask.tolist())
        first = replace(
            first,
            token_ids=first.token_ids + one.prompt_ids + one.token_ids,
            logps=(*first.logps, *(0.0 for _ in one.prompt_ids), *one.logps),
            kept_mass=None,
            own=own,
            turns=(*first.turns, *(TurnSpan(a + start, b + start, reward) for a, b, reward in one.turns)),
            finish=one.finish,
        )
    return first


def _rollout(
    episode: Episode, part: int, one: Segment, use: Literal["compared", "calibration", "both"], worth: Earned
) -> Rollout:
    turns = episode.turns[one.first : one.first + len(one.rewards)]
    masses = [turn.kept_mass for turn in turns]
    found = Rollout(
        id=episode.id,
        number=episode.number,
        prompt=untold(turns[0].observation),
        response=transcript(episode),
        prompt_ids=one.prompt_ids,
        token_ids=one.token_ids,
        logps=one.logps,
        kept_mass=None,
        finish=one.finish,
        writer=episode.writer,
        version=episode.version,
        sampling=_filters(episode),
        engine=episode.engine,
        use=use,
        logps_of=episode.logps_of,
        own=one.own,
        turns=_spans(turns, one, worth),
        part=part,
    )
    if any(mass is None for mass in masses):
        return found
    return replace(found, kept_mass=found.spread(number for mass in masses for number in mass or ()))


def _spans(turns: Sequence[Turn], one: Segment, worth: Earned) -> tuple[TurnSpan, ...]:
    """Return where each turn's action stands among the tokens of a stretch."""
    ends = [end for end, (now, after) in enumerate(pairwise((*one.turns, -1)), 1) if now != after]
    return tuple(TurnSpan(end - len(turn.action_ids), end, worth(turn)) for turn, end in zip(turns, ends, strict=True))


def _empty(episode: Episode) -> Rollout:
    """Return the response of an episode without a turn."""
    prompt = "" if episode.observation is None else untold(episode.observation)
    return Rollout(
        id=episode.id,
        number=episode.number,
        prompt=prompt,
        response="",
        prompt_ids=(),
        token_ids=(),
        logps=(),
        kept_mass=None,
        finish="length",
        writer=episode.writer,
        version=episode.version,
        sampling=_filters(episode),
        engine=episode.engine,
        use="compared",
        own=(),
    )


def _filters(episode: Episode) -> dict[str, Any]:
    return {name: episode.sampling[name] for name in ("temperature", "top_k", "top_p")}


def transcript(episode: Episode) -> str:
    """Return what was done and said behind the first observation, for readers and for judges of texts."""
    acts = [f"> {turn.action}" for turn in episode.turns[:1]]
    acts += [f"{_text(turn.observation)}\n> {turn.action}" for turn in episode.turns[1:]]
    return "\n".join(acts)


def _text(observation: Any) -> str:
    found: Text = untold(observation)
    return found if isinstance(found, str) else "\n".join(turn.content for turn in found)


def returns(number: int, rollouts: Sequence[Rollout]) -> list[float]:
    """Return the sum of the rewards of each response's episode, whichever part of it the response is: a judge."""
    sums: dict[tuple[str, int], float] = {}
    for one in rollouts:
        name = one.id, one.number
        sums[name] = sums.get(name, 0.0) + sum(turn.reward for turn in one.turns)
    return [sums[one.id, one.number] for one in rollouts]


def refuse_rewritten(episodes: Sequence[Episode], method: str) -> None:
    """Refuse episodes that are no single response: pairs would compare what was read in different contexts.

    Raises:
        UserError: names the first.
    """
    for one in episodes:
        if any(turn.starts_over for turn in one.turns):
            cut = any("cut_turns" in turn.info for turn in one.turns)
            why = "its oldest turns were left out (--when-full cut)" if cut else "the chat template rewrites the past"
            raise UserError(
                f"{one.id}, episode {one.number}: {why}, so that it is no single sequence, and method {method} "
                "compares whole episodes.",
                "Take a method that learns from advantages (--method rloo), whose episodes are split there, or another "
                "--chat-template.",
            )


def episode_numbers(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return what episodes have to say beside their returns, by name.

    One that was broken off has not succeeded; success is left out where episodes end and none says whether in success.
    """
    turns = [turn for one in episodes for turn in one.turns]
    says = any(one.success is not None for one in episodes) or not any(one.terminal for one in episodes)
    found = {
        "turns": len(turns) / len(episodes),
        "invalid": sum(bool(turn.info.get("invalid")) for turn in turns) / max(1, len(turns)),
        "over": sum(one.terminal for one in episodes) / len(episodes),
        "luck": sum(one.luck for one in episodes) / len(episodes),
        "failed": float(sum(one.error is not None for one in episodes)),
    }
    return found | ({"success": sum(one.success is True for one in episodes) / len(episodes)} if says else {})
