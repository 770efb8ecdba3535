"""Models from a folder, a GGUF file or the hub, with errors that say what is wrong with them.

A model is loaded in one compute type, without dropout, and with the adapter that was asked for.
"""

import copy
import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tokenq.errors import UserError, reason, unknown_name
from tokenq.models.adapters import (
    adapter_config,
    adapter_folder,
    base_of,
    is_adapter_folder,
    record_base,
    with_adapter,
)
from tokenq.models.checkpoint import (
    causal_lm,
    check_complete,
    from_pretrained,
    locate,
    textless_modules,
    train_language_weights,
)
from tokenq.models.forward.packed_lm import bare, is_peft
from tokenq.models.loaded import Loaded, twin
from tokenq.models.merging import merged, merged_or_beside

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ModelSpec:
    """A model to load, and how to load it.

    Attributes:
        path: folder, `.gguf` file, or hub id.
        dtype: "auto" for the checkpoint's own, or a key of `DTYPES`.
        device: "auto", "cpu", "cuda", …
        adapter: folder or hub id of a peft adapter to put on top, or None.
        revision: hub revision.
        trust_remote_code: whether code that comes with the model may run.
        base: base of the adapter that `path` names, instead of the one that the adapter names itself.
        loaded: the model itself, where it is in memory already; `path` is then what it is called.
    """

    path: str
    dtype: str = "auto"
    device: str = "auto"
    adapter: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    base: str | None = None
    loaded: Loaded | None = None

    @property
    def name(self) -> str:
        """The model's name in records and on pages."""
        return self.path if self.adapter is None else f"{self.path} with {self.adapter}"


def load_model(spec: ModelSpec, *, trainable_adapter: bool = False) -> nn.Module:
    """Load the causal LM that `spec` names, to be read, without dropout.

    A path that names an adapter stands for its base with the adapter: merged into the weights where that says the same,
    else beside them. `spec.adapter` is put on top and stays an adapter. Of a model in memory a twin is read, on the
    same weights where they have the type and the device that are asked for.

    Args:
        spec: what to load.
        trainable_adapter: whether the weights of `spec.adapter` are to be trained further.

    Raises:
        UserError: when there is no model at that place, or the adapter was made for another base.
    """
    if spec.loaded is not None:
        return _read_in_memory(spec, spec.loaded)
    if spec.adapter is None and is_adapter_folder(spec.path):
        read = merged_or_beside(lambda: _whole(base_spec(spec)), spec.path)
        make_deterministic(read)
        return read
    model = _whole(spec)
    loaded: nn.Module = model
    if spec.adapter is not None:
        loaded = with_adapter(model, spec.adapter, trainable=trainable_adapter)
    make_deterministic(loaded)
    return loaded


def load_whole(spec: ModelSpec) -> PreTrainedModel:
    """Load the causal LM that `spec.path` names to train all its weights, with an adapter merged into them.

    Raises:
        UserError: as `load_model`, or the adapter cannot be merged to the same numbers.
    """
    model = _whole(spec)
    make_deterministic(model)
    return model


def _read_in_memory(spec: ModelSpec, loaded: Loaded) -> nn.Module:
    model = twin_of(spec, loaded)
    if bare(model).get_output_embeddings() is None:
        raise UserError(f"{spec.name} is no language model: a {type(bare(model)).__name__} has no head of tokens.", "")
    return model


def twin_of(spec: ModelSpec, loaded: Loaded) -> nn.Module:
    """Return a twin of a model in memory, without dropout, in the dtype and on the device asked for.

    Raises:
        UserError: something is asked for that is decided where a model is loaded from files.
    """
    for name, asked in (("adapter", spec.adapter), ("revision", spec.revision)):
        if asked is not None:
            raise UserError(f"{spec.path} is in memory: no {name} goes with it.", "Load the model with it.")
    _check_dtype(spec)
    device = None if spec.device == "auto" else device_of(spec.device)
    found = twin(loaded.model, DTYPES.get(spec.dtype), device)
    make_deterministic(found)
    return found


def _check_dtype(spec: ModelSpec) -> None:
    if spec.dtype != "auto" and spec.dtype not in DTYPES:
        raise unknown_name("dtype", spec.dtype, ["auto", *DTYPES])


def base_spec(spec: ModelSpec) -> ModelSpec:
    """Return the spec of an adapter's base."""
    folder = adapter_folder(spec.path)
    assert folder is not None  # callers ask first
    revision = spec.revision or adapter_config(folder).get("revision")
    return replace(spec, path=base_of(spec.path, spec.base), adapter=None, base=None, revision=revision)


def _whole(spec: ModelSpec) -> PreTrainedModel:
    if spec.loaded is not None:
        own: Any = copy.deepcopy(_read_in_memory(spec, spec.loaded))
        if is_peft(own):
            return merged(own, spec.path)
        train_language_weights(own)
        whole: PreTrainedModel = own
        return whole
    _check_dtype(spec)
    if is_adapter_folder(spec.path):
        return merged(with_adapter(_whole(base_spec(spec)), spec.path, trainable=False), spec.path)
    folder, gguf = locate(spec.path)
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code} | gguf
    options["dtype"] = DTYPES.get(spec.dtype, torch.float32 if gguf else "auto")
    options["output_loading_info"] = True
    found, info = from_pretrained(causal_lm, folder, options, spec.path)
    check_complete(spec.path, info["missing_keys"])
    model: PreTrainedModel = found
    train_language_weights(model)
    if gguf:
        _forget_quantisation(model)
        model.config._name_or_path = spec.path  # the file and not its folder: an adapter on it must find it again
    model.to(device=device_of(spec.device))
    return model


