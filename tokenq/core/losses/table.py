"""Every loss by name, in one table, and how a name with its options becomes a loss.

A loss is one function and one row. Its positional arguments are the log-probs of the policy, those of the reference
where the row says so, and the row's inputs in their order; its keyword-only arguments are its parameters.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from tokenq.core.losses import (
    anchored,
    divergences,
    dro,
    lengths,
    pairs,
    policy_gradient,
    ranking,
    reference_free,
    rewards,
    single,
    token_level,
    value,
)
from tokenq.core.losses.inputs import INPUTS, Scene
from tokenq.core.losses.metrics import Sums, policies, prms, values, weights
from tokenq.core.losses.units import UNITS, Output
from tokenq.errors import UserError, nearest, unknown_name


class Limit(NamedTuple):
    """The values that a parameter may have.

    Attributes:
        allows: whether it may be so.
        says: the same in words.
    """

    allows: Callable[[float], bool]
    says: str


_POSITIVE = Limit(lambda value: value > 0, "above 0")
_WEIGHT = Limit(lambda value: value >= 0, "0 or more")
_SHARE = Limit(lambda value: 0 <= value <= 1, "in [0, 1]")
_ANY = Limit(lambda value: True, "a number")

LIMITS: dict[str, Limit] = {
    "beta": _POSITIVE,
    "tau": _POSITIVE,
    "scale": _POSITIVE,
    "label_smoothing": Limit(lambda value: 0 <= value <= 0.5, "a flip probability in [0, 0.5]"),
    **dict.fromkeys(("alpha", "gamma", "penalty", "odds_weight", "sft_weight", "mu"), _WEIGHT),
    **dict.fromkeys(("length", "cap", "clip", "clip_high"), _POSITIVE),
    "clip_low": Limit(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    **dict.fromkeys(("desirable_weight", "undesirable_weight", "centre_weight"), _WEIGHT),
}
"""Limits of parameters by name, in every loss that sets none of its own; others may be any number."""


class Loss(NamedTuple):
    """A row of the table.

    Attributes:
        function: called with the policy's log-probs, the reference's where `reference` is True, the inputs in their
            order, and its parameters. Rewards take the place of log-probs where `output` says so: those of chosen and
            rejected responses for pairs, one argument otherwise.
        unit: what one value of the loss stands for, a key of `UNITS`.
        reference: whether the function takes the reference's log-probs.
        inputs: what it takes besides, keys of `INPUTS` or names of columns.
        sources: where an input comes from that has several sources, by input; the input's first source otherwise.
        coupled: whether a value depends on the other examples of the step, which are then shown to it all at once.
        limits: of its parameters, where these differ from `LIMITS`.
        output: what the model under training gives.
        network: whose log-probs it takes as the policy's, and moves: the policy's own, or those of a process reward
            model that stands beside it; where no other loss trains the policy, that is one itself.
        metrics: (scene, parameters and sources) → numbers of this loss beside those of its kind of row.
        by_segment: whether strengths by segment scale the log-probs that it takes, as they do a loss of β log π/π_ref;
            None: where it takes a reference.
        stepwise: whether it compares action n of one response with action n of another.
        by_turn: whether it tells turns apart by what lies between them, so that no token of one may be left out.
    """

    function: Callable[..., Tensor]
    unit: str
    reference: bool
    inputs: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}
    coupled: bool = False
    limits: Mapping[str, Limit] = {}
    output: Output = "logps"
    network: Literal["policy", "prm"] = "policy"
    metrics: Callable[[Scene, Mapping[str, Any]], Sums] = lambda scene, parameters: {}
    by_segment: bool | None = None
    stepwise: bool = False
    by_turn: bool = False

    @property
    def has_strengths(self) -> bool:
        """Whether parts of a response may have strengths of their own in it."""
        return self.reference if self.by_segment is None else self.by_segment

    @property
    def has_weights(self) -> bool:
        """Whether tokens may have weights in it."""
        return self.unit == "pairs" and self.output == "logps" and not (self.by_turn or self.stepwise)

    def seen(self, scene: Scene) -> Scene:
        """Return a batch as this loss sees it: log-probs at the strengths of segments and the weights of tokens."""
        scaled = scene.scaled(self.parameters().get("beta", 1.0)) if self.has_strengths else scene
        return scaled.weighted() if self.has_weights else scaled

    def parameters(self) -> dict[str, float]:
        """Return the keyword parameters with their values."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    def choices(self) -> dict[str, str]:
        """Return the inputs that have several sources, with the one that is taken."""
        return {name: self.source(name) for name in self.inputs if len(sources_of(name)) > 1}

    def shown(self, scene: Scene) -> Sums:
        """Return the metrics of this loss."""
        return self.metrics(self.seen(scene), {**self.parameters(), **self.choices()})

    def source(self, name: str) -> str:
        """Return the source of an input."""
        return self.sources.get(name, next(iter(sources_of(name))))

    def given(self, scene: Scene, rows: Tensor) -> list[Any]:
        """Return the inputs of a batch in the order in which the function takes them, given the responses it sees."""
        return [
            INPUTS[name].sources[self.source(name)](scene)
            if name in INPUTS
            else UNITS[self.unit].column(scene.actions, scene.padded(name), rows)
            for name in self.inputs
        ]

    @property
    def selection(self) -> str:
        """The selection of the data that this loss needs: its kind of row, or pairs with something beside them."""
        asked = (INPUTS[name].selections.get(self.source(name)) for name in self.inputs if name in INPUTS)
        return next((one for one in asked if one), UNITS[self.unit].asks)


