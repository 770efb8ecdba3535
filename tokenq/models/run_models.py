"""The models of a finished run: its policy and reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tokenq.errors import UserError
from tokenq.models.adapters import base_of, is_adapter_folder
from tokenq.models.load import ModelSpec
from tokenq.models.loaded import Loaded
from tokenq.options import ModelOptions, SegmentOptions

Config = TypeVar("Config", bound=ModelOptions)


@dataclass(frozen=True)
class RunModels:
    """A policy and its reference, to be loaded.

    Attributes:
        policy: the model that is read, or writes.
        reference: what it is compared with; None for nothing, or for an adapter's base, when it is switched off.
        beta: the β of the run that they come from.
        parts: segments of responses with strengths of their own in that run.
    """

    policy: ModelSpec
    reference: ModelSpec | None
    beta: float | None
    parts: SegmentOptions = field(default_factory=SegmentOptions)

    def parts_at(self, beta: float) -> SegmentOptions:
        """Return the segments with strengths that are to β as they are to that of the run."""
        return self.parts.times(beta / (self.beta or beta))


def recorded_models(policy: Path, recorded: Mapping[str, Any], spec: ModelSpec) -> RunModels:
    """Return the models of a finished training run.

    Args:
        policy: folder of the trained policy.
        recorded: provenance of the run.
        spec: how models are loaded; the run says which.
    """
    config = recorded["config"]
    own = replace(spec, path=str(policy))
    beta = config.get("beta") or recorded.get("beta")
    split = SegmentOptions(segments=config.get("segments") or {}, segment_starts=config.get("segment_starts") or {})
    begun, adapter = str(config["model"]), config.get("adapter")
    if config.get("reference"):
        return RunModels(own, replace(spec, path=str(config["reference"])), beta, split)
    if is_adapter_folder(own.path) and adapter is None:
        return RunModels(own, None, beta, split)
    if adapter is not None and is_adapter_folder(own.path):
        begun = base_of(own.path, spec.base)
    start = replace(spec, path=begun, adapter=adapter, revision=config.get("revision"))
    return RunModels(own, start if is_adapter_folder(begun) else replace(start, base=None), beta, split)


def model_spec(asked: ModelOptions, path: str) -> ModelSpec:
    """Return the spec of a model under the settings of a command."""
    return ModelSpec(path, asked.dtype, asked.device, trust_remote_code=asked.trust_remote_code, base=asked.base)


def named_models(asked: ModelOptions, made: RunModels | None, in_memory: Mapping[str, Loaded] = {}) -> RunModels:
    """Return the models named in the settings, else those of a run; an adapter's base is its reference.

    Args:
        asked: names them.
        made: the models of a run.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: there is no policy.
    """
    policy = made.policy if made is not None and asked.policy is None else None
    reference = None if made is None else made.reference
    if asked.policy is not None:
        policy = replace(model_spec(asked, asked.policy), loaded=in_memory.get("policy"))
    if asked.reference is not None:
        reference = replace(model_spec(asked, asked.reference), loaded=in_memory.get("reference"))
    if policy is None:
        raise UserError("There is no policy.", "Name one with --policy, or a finished training run with --run.")
    return against_base(RunModels(policy, reference, None if made is None else made.beta))


def against_base(models: RunModels) -> RunModels:
    """Return the models; without a reference, an adapter's base takes its place."""
    loaded = models.policy.loaded
    if models.reference is not None or not (loaded.has_adapter if loaded else is_adapter_folder(models.policy.path)):
        return models
    if loaded is not None:
        return replace(
            models, reference=replace(models.policy, path=f"the base of {loaded.name}", loaded=loaded.base())
        )
    base = base_of(models.policy.path, models.policy.base)
    return replace(models, reference=replace(models.policy, path=base, base=None))


def with_models(config: Config, models: RunModels) -> Config:
    """Return the settings with the names of their models, and the β of the run if none is given."""
    beta = models.beta if config.beta is None else config.beta
    reference = None if models.reference is None else models.reference.name
    return replace(config, policy=models.policy.name, reference=reference, beta=beta)
