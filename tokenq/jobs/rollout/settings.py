"""The settings of an online run with nothing left open: those of its method, and the loss that follows from them."""

from dataclasses import replace
from typing import Any

from tokenq.core.losses import LossSum, find_sum
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import CREDITS, resolved_credit
from tokenq.rollout.methods import OnlineMethod, find_method
from tokenq.training.defaults import loss_parameters, refuse_segments


def filled_in(config: OnlineConfig) -> tuple[OnlineConfig, OnlineMethod]:
    """Return the settings with those of the method where none were given, and the method's row as it is then used."""
    row = find_method(config.method)
    moves = row.reference_moves if config.reference_moves == "auto" else config.reference_moves
    used: dict[str, Any] = {
        "samples": config.samples_of_prompt,
        "max_new_tokens": config.tokens_of_response,
        "temperature": config.sampling_temperature,
        "batch_size": config.examples_of_step,
        "replay": config.replayed_share,
        "judge": config.judged_by,
        "reference_moves": moves,
    }
    if config.environment is not None and config.max_turns is None:
        used["max_turns"] = find_environment(config.environment).max_turns
    config = replace(config, **used)
    return replace(config, **_OF_LEARNING[row.learns](config, row)), row._replace(reference_moves=moves)


def _pair_settings(config: OnlineConfig, row: OnlineMethod) -> dict[str, Any]:
    own = config.loss == "auto"
    return {
        "loss": row.loss if own else config.loss,
        "loss_options": {**(row.options if own else {}), **config.loss_options},
        "beta": row.beta if own and config.beta is None and "beta" not in config.loss_options else config.beta,
        "pairs": row.pairing if config.pairs == "auto" else config.pairs,
    }


def _gradient_settings(config: OnlineConfig, row: OnlineMethod) -> dict[str, Any]:
    """Return the credit with nothing left open, and the loss with the terms that it asks for.

    Raises:
        UserError: the loss has a KL penalty, and so have the rewards.
    """
    found = resolved_credit(config, row.settings)
    loss = row.loss if config.loss == "auto" else config.loss
    beta = (config.beta or row.beta) if found["kl"] != "none" else None
    asked = find_sum(loss)
    _refuse_other(loss, asked, row)
    names = [term.name for term in asked.terms]
    penalised = any(name.startswith("kl_") for name in names)
    if found["kl"] == "reward" and penalised:
        raise UserError(
            f"Loss {loss!r} has a KL penalty, and --kl reward puts another into the rewards.",
            "Give --kl none to keep the loss as it is.",
        )
    if found["kl"] == "loss" and not penalised:
        loss += f"+{beta:g}*kl_{found['kl_estimator']}"
    if config.loss == "auto" and CREDITS[found["credit"]].valued:
        loss += f"+{VALUE_WEIGHT:g}*value"
    sized = any(name.rpartition(".")[2] == "length" for name in find_sum(loss).parameters())
    options = {"length": f"{config.tokens_of_response * (config.max_turns or 1)}"} if sized else {}
    return {**found, "loss": loss, "loss_options": {**options, **config.loss_options}, "beta": beta}


def _weight_settings(config: OnlineConfig, row: OnlineMethod) -> dict[str, Any]:
    return {"loss": row.loss if config.loss == "auto" else config.loss}


_OF_LEARNING = {"pairs": _pair_settings, "advantages": _gradient_settings, "weights": _weight_settings}

VALUE_WEIGHT = 0.5
"""Of the value network's loss beside the policy's; they share no weight, so that it only scales a learning rate."""


def loss_of(config: OnlineConfig, method: OnlineMethod) -> LossSum:
    """Return the loss of settings that are filled in: --beta is a parameter of a loss of pairs, else in its text."""
    parameters = loss_parameters(config) if method.learns == "pairs" else dict(config.loss_options)
    return find_sum(config.loss, parameters)


_GIVEN = {
    "pairs": ("calibration", "overlaps"),
    "advantages": ("old_logps", "advantages", "returns", "old_values", "values", "outcomes"),
    "weights": ("old_logps", "target_weights", "candidates"),
}
"""Inputs of losses that a round gives, or that the policy itself does."""


def refuse_loss(config: OnlineConfig, loss: LossSum, method: OnlineMethod) -> None:
    """Refuse a loss that does not learn from what a round ends in.

    Raises:
        UserError: says what it needs.
    """
    _refuse_other(config.loss, loss, method)
    refuse_segments(config, loss)
    for name in loss.inputs:
        if name not in _GIVEN[method.learns]:
            hint = f"Take another loss of {method.learns}."
            raise UserError(f"Loss {config.loss!r} reads {name}, which no round gives.", hint)
    if loss.selection == "calibrated" and not method.calibrates:
        raise UserError(
            f"Loss {config.loss!r} needs responses to calibrate on, and --method {config.method} writes none.",
            "Take --method selm, vpo or xpo, or --loss-options calibration=rejected.",
        )
    valued = "values" in loss.networks
    if method.learns == "advantages" and CREDITS[config.credit].valued != valued:
        lacks = f"reads a value network, and loss {config.loss!r} trains none"
        idle = f"reads no value network, and loss {config.loss!r} trains one"
        hint = "Take --credit group, or leave the value out." if valued else "Add +0.5*value to the loss."
        raise UserError(f"--credit {config.credit} {idle if valued else lacks}.", hint)


def _refuse_other(text: str, loss: LossSum, method: OnlineMethod) -> None:
    """Refuse a loss of another kind of row, or of a reward model."""
    if loss.output != "logps" or loss.unit.asks != UNITS_OF[method.learns]:
        raise UserError(f"Loss {text!r} does not learn from {method.learns}.", _TAKE[method.learns])


UNITS_OF = {"pairs": "pairs", "advantages": "rollouts", "weights": "weighted"}
"""What losses ask of the data, by what a method learns from."""

_TAKE = {
    "pairs": "Take one that does: dpo, ipo, simpo, …",
    "advantages": "Take one that does: reinforce, rloo, grpo, ppo, …",
    "weights": "Take steerlm, alone or in a sum with sft.",
}
