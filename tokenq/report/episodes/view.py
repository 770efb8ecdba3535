"""What a page shows of an episode: who said what, how deep tokens are coloured, values by turn, which turn lost it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenq.doctor.finding import shown
from tokenq.records.episodes import Episode, Told, Turn
from tokenq.report.doctor_page import Figure, Line, drawn_figure
from tokenq.report.figure_page import token_view
from tokenq.report.html import ShownToken, parts_of
from tokenq.runs.record import Series

LONGEST = 4000
"""Characters of an observation that are shown; the file has all of it."""

_DOTS = 60


class LostTurn(NamedTuple):
    """The turn at which an episode was lost, as far as models tell.

    Attributes:
        turn: its number, from 0.
        measure: what says so: "implicit value" or "surprisal".
        number: the fall of the implicit value, or −log π of the action in nats.
    """

    turn: int
    measure: str
    number: float


def lost_turn(episode: Episode) -> LostTurn | None:
    """Return the turn with the largest fall of the implicit value so far, else with the most surprising action.

    Where a reference was read, the value after turn t is Σ β log π/π_ref over the actions up to there. None for an
    episode without turns, and where that value never falls.
    """
    if not episode.turns:
        return None
    rewards = [_implicit(turn) for turn in episode.turns]
    known = [one for one in rewards if one is not None]
    if len(known) == len(rewards):
        turn = int(np.argmin(known))
        return LostTurn(turn, "implicit value", -known[turn]) if known[turn] < 0 else None
    surprisals = [-sum(turn.logps) for turn in episode.turns]
    turn = int(np.argmax(surprisals))
    return LostTurn(turn, "surprisal", surprisals[turn])


def _implicit(turn: Turn) -> float | None:
    return None if turn.implicit is None else sum(turn.implicit)


def episode_view(episode: Episode, place: int) -> dict[str, Any]:
    """Return everything that the page shows of an episode.

    Args:
        episode: what was played.
        place: its place among those that are shown, from 0.
    """
    lost = lost_turn(episode)
    deepest = max((abs(number) for turn in episode.turns for number in _heat(turn)), default=0.0)
    turns = [
        _turn(turn, number, deepest, lost if lost is not None and lost.turn == number else None, episode)
        for number, turn in enumerate(episode.turns)
    ]
    return {
        "place": place,
        "title": episode.id if not episode.number else f"{episode.id}, number {episode.number}",
        "outcome": _outcome(episode),
        "facts": _facts(episode),
        "figures": _figures(episode, lost),
        "instructions": episode.instructions,
        "tools": [str(_name(tool)) for tool in episode.tools],
        "turns": turns,
        "last": [] if episode.observation is None else _said(episode.observation),
        "error": episode.error,
    }


def episode_row(episode: Episode) -> list[str | int | float | None]:
    """Return the row of an episode in the table of the page."""
    lost = lost_turn(episode)
    said = "" if lost is None else f"turn {lost.turn + 1}: {_lost_words(lost)}"
    return [episode.id, _outcome(episode), episode.return_, len(episode.turns), episode.reason, said]


def _outcome(episode: Episode) -> str:
    return {True: "success", False: "failure", None: "over" if episode.terminal else "not over"}[episode.success]


def _facts(episode: Episode) -> list[tuple[str, str]]:
    tokens = sum(len(turn.action_ids) for turn in episode.turns)
    found = [("return", shown(episode.return_)), ("ended", episode.reason), ("turns", str(len(episode.turns)))]
    found += [("tokens", str(tokens)), ("seed", str(episode.seed))]
    return found + ([("luck", shown(episode.luck))] if episode.luck else [])


def _turn(turn: Turn, number: int, deepest: float, lost: LostTurn | None, episode: Episode) -> dict[str, Any]:
    implicit = _implicit(turn)
    notes = [f"reward {shown(turn.reward)}"] if turn.reward else []
    notes += [] if implicit is None else [f"implicit reward {shown(implicit)}"]
    notes.append(f"log π {shown(sum(turn.logps))}")
    marks = {"invalid": turn.info.get("invalid"), "cut": turn.finish == "length", "starts over": turn.starts_over}
    marks[f"{turn.info.get('cut_turns')} turns left out"] = "cut_turns" in turn.info
    return {
        "number": number + 1,
        "said": _said(turn.observation),
        "tokens": [token_view(token) for token in _tokens(turn, deepest)],
        "notes": notes,
        "marks": [name for name, is_so in marks.items() if is_so],
        "lost": None if lost is None else _lost_words(lost, blame=not episode.success),
    }


def _lost_words(lost: LostTurn, *, blame: bool = False) -> str:
    if lost.measure == "surprisal":
        return f"{'lost here, if surprise tells: ' * blame}most surprising action, {shown(lost.number)} nats"
    return f"{'lost here: ' * blame}largest fall of the implicit value, {shown(-lost.number)}"


def _heat(turn: Turn) -> Sequence[float]:
    """Return what colours stand for: implicit rewards, or log π where no reference was read."""
    return turn.logps if turn.implicit is None else turn.implicit


def _tokens(turn: Turn, deepest: float) -> list[ShownToken]:
    pieces = turn.pieces or tuple("" for _ in turn.action_ids)
    found = []
    for place, (piece, token, heat) in enumerate(zip(pieces, turn.action_ids, _heat(turn), strict=True)):
        ends = turn.finish == "stop" and place == len(turn.action_ids) - 1
        name = piece or ("EOS" if ends else f"#{token}")
        numbers = {"log π": turn.logps[place]}
        numbers |= {} if turn.implicit is None else {"implicit reward": turn.implicit[place]}
        said = ", ".join(f"{what} {number:+.4f}" for what, number in numbers.items())
        share = heat / deepest if deepest else 0.0
        found.append(ShownToken(name, parts_of(piece, name), share, said, written=True))
    return found


def _said(observation: Told) -> list[tuple[str, str]]:
    """Return what an environment said as (role, text); a text has no role."""
    turns = [{"role": "", "content": observation}] if isinstance(observation, str) else observation
    return [(str(one["role"]), _short(_text(one))) for one in turns]


def _text(message: Mapping[str, Any]) -> str:
    calls = [str(_name(call)) for call in message.get("tool_calls", ())]
    return "\n".join([str(message["content"]), *(f"calls {name}" for name in calls)]).strip("\n")


def _name(call: Mapping[str, Any]) -> Any:
    return (call.get("function") or call).get("name", "a tool")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + f" … and {len(text) - LONGEST:,} characters more"


def _figures(episode: Episode, lost: LostTurn | None) -> list[Figure]:
    """Return the curves over turns; point t is after t turns, and the turn that lost it has an upright line."""
    steps = np.arange(len(episode.turns) + 1, dtype=np.int64)

    def line(label: str, kind: str, numbers: Sequence[float]) -> Line:
        return Line(label, kind, Series(steps, np.cumsum([0.0, *numbers])))

    implicit = [one for turn in episode.turns if (one := _implicit(turn)) is not None]
    marks = [] if lost is None else [lost.turn + 1]
    value = [line("Σ β log π/π_ref", "first", implicit)] if implicit else []
    surprise = [line("Σ −log π, nats", "first", [-sum(turn.logps) for turn in episode.turns])]
    rewards = [turn.reward for turn in episode.turns]
    drawn = [
        drawn_figure("implicit value so far" if value else "surprisal so far", value or surprise, marks, dots=_DOTS),
        drawn_figure("return so far", [line("Σ r", "second", rewards)], dots=_DOTS) if any(rewards) else None,
    ]
    return [one for one in drawn if one is not None]
