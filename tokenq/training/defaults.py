"""Settings that are chosen by the kind of training where none are given; docs/train.md has them as a table."""

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from tokenq.core.losses import LossSum, find_sum
from tokenq.errors import UserError
from tokenq.training.config import TrainConfig


class Rates(NamedTuple):
    """Peak learning rates to start from.

    Attributes:
        full: where all weights are trained.
        adapter: where an adapter is, which begins at zero and takes about fifty times as much.
    """

    full: float
    adapter: float


LEARNING_RATES: dict[str, Rates] = {
    "demonstrations": Rates(1e-5, 2e-4),
    "preferences": Rates(1e-6, 5e-5),
    "reward model": Rates(1e-5, 1e-4),
    "image model": Rates(1e-5, 1e-4),
}
"""By what is learnt from, or what is trained."""


STEPS_BETWEEN_CHECKPOINTS = 500
"""Of a stream, which has no epochs that end."""


MIXUP_ALPHA = 0.6
"""Of a reference that moves: TRL's."""


def image_rate(config: TrainConfig) -> float:
    """Return the peak learning rate of an image model where none is given."""
    rates = LEARNING_RATES["image model"]
    return rates.adapter if config.lora_rank else rates.full


def loss_parameters(config: TrainConfig) -> dict[str, float | str]:
    """Return the parameters of the loss that were given; β is a segment's where nothing else gives it."""
    if config.beta is not None and "beta" in config.loss_options:
        raise UserError("beta is given twice: --beta and --loss-options beta.", "Give one of them.")
    beta = config.beta
    if beta is None and config.segments and find_sum(config.loss).has_strengths:
        beta = config.segment_beta()
    return {**({} if beta is None else {"beta": beta}), **config.loss_options}


def kind_of(loss: LossSum) -> str:
    """Return the key of `LEARNING_RATES` that a loss belongs to."""
    if loss.output == "rewards":
        return "reward model"
    return "demonstrations" if loss.unit.name == "responses" else "preferences"


def adapts(config: TrainConfig) -> bool:
    """Return whether an adapter is trained, and not all weights."""
    return config.lora_rank > 0 or config.adapter is not None


_NETWORKS = {
    "values": ("--value-learning-rate", "value network", "Leave it out, or add a value to the loss: ppo+0.5*value."),
    "image": ("--image-learning-rate", "image model", "Leave it out, or name one: --image-model PIPELINE."),
    "prm": ("--prm-learning-rate", "process reward model", "Leave it out, or add it to the loss: ppo+implicit_prm."),
}
"""Flag of the learning rate of a network, what it is, and how it comes to be trained, by the network's name."""


def own_rates(config: TrainConfig) -> dict[str, float]:
    """Return the peak learning rates that networks beside the policy have of their own, by the network's name."""
    given = {
        "values": config.value_learning_rate,
        "prm": config.prm_learning_rate,
        "image": config.image_learning_rate,
    }
    return {name: rate for name, rate in given.items() if rate is not None}


def refuse_segments(config: TrainConfig, loss: LossSum) -> None:
    """Refuse strengths by segment of a loss that takes none.

    Raises:
        UserError: names the loss.
    """
    if config.segments and not loss.has_strengths:
        hint = "Leave it out, or take a loss of log-ratios (dpo); docs/train.md says which have strengths."
        raise UserError(f"--segments is given, and loss {config.loss!r} has no strengths by segment.", hint)


def with_defaults(config: TrainConfig, loss: LossSum, beside: Collection[str] = ()) -> TrainConfig:
    """Return the settings with those that depend on the kind of training filled in.

    Args:
        config: what was asked for.
        loss: says what is learnt from.
        beside: networks that are trained beside the policy, besides those of the loss.

    Raises:
        UserError: a network that the loss does not train has a learning rate.
    """
    for name in own_rates(config):
        if name not in {*loss.networks, *beside}:
            flag, what, hint = _NETWORKS[name]
            raise UserError(f"{flag} is given, and loss {config.loss!r} trains no {what} beside the policy.", hint)
    if config.beta is None and config.segments and loss.has_strengths and "beta" not in config.loss_options:
        config = replace(config, beta=config.segment_beta())
    if config.streaming and config.save_steps is None:
        config = replace(config, save_steps=STEPS_BETWEEN_CHECKPOINTS)
    if config.reference_sync_steps is not None and config.reference_mixup_alpha is None:
        config = replace(config, reference_mixup_alpha=1.0 if adapts(config) else MIXUP_ALPHA)
    if config.learning_rate is not None:
        return config
    rates = LEARNING_RATES[kind_of(loss)]
    return replace(config, learning_rate=rates.adapter if adapts(config) else rates.full)
