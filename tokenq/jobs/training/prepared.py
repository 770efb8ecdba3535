"""The model that a training starts from, a policy or a reward model, and the data in its form."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from accelerate.utils import DistributedType

from tokenq.core.losses import LossSum
from tokenq.core.losses.units import Output
from tokenq.core.packing import at_own_state
from tokenq.data.streams.groups import TokenStream
from tokenq.errors import UserError
from tokenq.jobs.training.data import TrainingRows, output_names, with_inputs
from tokenq.jobs.training.merging import merges
from tokenq.jobs.training.opening import OpenRun
from tokenq.jobs.training.recipes import read_template
from tokenq.jobs.training.token_weights import Weighting
from tokenq.models.classifier import load_classifier
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.packed_lm import PackedLM, bare
from tokenq.models.forward.proof_cache import proven
from tokenq.models.forward.reward_lm import REWARDS, RewardLM
from tokenq.models.load import ModelSpec, add_lora, for_training, load_model, load_whole
from tokenq.models.tokenizer import load_tokenizer
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import each
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import adapts
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


def start_of(run: OpenRun[TrainConfig]) -> tuple[ModelSpec, Any]:
    """Return the model that a run starts from, its type resolved, and the tokenizer that goes with it.

    Trained weights are held in float32.
    """
    config = run.config
    spec = ModelSpec(config.model, config.dtype, str(run.accelerator.device), config.adapter, config.revision)
    spec = replace(spec, trust_remote_code=config.trust_remote_code, base=config.base)
    frozen = adapts(config) and not merges(config, run.loss)
    spec = for_training(spec, frozen=frozen, scaled=config.mixed_precision == "fp16")
    return spec, load_tokenizer(spec, read_template(config.chat_template))


def prepare(run: OpenRun[TrainConfig], spec: ModelSpec, tokenizer: Any, rows: TrainingRows) -> Prepared:
    """Return the model with its data and objective.

    Args:
        run: what was asked for.
        spec: what to start from.
        tokenizer: goes with it.
        rows: training and held-out data.

    Raises:
        UserError: data and loss do not go together.
    """
    config, loss = run.config, run.loss
    names = output_names(rows.data, config, loss)
    data, held_out, stream = with_inputs(rows, config, loss, names, tokenizer, run.listener)
    if loss.output == "rewards":  # a number is read at tokens themselves, not before them
        data, held_out = (each(groups, partial(at_own_state, reads=loss.unit.read_at)) for groups in (data, held_out))
        stream = stream and stream.then(lambda group, texts: at_own_state(group, loss.unit.read_at))
    model = LOADERS[loss.output](run, spec, tokenizer, names)
    objective = Objective(loss, loss.beta, tuple(names), config.segments, Weighting(config).source)
    return Prepared(model, data, held_out, objective, stream)


def load_policy(run: OpenRun[TrainConfig], spec: ModelSpec, tokenizer: Any, names: Sequence[str] = ()) -> PackedLM:
    """Return the policy that a run asks for, behind the fastest exact forward.

    Args:
        run: adapter and way of batching.
        spec: what to start from.
        tokenizer: goes with it.
        names: the outputs of a reward model, of which a policy has none.
    """
    config = run.config
    model = load_model(spec, trainable_adapter=True) if config.adapter is not None else load_whole(spec)
    model = add_lora(model, **config.lora()) if config.lora_rank else model
    return proven(model, config.attention, config.max_length, say=lambda text: run.listener.say(f"warning: {text}"))


def load_reward_model(run: OpenRun[TrainConfig], spec: ModelSpec, tokenizer: Any, names: Sequence[str]) -> RewardLM:
    """Return the reward model that a run asks for, on shared prompts where these prove exact.

    Args:
        run: adapter, way of batching, seed.
        spec: what to start from.
        tokenizer: goes with it; it is given a token to pad with.
        names: the outputs.

    Raises:
        UserError: nothing to start from, or no classifier for it.
    """
    config = run.config
    model: Any = load_classifier(spec, tokenizer, names, config.seed)
    if config.lora_rank:
        model = add_lora(model, **config.lora(), task="SEQ_CLS")

    def say(text: str) -> None:
        run.listener.say(f"warning: {text}")

    return RewardLM(proven(model, config.attention, config.max_length, REWARDS, say=say))


LOADERS: dict[Output, Callable[..., PackedLM | RewardLM]] = {"logps": load_policy, "rewards": load_reward_model}
"""Loaders of the model under training, by its output."""


def networks_of(policy: PackedLM | RewardLM, loss: LossSum) -> PolicyNetworks | None:
    """Return the policy with the networks that a loss trains beside it, None where it trains none."""
    return PolicyNetworks(policy, loss.networks) if isinstance(policy, PackedLM) and loss.networks else None


def choose_gradients(
    run: OpenRun[TrainConfig], policy: PackedLM | RewardLM, networks: PolicyNetworks | None = None
) -> None:
    """Choose how gradients of a policy, and of networks beside it, are computed."""
    config, accelerator = run.config, run.accelerator
    beside: Sequence[Any] = [] if networks is None else [*networks.beside().values()]
    if config.gradient_checkpointing:
        if policy.way not in ("plain", "full") and policy.limit is not None and policy.limit < config.max_length:
            raise UserError(
                f"--gradient-checkpointing: this model reads rows beyond {policy.limit} tokens by another attention.",
                f"Add --attention plain, or --max-length {policy.limit}.",
            )
        for model in (bare(policy.model), *(one.lm for one in beside)):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    alone = accelerator.distributed_type == DistributedType.NO and config.mixed_precision == "no"
    for one in (policy, *beside) if alone else ():
        if isinstance(one, PackedLM):
            one.accumulate_in_place()
