"""The weights of a run as they are today: whether they are those of the run, and whether training moved them."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenq
from tokenq.doctor.precision_checks import doubtful, update_size, updated_in
from tokenq.errors import UserError
from tokenq.models.adapters import is_adapter_folder
from tokenq.models.load import DTYPES, ModelSpec, load_model, load_whole
from tokenq.models.movement import movement
from tokenq.models.open import weights_of
from tokenq.runs.facts import ModelNow, Moved
from tokenq.runs.record import RunRecord


def models_today(record: RunRecord, spec: ModelSpec) -> tuple[tuple[ModelNow, ...], list[str]]:
    """Return the models of a run as they are today, and what could not be loaded.

    Args:
        record: the run.
        spec: how models are loaded; the run says which, and in which type.
    """
    found: list[ModelNow] = []
    missed: list[str] = []
    for role, begun in _models(record.config, record.provenance, spec):
        named = begun.path == record.config.get("reference")
        try:
            now = weights_of(begun, _to_be_trained if named or begun.adapter else load_whole)
        except UserError as problem:
            missed.append(f"the weights of the {role} ({problem.message})")
            continue
        recorded = str(record.provenance[role]["weights"])
        doubt, newer = _doubt(begun, record.provenance), _newer(begun, record.provenance)
        found.append(ModelNow(role, begun.path, recorded, now, doubt, newer))
    return tuple(found), missed


def movement_since(record: RunRecord, policy: Path, spec: ModelSpec) -> Moved | None:
    """Return how the policy's weights compare with those of the start, None where they were not all trained.

    Args:
        record: the run.
        policy: folder of the trained policy.
        spec: how models are loaded; the run says which, and in which type.

    Raises:
        UserError: the model that training began from is no longer there.
    """
    dtype, update = updated_in(record), update_size(record)
    if dtype is None or not doubtful(record) or not any(policy.glob("model*.safetensors")):
        return None
    config = record.config
    base = spec.base or config.get("base")
    spec = replace(spec, path=str(config["model"]), revision=config.get("revision"), base=base)
    began = load_whole(replace(spec, dtype=_dtype_of(record.provenance), device="cpu"))
    found = movement(began.state_dict(), policy, update, dtype)
    return Moved(*found) if found.weights else None


def _dtype_of(provenance: Mapping[str, Any]) -> str:
    """Return the type that the models of a run were read in: a hash is of weights in their type."""
    dtype = str(provenance["model"].get("dtype", "auto"))
    return dtype if dtype in DTYPES else "auto"


def _to_be_trained(spec: ModelSpec) -> Any:
    return load_model(spec, trainable_adapter=True)


def _models(config: Mapping[str, Any], provenance: Mapping[str, Any], spec: ModelSpec) -> list[tuple[str, ModelSpec]]:
    """Return (role, what was loaded) of each model whose hash can come out again.

    A new adapter is drawn anew in every run, so that the hash of a policy that began with one says nothing of its base:
    the reference does, which is that base.
    """
    if "ForSequenceClassification" in str(provenance["model"]["architecture"]):
        return []  # its hash is that of a reward model with a new head, which is in no file
    fresh, other = bool(config.get("lora_rank")), config.get("reference")
    begun = replace(_begun(config, provenance, spec), device="cpu")
    spec = replace(spec, dtype=begun.dtype, device="cpu", base=begun.base)
    models = []
    if provenance.get("reference"):
        models.append(("reference", replace(spec, path=str(other)) if other else begun))
    if not fresh and (other or not provenance.get("reference")):
        models.append(("model", begun))
    return models


def start_of(record: RunRecord, spec: ModelSpec) -> ModelSpec:
    """Return the model that a run began from."""
    return _begun(record.config, record.provenance, spec)


def _begun(config: Mapping[str, Any], provenance: Mapping[str, Any], spec: ModelSpec) -> ModelSpec:
    spec = replace(spec, dtype=_dtype_of(provenance), base=spec.base or config.get("base"))
    return replace(spec, path=str(config["model"]), adapter=config.get("adapter"), revision=config.get("revision"))


def _doubt(spec: ModelSpec, provenance: Mapping[str, Any]) -> str:
    """Return why the same files may hash otherwise here; "" where they must not."""
    if is_adapter_folder(spec.path):
        return "an adapter is merged there, whose sums round otherwise on another device"
    then = provenance.get("versions") or {}
    for package, now in (("transformers", importlib.metadata.version("transformers")), ("tokenq", tokenq.__version__)):
        if then.get(package) != now:
            return f"{package} was {then.get(package)} then, and another version may read or hash a model otherwise"
    return ""


def _newer(spec: ModelSpec, provenance: Mapping[str, Any]) -> bool:
    """Return whether the weights of a local model were written after the run began."""
    began = datetime.fromisoformat(str(provenance["started"])).timestamp()
    places = [Path(path).expanduser() for path in (spec.path, spec.adapter) if path is not None]
    files = [file for place in places for file in (place.glob("*.safetensors") if place.is_dir() else [place])]
    return any(file.stat().st_mtime > began for file in files if file.is_file())
