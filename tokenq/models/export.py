"""Write a policy as a folder that transformers (or peft) loads, with tokenizer and model card, and read it again."""

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenq.files import folder_aside, write_text
from tokenq.models.adapters import is_adapter_folder, rewritten_weights
from tokenq.models.checkpoint import processor_files
from tokenq.models.classifier import read_classifier
from tokenq.models.forward.packed_lm import PackedLM, bare, is_peft
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.models.load import DTYPES, ModelSpec, load_whole, stored_dtype
from tokenq.models.merging import merged

Form = Literal["as_trained", "merged"]
"""How a policy with an adapter is written: the adapter alone, or in its base."""

_ADAPTER = "adapter_model.safetensors"

Exact = Callable[[Tensor], Tensor]
"""Gives the tensor that holds a weight to the last bit: a copy of more bits where there is one, else itself."""


def export_policy(
    lm: PackedLM | RewardLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    state: Mapping[str, Tensor] | None = None,
    form: Form = "as_trained",
) -> None:
    """Write the policy to `folder`, which appears when it is complete.

    A model with an adapter is written as an adapter (peft's layout) with form "as_trained", any other in full
    (safetensors).

    Args:
        lm: the trained policy, or reward model.
        tokenizer: goes with it.
        folder: target.
        card: text of README.md.
        state: the gathered weights under `lm`'s names, when they are spread over processes.
        form: "merged" merges an adapter into its base, for a base that is on no disk (itself the result of a merge).
    """
    model: Any = lm.release()
    if form == "merged" and is_peft(model):
        model = merged(model, "of this run")
        state = None  # named as before the merge, and every process has all of it
    weights = None if state is None else {_bare_name(name): value for name, value in state.items()}
    with folder_aside(folder) as aside:
        _write(model, tokenizer, aside, card, weights)


def write_policy(
    lm: PackedLM | RewardLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    exact: Exact,
    state: Mapping[str, Tensor] | None = None,
    form: Form = "as_trained",
) -> None:
    """Fill a folder with the policy as it is in the middle of its training, which goes on untouched.

    Args:
        lm: the policy, or reward model.
        tokenizer: goes with it.
        folder: target, which is there.
        card: text of README.md.
        exact: gives the tensor that is written for a weight.
        state: the gathered weights under `lm`'s names, when they are spread over processes.
        form: "merged" merges a copy of an adapter into a copy of its base, in the memory of the CPU.
    """
    if state is not None:
        weights = {_bare_name(name): value for name, value in state.items()}
    else:
        weights = _live_weights(lm.model, exact)
    with lm.own_attention_restored() as model:
        if form == "merged" and is_peft(model):
            _write(merged(_copied(model, exact), "of this run"), tokenizer, folder, card)
        else:
            _write(model, tokenizer, folder, card, weights)


def read_policy(lm: PackedLM | RewardLM, folder: Path, exact: Exact) -> None:
    """Copy the weights that `write_policy` has written into the policy in memory, to the last bit.

    Args:
        lm: the policy, or reward model.
        folder: where they are.
        exact: gives the tensor that takes a weight.

    Raises:
        ValueError: the folder was written for other weights.
    """
    model: Any = lm.model
    if is_peft(model):
        copy_weights(load_file(folder / _ADAPTER), adapter_weights(lm, exact), folder)
        return
    own = _live_weights(model, exact)
    widest = reduce(torch.promote_types, {one.dtype for one in own.values() if one.is_floating_point()})
    stored, info = type(model).from_pretrained(folder, dtype=widest, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise ValueError(f"{folder} was written for other weights")
    copy_weights(stored.state_dict(), own, folder)


@torch.no_grad()
def copy_weights(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: Path) -> None:
    """Copy stored weights into those in memory.

    Raises:
        ValueError: they are not the same weights.
    """
    if stored.keys() != own.keys() or any(stored[name].shape != tensor.shape for name, tensor in own.items()):
        raise ValueError(f"{folder} was written for other weights")
    for name, tensor in own.items():
        tensor.copy_(stored[name])


def adapter_weights(lm: PackedLM | RewardLM, exact: Exact) -> dict[str, Tensor]:
    """Return the weights of an adapter in memory under the names that its file has."""
    from peft import get_peft_model_state_dict

    model: Any = lm.model
    found: dict[str, Tensor] = get_peft_model_state_dict(model, _live_weights(model, exact), **_layout(model))
    return found


def write_converted(spec: ModelSpec, folder: Path, *, rewards: bool, merge: bool) -> None:
    """Write the weights of a folder in another type, or those of an adapter merged into its base.

    Args:
        spec: the folder, and the type to write; with "auto" a merge is of the type that the base is stored in.
        folder: target, which is there.
        rewards: whether it is a reward model.
        merge: whether an adapter is merged.

    Raises:
        UserError: the adapter cannot be merged to the same numbers.
    """
    if is_adapter_folder(spec.path) and not merge:
        stored = load_file(Path(spec.path) / _ADAPTER)
        weights = {name: one.to(DTYPES[spec.dtype]) if one.is_floating_point() else one for name, one in stored.items()}
        save_file(weights, folder / _ADAPTER, metadata={"format": "pt"})
        return
    dtype = DTYPES.get(spec.dtype) or stored_dtype(spec)
    load = read_classifier if rewards else load_whole
    model: Any = load(replace(spec, dtype="float32") if merge else spec)
    model.to(dtype).save_pretrained(folder)


def _write(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str, weights: Mapping[str, Tensor] | None = None
) -> None:
    model.save_pretrained(folder, state_dict=weights, **_layout(model))
    if weights is not None and not is_peft(model):
        _record_dtype(model, folder, weights)
    tokenizer.save_pretrained(folder)
    for file in processor_files(bare(model)):
        shutil.copyfile(file, folder / file.name)
    write_text(folder / "README.md", card)


def _record_dtype(model: Any, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Record the type of the written weights in config.json, where they are written in more bits than they have."""
    own = model.named_parameters()
    other = {weights[name].dtype for name, one in own if name in weights and weights[name].dtype != one.dtype}
    if other:
        config = copy.deepcopy(model.config)
        config.dtype = reduce(torch.promote_types, other)
        config.save_pretrained(folder)


def _live_weights(model: nn.Module, exact: Exact) -> dict[str, Tensor]:
    """Return the state of a model, each weight in the tensor that holds it exactly."""
    own = {name: exact(one).detach() for name, one in model.named_parameters(remove_duplicate=False)}
    return {name: own.get(name, tensor) for name, tensor in model.state_dict().items()}


def _no_half(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _copied(model: nn.Module, exact: Exact) -> nn.Module:
    """Return a copy of a model in the memory of the CPU, in float32 or better; nothing is copied where the model is."""
    live = {id(one): exact(one).detach() for one in (*model.parameters(), *model.buffers())}
    own = {place: one.to("cpu", _no_half(one.dtype), copy=True) for place, one in live.items()}
    own |= {id(one): nn.Parameter(own[id(one)], one.requires_grad) for one in model.parameters()}
    return copy.deepcopy(model, own)


def _layout(model: Any) -> dict[str, Any]:
    """Return the options for saving an adapter: its own weights, and base weights that it replaced."""
    return {"save_embedding_layers": bool(rewritten_weights(model))} if is_peft(model) else {}


def _bare_name(name: str) -> str:
    return name.removeprefix("packed.").removeprefix("model.")
