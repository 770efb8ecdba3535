"""Adapters that are merged into their base when a run is saved, which cannot be done where weights are in shards."""

from accelerate.utils import parse_flag_from_env

from tokenq.core.losses import LossSum
from tokenq.errors import UserError
from tokenq.models.adapters import is_adapter_folder
from tokenq.training.config import TrainConfig

_SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
"""Variables that `accelerate launch` sets where weights are spread over devices."""


def merges(config: TrainConfig, loss: LossSum) -> bool:
    """Return whether the run ends with an adapter that is merged.

    That of a reward model is, as an adapter is of no use without a head, and that on a base which is itself a merge, as
    such a base is on no disk.
    """
    adapts = config.lora_rank > 0 or config.adapter is not None
    return adapts and (loss.output == "rewards" or is_adapter_folder(config.model))


def refuse_merge_in_shards(config: TrainConfig, loss: LossSum) -> None:
    """Refuse a run that would merge where `accelerate launch` spreads weights over devices.

    Raises:
        UserError: says how to train it otherwise.
    """
    if merges(config, loss) and any(map(parse_flag_from_env, _SHARDING)):
        what = "of a reward model" if loss.output == "rewards" else f"on {config.model}, itself a base with an adapter,"
        raise UserError(
            f"The adapter {what} is merged when it is saved, and weights in shards cannot be merged.",
            "Leave out --lora-rank, or launch without FSDP and DeepSpeed (recipes/accelerate/ddp.yaml).",
        )
