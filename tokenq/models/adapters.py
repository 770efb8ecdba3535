"""Adapters of peft on disk: find them, read them, put them on their base, and refuse a base they were not made for.

peft itself takes any adapter whose layer names and shapes happen to match, and silently leaves out what it finds no
place for. Whatever it writes is read here as it reads it: layers on embedding and head, whole modules, single tokens,
vocabularies that have grown since.
"""

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenq.errors import UserError, reason
from tokenq.files import read_json
from tokenq.models.forward.packed_lm import bare, is_peft
from tokenq.models.forward.short_row import short_row

_MAKE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
"""The settings that two models must share for one adapter to fit both; a vocabulary may have grown."""

_IN_LAYERS = frozenset(
    {
        *("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "VERA", "OFT", "BOFT", "LN_TUNING", "FOURIERFT"),
        "TRAINABLE_TOKENS",
    }
)
"""Methods that change layers in place, and nothing else: what lies below one that is switched off is the base."""

_ON_TOKENS = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"})
"""Methods that put something before the row; what reads the layers would not see it."""

_BASE_UNCHANGED = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin a LoRA that leave the base alone; PiSSA, OLoRA, CorDA and LoftQ take something off its weights."""

_PREFIXES = (
    *("lora_", "modules_to_save", "trainable_tokens_", "ia3_", "hada_", "lokr_", "vera_", "oft_", "boft_"),
    *("fourierft_", "ln_tuning_"),
)
_WRAPPERS = re.compile(r"\.(token_adapter\.base_layer|base_layer|original_module)(?=\.)")
_FILES = (
    *("adapter_config.json", "adapter_model.*", "tokenizer*", "vocab*", "*.model", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template*", "merges.txt"),
)


def adapter_folder(path: str) -> Path | None:
    """Return the folder of the adapter that a path or hub id names; None for anything else.

    Raises:
        UserError: a folder holds a whole model and an adapter, so that nobody knows which is meant.
    """
    folder = Path(path).expanduser()
    if (folder / "adapter_config.json").is_file():
        if any(file for name in ("model*.safetensors", "pytorch_model*.bin") for file in folder.glob(name)):
            raise UserError(
                f"The folder {path} holds a whole model and an adapter.", "Put one of them into a folder of its own."
            )
        return folder
    return None if folder.exists() or is_local(path) else _from_hub(path)


def is_adapter_folder(path: str) -> bool:
    """Return whether a model path names an adapter and no whole model."""
    return adapter_folder(path) is not None


def is_local(path: str) -> bool:
    """Return whether a path can be no hub id."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path


@functools.cache
def _from_hub(path: str) -> Path | None:
    """Return the folder of an adapter from the hub; None when the hub id names no adapter."""
    from huggingface_hub import snapshot_download
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(path)
        return None if found is None else Path(snapshot_download(path, allow_patterns=list(_FILES)))
    except (OSError, ValueError):  # whatever loads it next says what is wrong
        return None


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """Return the contents of `adapter_config.json` in a local folder.

    Raises:
        UserError: it is broken.
    """
    path = Path(folder) / "adapter_config.json"
    config = read_json(path)
    if not isinstance(config, dict) or "peft_type" not in config:
        raise UserError(f"{path} describes no adapter of peft (no peft_type).", "Save it again: save_pretrained.")
    return config


def base_of(adapter: str, base: str | None = None) -> str:
    """Return the base model of an adapter: `base` if given, else the one the adapter names.

    Raises:
        UserError: the adapter names none, or one that is not here.
    """
    folder = adapter_folder(adapter)
    assert folder is not None  # callers ask first
    if base is not None:
        return base
    named = adapter_config(folder).get("base_model_name_or_path")
    if not named:
        raise UserError(f"The adapter {adapter} does not name its base model.", "Name it: --base MODEL.")
    for place in (Path(named).expanduser(), folder / named):
        if place.exists():
            return str(place)
    if is_local(named):
        raise UserError(
            f"The adapter {adapter} was made for {named}, which is not here.",
            "Name the model that it was made for: --base MODEL.",
        )
    return str(named)


def with_adapter(model: PreTrainedModel, adapter: str, *, trainable: bool) -> Any:
    """Return the model with an adapter on top (a `PeftModel`).

    Args:
        model: the base; its vocabulary grows where the adapter's has.
        adapter: folder or hub id.
        trainable: whether the adapter's weights are to be trained further.

    Raises:
        UserError: there is no adapter, it cannot be read, or it was made for another base.
    """
    from peft import PeftModel, set_peft_model_state_dict
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError

    folder = adapter_folder(adapter)
    if folder is None:
        raise UserError(f"{adapter} holds no adapter.", "An adapter folder holds adapter_config.json.")
    config = adapter_config(folder)
    made_for = str(config.get("base_model_name_or_path") or "another model")
    _refuse_outside_layers(adapter, config)
    _check_base(model, adapter, folder, made_for)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns about is checked below, or is of no concern here
            weights = load_peft_weights(str(folder), device="cpu")
            _grow(model, weights, config, folder)
            own = _held(model, weights)
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
            unused = _without_place(set_peft_model_state_dict(adapted, weights).unexpected_keys, weights)
    except (ValueError, TypeError, KeyError, OSError, RuntimeError, SafetensorError) as problem:
        raise _unfit(model, adapter, made_for, reason(problem)) from None
    if unused:
        raise _unfit(model, adapter, made_for, f"it has no place for {min(unused)} and {len(unused) - 1} more.")
    _refuse_unlike_peft(adapter, adapted, config)
    record_base(adapted)
    adapted.__dict__["rewritten"] = _rewritten(own, weights, adapted)
    return adapted


def _without_place(names: Sequence[str], weights: Mapping[str, Tensor]) -> list[str]:
    """Return the weights of a file that found no place in the model, apart from second copies of tied layers."""
    lost = {name.replace(".default", ""): name for name in names}
    used = [tensor for name, tensor in weights.items() if name not in lost]
    copies = {
        name
        for name in lost.keys() & weights.keys()
        if any(weights[name].shape == other.shape and weights[name].equal(other) for other in used)
    }
    return sorted(lost.keys() - copies)


def record_base(adapted: Any) -> None:
    """Record the adapter's base in its configuration, as a path that holds from anywhere on this machine."""
    base = bare(adapted).config
    for own in adapted.peft_config.values():
        own.base_model_name_or_path = recorded_path(str(base._name_or_path))
        own.revision = base.__dict__.get("_commit_hash")


def recorded_path(path: str) -> str:
    """Return the model path to record: absolute for a local folder or file."""
    place = Path(path).expanduser()
    return str(place.resolve()) if path and place.exists() else path


def rewritten_weights(model: nn.Module) -> frozenset[str]:
    """Return the names of base weights that the adapter's file replaced (biases, resized embeddings)."""
    found: frozenset[str] = model.__dict__.get("rewritten", frozenset())
    return found


def leaves_base(model: nn.Module) -> bool:
    """Return whether switching the adapter off gives the base back."""
    if not is_peft(model):
        return True
    configs = _configs(model)
    untouched = all(
        str(getattr(config["peft_type"], "value", config["peft_type"])) in _IN_LAYERS
        and config.get("init_lora_weights", True) in _BASE_UNCHANGED
        and not config.get("layer_replication")
        for config in configs
    )
    return untouched and not rewritten_weights(model)


def adapter_scales(model: nn.Module) -> list[dict[str, str]]:
    """Return the settings of the active adapters that change the output: ranks, scales, variants of the method."""
    if not is_peft(model):
        return []
    configs = _configs(model)
    wanted = ("alpha", "rank", "use_", "peft_type", "scaling")
    return [{k: str(v) for k, v in c.items() if k == "r" or any(part in k for part in wanted)} for c in configs]


def _configs(model: Any) -> list[dict[str, Any]]:
    return [model.peft_config[name].to_dict() for name in model.active_adapters]


def _refuse_outside_layers(adapter: str, config: Mapping[str, Any]) -> None:
    """Refuse adapters that act on the tokens of a row and not in the layers."""
    kind = "activated LoRA" if config.get("alora_invocation_tokens") else str(config["peft_type"])
    if kind == "activated LoRA" or kind in _ON_TOKENS:
        raise _outside(adapter, kind)


def _refuse_unlike_peft(adapter: str, adapted: Any, config: Mapping[str, Any]) -> None:
    """Refuse an unknown method that acts outside the layers."""
    kind = str(config["peft_type"])
    if kind in _IN_LAYERS:
        return
    try:
        beside = (short_row(adapted) - short_row(bare(adapted))).abs().max().item()
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError):
        beside = 1.0  # it wants more than a row of tokens
    if not beside < 1e-6:
        raise _outside(adapter, kind)


