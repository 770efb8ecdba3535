"""What `tokenq train` does otherwise for a reward model: what its data carries, and how the classifier is made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tokenq.core.losses import LossSum
from tokenq.core.packing import last_token, opened, step_ends
from tokenq.data.signals import rated_attributes, with_ratings, with_step_labels
from tokenq.data.tokenize import TokenizedData
from tokenq.errors import UserError, unknown_name
from tokenq.listener import Listener
from tokenq.models.classifier import REWARDS, RewardLM, load_classifier
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.load import ModelSpec, add_lora
from tokenq.models.proof_cache import proven
from tokenq.training.config import TrainConfig
from tokenq.training.objective import Objective
from tokenq.training.reward_model import RewardObjective

_READS = {"pairs": last_token, "rated": last_token, "steps": step_ends}
"""Where each kind of data has its numbers read."""


class Ready(NamedTuple):
    """What a run trains.

    Attributes:
        policy: the policy, or the reward model.
        data: training data with all that the loss reads beside it.
        held_out: the same for evaluation.
        objective: what is minimised.
    """

    policy: PackedLM | RewardLM
    data: TokenizedData
    held_out: TokenizedData
    objective: Objective | RewardObjective


def prepare_reward_model(
    config: TrainConfig,
    loss: LossSum,
    spec: ModelSpec,
    tokenizer: Any,
    parts: tuple[TokenizedData, TokenizedData],
    listener: Listener,
) -> Ready:
    """Return a reward model with its data and objective.

    Args:
        config: what was asked for.
        loss: of rewards.
        spec: what to start from.
        tokenizer: goes with it.
        parts: training and held-out data.
        listener: told what could not be done as asked.

    Raises:
        UserError: data and loss do not go together.
    """
    names = output_names(parts[0], config, loss)
    data, held_out = (with_reads(part, loss, names, listener) for part in parts)
    model = load_reward_model(spec, tokenizer, names, config, listener)
    return Ready(model, data, held_out, RewardObjective(loss, tuple(names)))


def output_names(data: TokenizedData, config: TrainConfig, loss: LossSum) -> list[str]:
    """Return the names of the outputs of the reward model that the loss trains.

    Raises:
        UserError: the data is not rated on an attribute that was asked for.
    """
    if loss.unit != "rated":
        return ["reward"]
    found = rated_attributes(data.groups)
    for name in config.attributes:
        if name not in found:
            raise unknown_name("attribute", name, found)
    return list(config.attributes) or found


def with_reads(data: TokenizedData, loss: LossSum, names: Sequence[str], listener: Listener) -> TokenizedData:
    """Return the data with its targets, and a place in its rows wherever a number is read.

    Args:
        data: what was read for the loss.
        loss: of rewards.
        names: the outputs of the model.
        listener: told what was left out.

    Raises:
        UserError: nothing is left.
    """
    if not data.groups:
        return data
    groups, lost, why, hint = data.groups, 0, "", ""
    if "ratings" in loss.inputs:
        groups, lost = with_ratings(groups, names)
        why, hint = f"that are rated on none of {', '.join(names)}", "Name what these data are rated on."
    if "step_labels" in loss.inputs:
        groups, lost = with_step_labels(data)
        why, hint = "that were cut before the end of their first step", "Raise --max-length."
    if not groups:
        raise UserError(f"Nothing is left of {lost} responses {why}.", hint)
    if lost:
        listener.say(f"left out: {lost} responses {why}")
    return replace(data, groups=[opened(group, _READS[loss.unit]) for group in groups])


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
