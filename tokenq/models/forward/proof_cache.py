"""Cache the outcome of proofs: the fastest exact way of batching for a kind of model.

It depends on the architecture, on every number of the configuration, on shapes, types, device and versions, and not on
the weights, so that a policy in training is not proven anew after each of its steps.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenq.cache import PROOFS, Answer, cached, sources, versions
from tokenq.models.forward.lengths import SHORT, length_limit
from tokenq.models.forward.packed_lm import PackedLM, bare, is_peft
from tokenq.models.forward.proof import LOG_PROBS, TOLERANCES, Proof, fastest_exact, probe_groups

_USES_MEASURED = 8
"""After so many uses a proof in half precision is repeated: what is tolerated there is measured on the weights."""

_PROVERS = (
    "tokenq.models.forward.proof",
    "tokenq.models.forward.packed_lm",
    "tokenq.models.forward.attention",
    "tokenq.models.forward.cache",
    "tokenq.models.forward.reward_lm",
    "tokenq.models.forward.lengths",
    "tokenq.models.forward.proof_of_steps",
    "tokenq.models.forward.single_rows",
    "tokenq.models.forward.stepper",
    "tokenq.core.packing",
    "tokenq.core.logps",
    "tokenq.core.logits",
    "tokenq.core.readout",
)
"""The modules that a proof depends on: the ways, the rows, the truth that they are held to."""

_BASE = "base_model_name_or_path"


def proven(
    model: nn.Module,
    choice: str = "auto",
    max_length: int = 1024,
    proof: Proof | None = None,
    *,
    known: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> PackedLM:
    """Return the model with its fastest exact way, proven now or by an earlier run for the same kind of model.

    Args:
        model: a causal LM, or another model with a proof of its own.
        choice: "auto", or the name of a way.
        max_length: longest sequence of the job.
        proof: what the ways are held to; log-probs when None.
        known: whether its numbers follow from what the proof depends on. A model in memory, which anybody may have
            changed, is always put to the proof, and so is one with weights that are not finite.
        say: told what could not be done as asked, and when a kept outcome was wrong.

    Raises:
        UserError: as `fastest_exact`.
    """
    proof = proof or LOG_PROBS
    found: list[PackedLM] = []

    def find() -> Answer:
        lm, warnings = fastest_exact(model, choice, max_length, proof)
        found.append(lm)
        return {"way": lm.way, "limit": lm.limit, "steps": lm.steps, "warnings": warnings}

    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if known and torch.float16 not in types:  # in which overflow depends on the weights
        uses = {} if types <= TOLERANCES.keys() else {"uses": _USES_MEASURED}
        answer = cached(
            PROOFS, _depends(model, choice, max_length, proof), find, decides=("way", "limit", "steps"), say=say, **uses
        )
    else:
        answer = find()
    for warning in answer["warnings"]:
        say(warning)
    return found[-1] if found else PackedLM(model, answer["way"], answer["limit"], steps=answer["steps"])


def numeric_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return the configuration without settings that cannot change the output (names, versions, dtype)."""
    idle = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in idle and "drop" not in key}


def _depends(model: nn.Module, choice: str, max_length: int, proof: Proof) -> dict[str, Any]:
    """Return everything the outcome depends on, as plain data."""
    lm = bare(model)
    tensors = sorted((*model.named_parameters(), *model.named_buffers()), key=lambda one: one[0])
    shapes = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors]
    rows = [[len(g.prompt_ids), [len(r.ids) for r in g.responses]] for g in probe_groups(lm)]
    device = next(model.parameters()).device
    return {
        "architecture": [f"{type(lm).__module__}.{type(lm).__qualname__}", _source_of(type(lm))],
        "config": numeric_config(lm),
        "attention": [choice, lm.config._attn_implementation],
        "shapes": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        "adapters": _adapters(model),
        "rows": [rows, SHORT, max_length if length_limit(lm) is not None else None],
        "proof": [f"{f.__module__}.{f.__qualname__}" for f in (proof.got, proof.want)] + list(proof.ways),
        "provers": sources(*_PROVERS),
        "device": [device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else ""],
        "processor": torch.backends.cpu.get_cpu_capability(),
        "precision": torch.get_float32_matmul_precision(),
        "versions": versions("torch", "transformers", "peft"),
    }


def _adapters(model: nn.Module) -> list[str]:
    if not is_peft(model):
        return []
    wrapped: Any = model
    found = [config.to_dict() for config in wrapped.peft_config.values()]
    return [
        repr([(k, sorted(v) if isinstance(v, set) else str(v)) for k, v in sorted(one.items()) if k != _BASE])
        for one in found
    ]


def _source_of(kind: type) -> str:
    """Return a hash of the source file of a class: code that comes with a model has no version."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""
