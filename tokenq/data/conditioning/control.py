"""The control string: attributes with the levels asked for, in the prompt. The only place that writes one.

A policy that learns from responses behind their own ratings writes what has the ratings that it is asked for (SteerLM,
arXiv 2310.05344, 2406.08673). `[helpfulness: 4, verbosity: 2]` stands last in the prompt, where nothing cuts it: of a
text before the blanks at its end, of a conversation at the end of the last user's turn. Which attributes, and on which
scale, is a part of the policy as its chat template is: its tokenizer says so, and goes wherever the policy goes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenq.data.turns import BadRow
from tokenq.errors import UserError, nearest, unknown_name
from tokenq.records.examples import Message, Text

Levels = Mapping[str, int]
"""The level of each attribute, in the order of the control string."""

_KEY = "tokenq_control"
"""Where `tokenizer_config.json` has it."""


@dataclass(frozen=True)
class Control:
    """The attributes that a policy can be asked for.

    Attributes:
        attributes: their names, in the order of the control string.
        low: the least level.
        high: the greatest.
    """

    attributes: tuple[str, ...]
    low: int = 0
    high: int = 4

    @property
    def levels(self) -> int:
        """How many levels an attribute has."""
        return self.high - self.low + 1

    def asked(self, given: Mapping[str, float]) -> dict[str, int]:
        """Return the levels that somebody asks for.

        Args:
            given: NAME → level, as flags or Python give them; attributes may be missing.

        Raises:
            UserError: an attribute that the policy does not know, or a level that there is not.
        """
        for name in given:
            if name not in self.attributes:
                raise unknown_name("attribute in --condition", name, self.attributes)
        return {name: self._level(name, given[name]) for name in self.attributes if name in given}

    def rated(self, ratings: Mapping[str, Any], fixed: Levels, where: str = "the row") -> dict[str, int] | None:
        """Return the level of every attribute: what is asked for, else what a row says, as the nearest whole number.

        Args:
            ratings: of the row.
            fixed: what is asked for whatever the row says.
            where: what the row is called.

        Returns:
            None where the row does not rate one of them.

        Raises:
            BadRow: a rating that is not on the scale.
        """
        found = dict[str, int]()
        for name in self.attributes:
            value = fixed.get(name, ratings.get(name))
            if value is None or (isinstance(value, float) and math.isnan(value)):
                return None
            if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
                said = f"{value:g}" if isinstance(value, int | float) else repr(value)
                raise BadRow(
                    "a rating outside its scale", f"{name} is {said}, and its scale is {self.low} to {self.high}"
                )
            found[name] = math.floor(value + 0.5)
        return found

    def lacking(self, ratings: Mapping[str, Any], fixed: Levels) -> list[str]:
        """Return the attributes of which neither the row nor anybody else says a level."""
        return [name for name in self.attributes if name not in fixed and ratings.get(name) is None]

    def _level(self, name: str, given: float) -> int:
        level = given if isinstance(given, int | float) else math.nan  # Python may give anything
        if not self.low <= level <= self.high or level != int(level):
            said = f"{level:g}" if level == level else repr(given)
            raise UserError(
                f"--condition {name}={said}: levels are whole numbers from {self.low} to {self.high}.",
                f"That is the scale on which the policy was trained: {name}={self.high} asks for most of it.",
            )
        return int(level)


def control_text(levels: Levels) -> str:
    """Return the control string of some levels."""
    return f"[{', '.join(f'{name}: {level}' for name, level in levels.items())}]"


def with_control(prompt: Text, levels: Levels) -> Text:
    """Return a prompt with the control string of some levels, itself where there are none.

    Raises:
        BadRow: a conversation without a user's turn.
    """
    if not levels:
        return prompt
    if isinstance(prompt, str):
        said = prompt.rstrip()
        return f"{said}{' ' if said else ''}{control_text(levels)}{prompt[len(said) :]}"
    users = [place for place, turn in enumerate(prompt) if turn.role == "user"]
    if not users:
        raise BadRow("no user's turn", "the conversation has no user's turn to ask for attributes in")
    last: Message = prompt[users[-1]]
    asked = replace(last, content=f"{last.content}\n\n{control_text(levels)}")
    return (*prompt[: users[-1]], asked, *prompt[users[-1] + 1 :])


def checked_control(attributes: Sequence[str], scale: Sequence[float]) -> Control | None:
    """Return the control of a training's settings, None where none is asked for.

    Raises:
        UserError: a name that cannot be told from the rest of the string, one twice, or a scale that is none.
    """
    if not attributes:
        if scale:
            raise UserError("--condition-scale is given without --condition-on.", "Name the ratings to condition on.")
        return None
    for name in attributes:
        if not name.strip() or name != name.strip() or any(mark in name for mark in "[]:,=\n"):
            raise UserError(f"--condition-on {name!r}: a name has none of [ ] : , = in it.", "Rename the column.")
    if len(set(attributes)) < len(attributes):
        raise UserError("--condition-on names an attribute twice.", "Each stands once in the control string.")
    low, high = scale if len(scale) == 2 else (0, 0 if scale else 4)
    if not low < high <= low + _MOST_LEVELS or low != int(low) or high != int(high):
        raise UserError(
            f"--condition-scale {' '.join(f'{one:g}' for one in scale)} is no scale.",
            "Give the least and the greatest rating, whole numbers: --condition-scale 1 5.",
        )
    return Control(tuple(attributes), int(low), int(high))


_MOST_LEVELS = 100


def marked(tokenizer: Any, control: Control | None) -> Any:
    """Return a tokenizer that says, wherever it is saved, what its policy can be asked for, or that it is nothing."""
    if control is None:
        tokenizer.init_kwargs.pop(_KEY, None)
    else:
        told = {"attributes": list(control.attributes), "low": control.low, "high": control.high}
        tokenizer.init_kwargs[_KEY] = told
    return tokenizer


def control_of(tokenizer: Any) -> Control | None:
    """Return what the policy of a tokenizer can be asked for, None where that is nothing."""
    found = tokenizer.init_kwargs.get(_KEY)
    return None if found is None else Control(tuple(found["attributes"]), int(found["low"]), int(found["high"]))


def lacks_levels(control: Control, lacking: Sequence[str], columns: Sequence[str]) -> BadRow:
    """Return the problem of a row of which nobody says which level of an attribute is asked for."""
    name = lacking[0]
    hint = nearest(name, columns)
    asked = " ".join(f"{one}={control.high}" for one in lacking)
    return BadRow(
        "a level is missing",
        f"nothing says which {name} is asked for, and the policy was trained to be told",
        f"Ask for it: --condition {asked}. Or give the rows a column of that name."
        + (f" (There is a column {hint!r}.)" if hint else ""),
    )
