"""The model that a training starts from, a policy or a reward model, and the data in its form."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from tokenq.core.losses import LossSum
from tokenq.core.losses.units import Output
from tokenq.core.packing import at_own_state
from tokenq.data.streams.groups import TokenStream
from tokenq.jobs.training.data import TrainingRows, output_names, with_inputs
from tokenq.jobs.training.token_weights import Weighting
from tokenq.listener import Listener
from tokenq.models.classifier import load_classifier
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.proof_cache import proven
from tokenq.models.forward.reward_lm import REWARDS, RewardLM
from tokenq.models.load import ModelSpec, add_lora, load_model, load_whole
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import each
from tokenq.training.config import TrainConfig
from tokenq.training.objective import Objective


class Prepared(NamedTuple):
    """A model with its data and objective, prepared for training.

    Attributes:
        policy: the policy, or the reward model.
        data: training data with all that the loss reads beside it.
        held_out: the same for evaluation.
        objective: what is minimised.
        stream: what is trained on, where that is a stream; `data` are its first rows then.
    """

    policy: PackedLM | RewardLM
    data: Sequence[TokenGroup]
    held_out: Sequence[TokenGroup]
    objective: Objective
    stream: TokenStream | None = None


def prepare(
    config: TrainConfig,
    loss: LossSum,
    spec: ModelSpec,
    tokenizer: Any,
    rows: TrainingRows,
    listener: Listener,
) -> Prepared:
    """Return the model with its data and objective.

    Args:
        config: what was asked for.
        loss: says what is trained.
        spec: what to start from.
        tokenizer: goes with it.
        rows: training and held-out data.
        listener: told what could not be done as asked.

    Raises:
        UserError: data and loss do not go together.
    """
    names = output_names(rows.data, config, loss)
    data, held_out, stream = with_inputs(rows, config, loss, names, tokenizer, listener)
    if loss.output == "rewards":  # a number is read at tokens themselves, not before them
        data, held_out = (each(groups, partial(at_own_state, reads=loss.unit.read_at)) for groups in (data, held_out))
        stream = stream and stream.then(lambda group, texts: at_own_state(group, loss.unit.read_at))
    model = LOADERS[loss.output](spec, tokenizer, names, config, listener)
    objective = Objective(loss, loss.beta, tuple(names), config.segments, Weighting(config).source)
    return Prepared(model, data, held_out, objective, stream)


def load_policy(
    spec: ModelSpec, tokenizer: Any, names: Sequence[str], config: TrainConfig, listener: Listener
) -> PackedLM:
    """Return the policy that the configuration asks for, behind the fastest exact forward.

    Args:
        spec: what to start from.
        tokenizer: goes with it.
        names: the outputs of a reward model, of which a policy has none.
        config: adapter and way of batching.
        listener: told what could not be done as asked.
    """
    model = load_model(spec, trainable_adapter=True) if config.adapter is not None else load_whole(spec)
    model = add_lora(model, **config.lora()) if config.lora_rank else model
    return proven(model, config.attention, config.max_length, say=lambda text: listener.say(f"warning: {text}"))


def load_reward_model(
    spec: ModelSpec, tokenizer: Any, names: Sequence[str], config: TrainConfig, listener: Listener
) -> RewardLM:
    """Return the reward model that the configuration asks for, on shared prompts where these prove exact.

    Args:
        spec: what to start from.
        tokenizer: goes with it; it is given a token to pad with.
        names: the outputs.
        config: adapter, way of batching, seed.
        listener: told what could not be done as asked.

    Raises:
        UserError: nothing to start from, or no classifier for it.
    """
    model: Any = load_classifier(spec, tokenizer, names, config.seed)
    if config.lora_rank:
        model = add_lora(model, **config.lora(), task="SEQ_CLS")

    def say(text: str) -> None:
        listener.say(f"warning: {text}")

    return RewardLM(proven(model, config.attention, config.max_length, REWARDS, say=say))


LOADERS: dict[Output, Callable[..., PackedLM | RewardLM]] = {"logps": load_policy, "rewards": load_reward_model}
"""Loaders of the model under training, by its output."""