def sources_of(name: str) -> Mapping[str, Any]:
    """Return the sources of an input: the data alone for one that is a column of it."""
    return INPUTS[name].sources if name in INPUTS else {"data": None}


_FLIPS = {"label_smoothing": Limit(lambda value: 0 <= value < 0.5, "a flip probability in [0, 0.5)")}
_TARGET = {"label_smoothing": Limit(lambda value: 0 < value <= 0.5, "above 0 and at most 0.5")}
_CLIP = Limit(lambda value: 0 < value < 1, "between 0 and 1")
_INSIDE = {"alpha": Limit(lambda value: 0 < value < 1, "between 0 and 1")}


def _rollouts(function: Callable[..., Tensor], unit: str, metrics: Callable[..., Sums]) -> Loss:
    return Loss(function, unit, reference=False, inputs=("old_logps", "advantages"), metrics=metrics)


def _critic(function: Callable[..., Tensor], *columns: str) -> Loss:
    return Loss(
        function,
        "actions",
        reference=False,
        inputs=("values", *columns),
        sources={"values": "tokens"},
        metrics=values.values_of_returns,
    )


LOSSES: dict[str, Loss] = {
    "sft": Loss(single.sft, "responses", reference=False),
    "dpo": Loss(pairs.dpo, "pairs", reference=True),
    "sigmoid_norm": Loss(pairs.sigmoid_norm, "pairs", reference=True),
    "cdpo": Loss(pairs.cdpo, "pairs", reference=True),
    "robust": Loss(pairs.robust, "pairs", reference=True, limits=_FLIPS),
    "ipo": Loss(pairs.ipo, "pairs", reference=True),
    "ipo_sum": Loss(pairs.ipo_sum, "pairs", reference=True),
    "hinge": Loss(pairs.hinge, "pairs", reference=True),
    "exo": Loss(pairs.exo, "pairs", reference=True, limits=_TARGET),
    "discopop": Loss(pairs.discopop, "pairs", reference=True),
    "dpop": Loss(anchored.dpop, "pairs", reference=True),
    "cal_dpo": Loss(anchored.cal_dpo, "pairs", reference=True),
    "nca": Loss(anchored.nca, "pairs", reference=True),
    "sppo": Loss(anchored.sppo, "pairs", reference=True),
    "apo_zero": Loss(anchored.apo_zero, "pairs", reference=True),
    "apo_down": Loss(anchored.apo_down, "pairs", reference=True),
    "bco_pair": Loss(anchored.bco_pair, "pairs", reference=True),
    "r_dpo": Loss(lengths.r_dpo, "pairs", reference=True),
    "ld_dpo": Loss(lengths.ld_dpo, "pairs", reference=True, limits={"alpha": _SHARE}),
    "fdpo_forward_kl": Loss(divergences.fdpo_forward_kl, "pairs", reference=True),
    "fdpo_js": Loss(divergences.fdpo_js, "pairs", reference=True),
    "fdpo_alpha": Loss(divergences.fdpo_alpha, "pairs", reference=True, limits=_INSIDE),
    "simpo": Loss(reference_free.simpo, "pairs", reference=False, by_segment=True),
    "orpo": Loss(reference_free.orpo, "pairs", reference=False),
    "cpo": Loss(reference_free.cpo, "pairs", reference=False),
    "aot": Loss(ranking.aot, "pairs", reference=True, coupled=True),
    "aot_unpaired": Loss(ranking.aot_unpaired, "pairs", reference=True, coupled=True),
    "tdpo1": Loss(token_level.tdpo1, "pairs", reference=True, inputs=("ref_kls",)),
    "tdpo2": Loss(token_level.tdpo2, "pairs", reference=True, inputs=("ref_kls",)),
    "step_dpo": Loss(token_level.step_dpo, "pairs", reference=True, inputs=("steps",)),
    "dmpo": Loss(token_level.dmpo, "pairs", reference=True, limits={"gamma": _INSIDE["alpha"]}, by_turn=True),
    "d3po": Loss(token_level.d3po, "pairs", reference=True, limits={"clip": _CLIP}, stepwise=True),
    "wpo": Loss(token_level.wpo, "pairs", reference=True, inputs=("overlaps",)),
    "vpo_offline": Loss(value.vpo_offline, "pairs", reference=True, inputs=("calibration",)),
    "vpo_online": Loss(value.vpo_online, "pairs", reference=True, inputs=("calibration",)),
    "selm": Loss(value.vpo_online, "pairs", reference=True, inputs=("calibration",), sources={"calibration": "given"}),
    "xpo": Loss(value.xpo, "pairs", reference=True, inputs=("calibration",), sources={"calibration": "given"}),
    "kto": Loss(single.kto, "labelled", reference=True, inputs=("labels", "mismatched"), coupled=True),
    "bco": Loss(single.bco, "labelled", reference=True, inputs=("labels",), coupled=True),
    "ce": Loss(single.ce, "labelled", reference=True, inputs=("labels",)),
    "implicit_prm": Loss(
        single.implicit_prm, "outcomes", True, ("outcomes",), network="prm", metrics=prms.outcome_metrics
    ),
    "dro": Loss(dro.dro, "rewarded", reference=True, inputs=("rewards", "values"), metrics=values.values_of_rewards),
    "reinforce": Loss(policy_gradient.reinforce, "rollouts", reference=False, inputs=("advantages",)),
    "rloo": _rollouts(policy_gradient.rloo, "rollouts", policies.clipped_responses),
    "grpo": _rollouts(policy_gradient.grpo, "rollouts", policies.clipped_tokens),
    "dr_grpo": _rollouts(policy_gradient.dr_grpo, "rollouts", policies.clipped_tokens),
    "gspo": _rollouts(policy_gradient.gspo, "rollouts", policies.clipped_means),
    "ppo": _rollouts(policy_gradient.ppo, "actions", policies.clipped_tokens),
    "dapo": _rollouts(policy_gradient.dapo, "actions", policies.clipped_tokens),
    "cispo": _rollouts(policy_gradient.cispo, "actions", policies.capped_tokens),
    "value": _critic(policy_gradient.value, "returns"),
    "clipped_value": _critic(policy_gradient.clipped_value, "returns", "old_values"),
    "kl_k1": Loss(policy_gradient.kl_k1, "actions", reference=True, by_segment=False),
    "kl_k2": Loss(policy_gradient.kl_k2, "actions", reference=True, by_segment=False),
    "kl_k3": Loss(policy_gradient.kl_k3, "actions", reference=True, by_segment=False),
    "steerlm": Loss(ranking.steerlm, "weighted", False, ranking.WEIGHED, metrics=weights.effective_numbers),
    "plackett_luce": Loss(ranking.plackett_luce, "ranked", reference=True, inputs=("rankings",)),
    "bradley_terry": Loss(rewards.bradley_terry, "pairs", reference=False, output="rewards"),
    "margin_bradley_terry": Loss(
        rewards.margin_bradley_terry,
        "pairs",
        reference=False,
        inputs=("margin",),
        limits={"scale": _WEIGHT},
        output="rewards",
    ),
    "scaled_bradley_terry": Loss(
        rewards.scaled_bradley_terry, "pairs", reference=False, inputs=("margin",), output="rewards"
    ),
    "regression": Loss(rewards.regression, "rated", reference=False, inputs=("ratings",), output="rewards"),
    "process": Loss(rewards.process, "steps", reference=False, inputs=("step_labels",), output="rewards"),
}

