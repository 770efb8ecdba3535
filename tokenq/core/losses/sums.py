"""Weighted sums of losses, written as one would: `dpo+0.2*sft`.

Each loss of a sum is averaged as it is alone (over pairs, over tokens), then weighted and added.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tokenq.core.losses.inputs import INPUTS
from tokenq.core.losses.table import ALIASES, LOSSES, Loss, find_loss
from tokenq.core.losses.units import UNITS, Output, Unit
from tokenq.errors import UserError, nearest

_TERM = re.compile(r"(?:(?P<before>[0-9.eE+-]+)\s*\*\s*)?(?P<name>[A-Za-z_]\w*)(?:\s*\*\s*(?P<after>[0-9.eE+-]+))?")


class LossTerm(NamedTuple):
    """A loss in a sum.

    Attributes:
        name: what it is called there.
        loss: its row, parameters bound.
        weight: what it is multiplied with.
    """

    name: str
    loss: Loss
    weight: float


@dataclass(frozen=True)
class LossSum:
    """Losses that are added: one of weight 1 for a plain loss.

    Attributes:
        terms: the losses; those of single responses learn from the chosen, desirable or best ones of the others' data,
            of rated ones from those above the mean.
    """

    terms: tuple[LossTerm, ...]

    @property
    def unit(self) -> Unit:
        """The kind of row that the sum trains on: that of the losses which learn from no other."""
        units = [UNITS[term.loss.unit] for term in self.terms]
        return min(units, key=lambda unit: (unit.guest is not None, unit.name == "responses"))

    @property
    def selection(self) -> str:
        """The selection of the data that the sum needs: its kind of row, or pairs with something beside them."""
        asked = (term.loss.selection for term in self.terms if term.loss.selection != UNITS[term.loss.unit].asks)
        return next(asked, self.unit.asks)

    @property
    def output(self) -> Output:
        """The output of the model under training."""
        return self.terms[0].loss.output

    @property
    def reference(self) -> bool:
        """Whether any of the losses takes the reference's log-probs."""
        return any(term.loss.reference for term in self.terms)

    @property
    def has_strengths(self) -> bool:
        """Whether parts of a response may have strengths of their own in any of the losses."""
        return any(term.loss.has_strengths for term in self.terms)

    @property
    def has_weights(self) -> bool:
        """Whether tokens may have weights in one of the losses."""
        return any(term.loss.has_weights for term in self.terms)

    @property
    def coupled(self) -> bool:
        """Whether any of the losses must see all examples of a step at once."""
        return any(term.loss.coupled for term in self.terms)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that the losses train beside the policy."""
        given = [name for name in self.inputs if name in INPUTS and INPUTS[name].network]
        moved = {term.loss.network for term in self.terms}
        return (*given, *(moved - {"policy"} if "policy" in moved else ()))

    @property
    def inputs(self) -> dict[str, str]:
        """The inputs that the losses take besides log-probs, each with its source."""
        return {name: term.loss.source(name) for term in self.terms for name in term.loss.inputs}

    @property
    def beta(self) -> float:
        """The temperature at which rewards are reported: the first β among the losses of the policy, else 1."""
        own = [term for term in self.terms if term.loss.network == "policy"] or self.terms
        betas = [term.loss.parameters()["beta"] for term in own if "beta" in term.loss.parameters()]
        return betas[0] if betas else 1.0

    @property
    def metrics(self) -> list[str]:
        """The names of the losses among the metrics, in their order."""
        return ["loss"] if len(self.terms) == 1 else [f"loss/{term.name}" for term in self.terms]

    def parameters(self) -> dict[str, float | str]:
        """Return all parameters with their values, `name.parameter` where there are several losses."""
        found: dict[str, float | str] = {}
        for term in self.terms:
            prefix = f"{term.name}." if len(self.terms) > 1 else ""
            found |= {f"{prefix}{name}": value for name, value in term.loss.parameters().items()}
            found |= {f"{prefix}{name}": value for name, value in term.loss.choices().items()}
        return found


def alone(loss: Loss, name: str = "loss") -> LossSum:
    """Return a row of the table, or one of your own, as a sum of one."""
    return LossSum((LossTerm(name, loss, 1.0),))


def find_sum(text: str, parameters: Mapping[str, float | str] | None = None) -> LossSum:
    """Return the losses of a sum such as "dpo+0.2*sft", or the one that a name stands for.

    A parameter goes to every loss that has it, `name.parameter` to that loss alone.

    Args:
        text: names of losses, with weights, joined by +.
        parameters: values that replace defaults.

    Raises:
        UserError: what is no sum of losses; losses that cannot be added; a parameter that none of them has.
    """
    parts = [part.strip() for part in re.split(r"(?<![0-9.][eE])\+", text)]
    found = [_TERM.fullmatch(part) for part in parts]
    if not all(found):
        bad = next(part for part, match in zip(parts, found, strict=True) if not match)
        if len(parts) == 1 and "*" not in text:
            find_loss(text)
        raise UserError(f"Loss {text!r}: {bad!r} is no loss with a weight.", "Write for instance dpo+0.2*sft.")
    named = [(match["name"], _weight(text, match["before"] or match["after"])) for match in found if match]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UserError(f"Loss {text!r} has a term twice.", "Add their weights.")
    given = _shared_out(text, names, parameters or {})
    terms = tuple(LossTerm(name, find_loss(name, given[name]), weight) for name, weight in named)
    _check_addable(text, terms)
    return LossSum(terms)


def _check_addable(text: str, terms: tuple[LossTerm, ...]) -> None:
    """Refuse losses that one model and one pass over one data set cannot serve together."""
    if len({term.loss.output for term in terms}) > 1:
        raise UserError(
            f"Loss {text!r} adds a loss of a reward model to one of a policy.", "Train the two one after the other."
        )
    units = [UNITS[term.loss.unit] for term in terms]
    kinds_of = {unit.asks: unit.words for unit in units if unit.guest is None}
    if len(kinds_of) > 1:
        kinds = " and of ".join(sorted(kinds_of.values()))
        raise UserError(f"Loss {text!r} adds losses of {kinds}.", "Add losses that train on the same data.")
    inputs = [INPUTS[name] for term in terms for name in term.loss.inputs if name in INPUTS]
    reading = {one.reads: one.says for one in inputs if one.reads}
    if len(reading) > 1:
        says = " and ".join(reading.values())
        raise UserError(f"Loss {text!r} reads {says} off the vocabulary.", "Add only one loss that reads it.")


def _weight(text: str, given: str | None) -> float:
    try:
        weight = float(given or 1)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UserError(f"Loss {text!r}: {given!r} is no weight.", "Weights are numbers above 0.")
    return weight


def _shared_out(
    text: str, names: list[str], parameters: Mapping[str, float | str]
) -> dict[str, dict[str, float | str]]:
    """Return the parameters of each loss."""
    given: dict[str, dict[str, float | str]] = {name: {} for name in names}
    rows = {name: LOSSES.get(ALIASES.get(name, name)) for name in names}
    for parameter, value in parameters.items():
        owner, dot, own = parameter.rpartition(".")
        if dot and owner not in names:
            raise UserError(f"{parameter}: loss {owner!r} is no part of {text!r}.", f"It has {', '.join(names)}.")
        having = [name for name, row in rows.items() if row and own in {**row.parameters(), **row.choices()}]
        if not dot and len(names) > 1 and not having and all(rows.values()):
            known = {p: 0 for row in rows.values() if row for p in {**row.parameters(), **row.choices()}}
            close = nearest(parameter, list(known))
            guess = f"Did you mean {close!r}? " if close else ""
            raise UserError(
                f"No loss of {text!r} has a parameter {parameter!r}.", f"{guess}They have {', '.join(known)}."
            )
        for name in [owner] if dot else having or names:
            given[name][own] = value
    return given