def for_training(spec: ModelSpec, *, frozen: bool, scaled: bool = False) -> ModelSpec:
    """Return the spec with its dtype resolved: float32 for weights that are trained, whatever the checkpoint's is.

    Frozen weights below an adapter stay as they are stored; those in float16 only where gradients that pass through
    them are scaled, as they vanish below 6e-8 otherwise. An adapter is merged into float32: it changes weights by less
    than half precision can say. A checkpoint in float64 stays in float64.

    Args:
        spec: what is asked for; a type other than "auto" is kept.
        frozen: whether the weights on disk stay as they are, and an adapter is trained.
        scaled: whether a gradient scaler is at work.
    """
    if spec.dtype != "auto":
        return spec
    stored = stored_dtype(spec)
    frozen = frozen and not is_adapter_folder(spec.path)
    kept = stored == torch.float64 or (frozen and (stored == torch.bfloat16 or (stored == torch.float16 and scaled)))
    return spec if kept else replace(spec, dtype="float32")


def stored_dtype(spec: ModelSpec) -> torch.dtype | None:
    """Return the dtype of a checkpoint or a loaded model, None if the checkpoint does not state it."""
    if spec.loaded is not None:
        return spec.loaded.dtype
    if is_adapter_folder(spec.path):
        return stored_dtype(replace(spec, path=base_of(spec.path, spec.base), base=None))
    folder, gguf = locate(spec.path)
    if gguf:
        return None
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    found: torch.dtype | None = from_pretrained(AutoConfig.from_pretrained, folder, options, spec.path).dtype
    return found


def same_dtype(model: nn.Module, spec: ModelSpec) -> ModelSpec:
    """Return the spec with the dtype of another model: log-ratios of two dtypes measure their rounding.

    Args:
        model: that was loaded first.
        spec: the other; a type other than "auto" is kept.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return replace(spec, dtype=_NAMES.get(dtype, "auto")) if spec.dtype == "auto" and dtype is not None else spec


def add_lora(
    model: nn.Module, *, rank: int, alpha: float, dropout: float, targets: str | list[str], task: str = "CAUSAL_LM"
) -> nn.Module:
    """Return the model with a fresh LoRA adapter; only the adapter is trainable, and the head of a classifier.

    Args:
        model: a model without adapter.
        rank: LoRA rank.
        alpha: LoRA scale; the update is alpha / rank · B A.
        dropout: dropout on the adapter's input. Zero keeps the reference equal to the policy at the start.
        targets: module names, or "all-linear".
        task: what the model is to peft.
    """
    from peft import LoraConfig, get_peft_model

    scale: Any = alpha  # peft annotates it as an integer and takes any number
    unread = textless_modules(bare(model))
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        lora_dropout=dropout,
        target_modules=targets,
        exclude_modules=rf"({'|'.join(map(re.escape, unread))})(\..*)?" if unread else None,
        task_type=task,
        bias="none",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied layers, which are parted before anything is merged
            adapted: nn.Module = get_peft_model(bare(model), config)
    except ValueError as problem:
        names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise UserError(
            f"LoRA cannot be put on {targets}: {reason(problem)}",
            f"Linear layers of this model: {', '.join(sorted(names))}.",
        ) from None
    record_base(adapted)
    return adapted


def hide_progress_bars() -> None:
    """Switch off transformers' progress bars for loading and writing weights."""
    transformers_logging.disable_progress_bar()


def make_deterministic(model: nn.Module) -> None:
    """Switch off everything random in a forward, apart from dropout of adapters.

    Dropout is set to zero. Routers that add noise or draw their experts in training choose them as in evaluation.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0
    for module in bare(model).modules():
        # Many layers keep their probability as a plain number (`attention_dropout`, `attn_pdrop`, `layerdrop`, …).
        for name, value in module.__dict__.items():
            if "drop" in name and isinstance(value, float):
                module.__dict__[name] = 0.0
        if any(word in name for name in module.__dict__ for word in _NOISY):
            module.register_forward_pre_hook(_as_in_evaluation)


_NOISY = ("jitter", "noise")
"""Words in the attributes of layers that draw something in training (`router_jitter_noise`, `moe_jitter_eps`, …)."""


def _as_in_evaluation(module: nn.Module, _arguments: object) -> None:
    # The number itself stays: some routers (PhiMoE's) compare with it in evaluation too.
    module.training = False


def is_quantised(model: nn.Module) -> bool:
    """Return whether the weights are stored in fewer bits than they are computed in."""
    return "quantization_config" in bare(model).config.to_dict()


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Drop the quantisation settings of a model read from GGUF, whose weights are already plain."""
    model.config.__dict__.pop("quantization_config", None)
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__["is_quantized"] = False


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" is the fastest available.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) from None
    if (device.index or 0) >= {"cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}.get(device.type, 1):
        raise UserError(f"This machine has no device {name}.", "Use --device auto.")
    return device
