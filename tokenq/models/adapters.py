"""Adapters of peft on disk: read, and refused on a base that they were not made for.

peft itself takes any adapter whose layer names and shapes happen to match, and silently leaves out what it finds no
place for.
"""

import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tokenq.errors import UserError
from tokenq.files import read_json

_MAKE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""What two models must share for one adapter to fit both."""


def adapter_config(folder: str) -> dict[str, Any]:
    """Return what `adapter_config.json` in a local folder says.

    Raises:
        UserError: it is broken, or does not name the base model.
    """
    path = Path(folder) / "adapter_config.json"
    config: dict[str, Any] = read_json(path)
    if not config.get("base_model_name_or_path"):
        raise UserError(f"{path} does not name its base model.", "Give the base as the model and this as --adapter.")
    return config


def with_adapter(model: PreTrainedModel, adapter: str, *, trainable: bool) -> Any:
    """Return the model with an adapter on top (a `PeftModel`).

    Args:
        model: the base.
        adapter: folder or hub id.
        trainable: whether the adapter's weights are to be trained further.

    Raises:
        UserError: there is no adapter, it cannot be read, or it was made for another base.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError

    folder, base = Path(adapter).expanduser(), "another model"
    if folder.is_dir():
        if not (folder / "adapter_config.json").is_file():
            raise UserError(f"The folder {adapter} holds no adapter.", "An adapter folder holds adapter_config.json.")
        base = adapter_config(str(folder))["base_model_name_or_path"]
        _check_base(model, adapter, base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns about is checked below, or is of no concern here
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
            used = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
            unused = set(load_peft_weights(str(folder), device="cpu")) - used
    except (ValueError, OSError, RuntimeError, SafetensorError) as problem:
        first = str(problem).strip().splitlines()[0]
        raise _unfit(model, adapter, base, first) from None
    if unused:
        raise _unfit(model, adapter, base, f"it has no place for {min(unused)} and {len(unused) - 1} more.")
    return adapted


def adapter_scales(model: nn.Module) -> list[dict[str, str]]:
    """Return what the adapters in effect do besides their weights: ranks, scales and variants of the method."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return []
    configs = [model.peft_config[name].to_dict() for name in model.active_adapters]
    wanted = ("alpha", "rank", "use_", "peft_type")
    return [{k: str(v) for k, v in c.items() if k == "r" or any(part in k for part in wanted)} for c in configs]


def _check_base(model: PreTrainedModel, adapter: str, base: str) -> None:
    """Refuse a model of another make than the adapter's own base, where that base is on this disk."""
    path = Path(base).expanduser() / "config.json"
    if not path.is_file():
        return
    made_for, here = read_json(path), model.config.to_dict()
    for name in _MAKE:
        if name in made_for and name in here and made_for[name] != here[name]:
            raise _unfit(model, adapter, base, f"{name} is {here[name]}, not {made_for[name]}.")


def _unfit(model: PreTrainedModel, adapter: str, base: str, reason: str) -> UserError:
    return UserError(f"The adapter {adapter} does not fit {model.config._name_or_path}: {reason}", f"Made for {base}.")