def _outside(adapter: str, kind: str) -> UserError:
    return UserError(
        f"The adapter {adapter} is of the kind {kind}, which does not act in the layers alone.",
        f"Read are adapters in layers: {', '.join(sorted(_IN_LAYERS))} and their like.",
    )


def _grow(model: PreTrainedModel, weights: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """Resize the embedding to the adapter's vocabulary."""
    embedding: Any = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    rows = {len(tensor) for key, tensor in weights.items() if base_name(key) == f"{name}.weight"}
    indices = config.get("trainable_token_indices") or config.get("token_indices") or []
    flat = indices if isinstance(indices, list) else [index for part in indices.values() for index in part]
    rows.add(max(flat, default=-1) + 1)
    wanted = max(rows)
    if wanted > len(embedding.weight) or (len(rows) > 1 and 0 < wanted < len(embedding.weight) and min(rows) > 0):
        model.resize_token_embeddings(wanted, mean_resizing=False)


def _held(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the base weights that an adapter's file may overwrite."""
    names = {base_name(key) for key in weights}
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name in names}


def _rewritten(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], adapted: nn.Module) -> frozenset[str]:
    """Return the names of the base weights in `own` that the adapter's file changes.

    A layer that is saved whole has its trained copy in the file under the name of the layer.
    """
    from peft.utils.other import ModulesToSaveWrapper

    whole = {base_name(name) for name, module in adapted.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    found = set()
    for key, tensor in weights.items():
        name = base_name(key)
        if name not in own or (_WRAPPERS.search(key) is None and name.rpartition(".")[0] in whole):
            continue
        if own[name].shape != tensor.shape or not own[name].cpu().equal(tensor.to(own[name].dtype)):
            found.add(name)
    return frozenset(found)


def is_adapter_weight(name: str) -> bool:
    """Return whether a weight of a peft model belongs to an adapter."""
    return any(part in name for part in _PREFIXES)


def base_name(key: str) -> str:
    """Return the name that a weight has in the base model, without peft's prefixes."""
    return _WRAPPERS.sub("", key.removeprefix("base_model.model."))


def _check_base(model: PreTrainedModel, adapter: str, folder: Path, made_for: str) -> None:
    """Refuse a model of another architecture than the adapter's base, if that base is on this disk."""
    places = (Path(made_for).expanduser(), folder / made_for)
    path = next((place / "config.json" for place in places if (place / "config.json").is_file()), None)
    if path is None:
        return
    wanted, here = read_json(path), model.config.to_dict()
    for name in _MAKE:
        if name in wanted and name in here and wanted[name] != here[name]:
            raise _unfit(model, adapter, made_for, f"{name} is {here[name]}, not {wanted[name]}.")


def _unfit(model: PreTrainedModel, adapter: str, made_for: str, why: str) -> UserError:
    return UserError(f"The adapter {adapter} does not fit {model.config._name_or_path}: {why}", f"Made for {made_for}.")