_FEW = 8
"""So many losses are named that have a parameter which this one lacks; β is no help."""

ALIASES = {
    "sigmoid": "dpo",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "sppo_hard": "sppo",
    "slic": "hinge",
    "prm": "process",
    "bnpo": "ppo",
}
"""Spellings of TRL and others where they differ."""


def find_loss(name: str, parameters: Mapping[str, float | str] | None = None) -> Loss:
    """Return the row of `name` with its parameters bound.

    Args:
        name: a key of `LOSSES`, or another trainer's spelling of one.
        parameters: values that replace defaults; a parameter that is an input's name chooses its source.

    Raises:
        UserError: for an unknown loss, a parameter that this loss does not have, or a value that it cannot have.
    """
    canonical = ALIASES.get(name, name)
    if canonical not in LOSSES:
        raise unknown_name("loss", name, [*LOSSES, *ALIASES])
    return bind(name, LOSSES[canonical], parameters or {})


def bind(name: str, loss: Loss, parameters: Mapping[str, float | str]) -> Loss:
    """Return a row with some of its parameters bound; see `find_loss`.

    Args:
        name: what messages call it.
        loss: the row.
        parameters: values that replace defaults.
    """
    if loss.unit not in UNITS:
        raise unknown_name(f"kind of row of loss {name!r}", loss.unit, UNITS)
    bound: dict[str, float] = {}
    sources = dict(loss.sources)
    for parameter, given in parameters.items():
        if parameter in loss.choices():
            options = INPUTS[parameter].sources
            if given not in options:
                raise unknown_name(f"source of {parameter}", str(given), options)
            sources[parameter] = str(given)
        elif parameter in loss.parameters():
            bound[parameter] = _number(name, loss, parameter, given)
        else:
            raise _no_parameter(name, loss, parameter)
    function = functools.partial(loss.function, **bound) if bound else loss.function
    return loss._replace(function=function, sources=sources)


def _number(name: str, loss: Loss, parameter: str, given: Any) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise UserError(f"{parameter} of loss {name!r} takes a number, not {given!r}.", "Give a number.") from None
    limit = loss.limits.get(parameter, LIMITS.get(parameter, _ANY))
    if not math.isfinite(number):
        raise UserError(f"{parameter} of loss {name!r} is {number:g}.", "Give a finite number.")
    if not limit.allows(number):
        raise UserError(f"{parameter} = {number:g}, but in loss {name!r} it must be {limit.says}.", "Change the value.")
    return number


def _no_parameter(name: str, loss: Loss, parameter: str) -> UserError:
    known = [*loss.parameters(), *loss.choices()]
    takes = f"It takes {', '.join(known)}." if known else "It takes no parameters."
    close = nearest(parameter, known)
    guess = f"Did you mean {close!r}? " if close else ""
    owners = [other for other, row in LOSSES.items() if parameter in {**row.parameters(), **row.choices()}]
    few = 0 < len(owners) <= _FEW
    elsewhere = f" Losses with {parameter}: {', '.join(owners)}." if few else ""
    return UserError(f"Loss {name!r} has no parameter {parameter!r}.", f"{guess}{takes}{elsewhere}")
