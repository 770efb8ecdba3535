"""Episodes with an environment, as `tokenq play` and online rounds write them."""

from collections.abc import Mapping
from typing import Any

from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import ParsedRow
from tokenq.data.turns import BadRow
from tokenq.records.examples import Action, Message, Response


def read_episode(values: Values) -> ParsedRow:
    """Read an episode: the first observation is the prompt, actions and what was said between them the response.

    Its score is the return, less the luck that the environment knows of: with answers that are drawn, preferences by
    return alone do not lead to the optimum.
    """
    turns = cells.items(values, "turns")
    if values.get("error") is not None or not turns:
        return ParsedRow((Message("user", ""),), (Response(""),), undecided="episode that failed")
    instructions = values.get("instructions")
    system = (Message("system", instructions),) if isinstance(instructions, str) and instructions else ()
    said = [_said(turn, place) for place, turn in enumerate(turns)]
    content = [turn for place, turn in enumerate(turns) for turn in (*(said[place] if place else ()), _done(turn))]
    luck = cells.number(values.get("luck"), "luck") or 0.0
    score = cells.reward(values["return"], "return") - luck
    return ParsedRow((*system, *said[0]), (Response(tuple(content), score=score),))


def is_episode(values: Values) -> bool:
    """Return whether turns are observations and actions."""
    turns = cells.listed(values["turns"])
    return isinstance(turns, list) and all(isinstance(one, Mapping) and "observation" in one for one in turns)


def _said(turn: Any, place: int) -> tuple[Message, ...]:
    observation = turn.get("observation") if isinstance(turn, Mapping) else None
    if isinstance(observation, str):
        return (Message("user", observation),)
    if isinstance(observation, list) and observation:
        return cells.turns({"observation": observation}, "observation")
    raise BadRow("a turn without an observation", f"turn {place + 1} has no observation")


def _done(turn: Mapping[str, Any]) -> Action:
    action, ids = turn.get("action"), turn.get("action_ids") or ()
    if not isinstance(action, str):
        raise BadRow("a turn without an action", "an action is no text")
    return Action("assistant", action, token_ids=tuple(map(int, ids)))
