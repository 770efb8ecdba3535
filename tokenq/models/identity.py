"""The identity of a model, with a hash of its weights: for provenance, and as a key of stored results.

The hash of a gigabyte takes a second, and it is the same as long as nobody touches the files; so it is kept beside
their stamps (`tokenq.cache`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokenq.cache import IDENTITIES, cached, sources, versions
from tokenq.models.adapters import adapter_scales, base_name, is_adapter_folder, is_adapter_weight
from tokenq.models.forward.packed_lm import bare
from tokenq.models.forward.proof_cache import numeric_config
from tokenq.models.load import ModelSpec, device_of
from tokenq.models.stamps import Stamp, is_remote, settled

_USES_REMOTE = 8
"""After so many uses the identity of files that another machine keeps is checked: their stamps are second-hand."""

_MAKERS = tuple(
    f"tokenq.models.{name}" for name in ("identity", "load", "checkpoint", "adapters", "merging", "classifier")
)
"""The modules that decide which weights come of which files."""


@dataclass(frozen=True)
class ModelIdentity:
    """The identity of a model, for provenance and as a key of its log-probs.

    Attributes:
        path: where it came from.
        architecture: class name.
        parameters: number of weights.
        dtype: compute type.
        weights: SHA-256 over the configuration and every weight, hexadecimal.
    """

    path: str
    architecture: str
    parameters: int
    dtype: str
    weights: str

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain data."""
        return asdict(self)


def identify(model: nn.Module, path: str, *, adapter: Literal["on", "off"] = "on") -> ModelIdentity:
    """Return the identity of a model in memory: all that its log-probs depend on, and nothing else.

    Args:
        model: the model, bare or wrapped by peft.
        path: where it came from (recorded, not hashed).
        adapter: "off" identifies the base below the adapter.
    """
    base = bare(model)
    described = [numeric_config(base), *(adapter_scales(model) if adapter == "on" else [])]
    digest = hashlib.sha256("".join(json.dumps(part, sort_keys=True) for part in described).encode())
    parameters = 0
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in _weights(model, adapter):
        place = tensor.data_ptr(), tensor.shape
        if place in seen:  # tied weights are one tensor under two names
            digest.update(f"{name} = {seen[place]}".encode())
            continue
        seen[place] = name
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        parameters += tensor.numel()
    dtype = str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
    return ModelIdentity(path, type(base).__name__, parameters, dtype, digest.hexdigest())


def kept_identity(
    model: Callable[[], nn.Module],
    spec: ModelSpec,
    files: Sequence[Stamp],
    say: Callable[[str], None] = lambda _: None,
    kind: str = "load_model",
    adapter: Literal["on", "off"] = "on",
) -> tuple[ModelIdentity, bool]:
    """Return the identity of a model loaded from files, and whether all its weights are finite; kept between runs.

    Args:
        model: gives the model where it must be hashed.
        spec: what it is.
        files: from `stamped`, before it was loaded.
        say: told when a kept identity was wrong.
        kind: name of what loads it.
        adapter: "off" identifies the base below the adapter.
    """
    path = spec.name

    def find() -> dict[str, Any]:
        live = model()
        finite = all(bool(p.isfinite().all()) for p in live.parameters() if p.is_floating_point())
        return identify(live, path, adapter=adapter).to_dict() | {"finite": finite}

    if settled(files):
        depends = {
            "files": [asdict(stamp) for stamp in files],
            "made": {
                "kind": kind,
                "dtype": spec.dtype,
                "adapted": spec.adapter is not None,
                "trust_remote_code": spec.trust_remote_code,
                "merged on": device_of(spec.device).type if is_adapter_folder(spec.path) else "",
            },
            "adapter": adapter,
            "versions": versions("torch", "transformers", "peft"),
            "makers": sources(*_MAKERS),
        }
        uses = {"uses": _USES_REMOTE} if any(is_remote(stamp.path) for stamp in files) else {}
        answer = cached(IDENTITIES, depends, find, decides=("weights", "dtype", "finite"), say=say, **uses)
    else:
        answer = find()
    finite = bool(answer.pop("finite"))
    return ModelIdentity(**answer | {"path": path}), finite


def _weights(model: nn.Module, adapter: Literal["on", "off"]) -> Iterator[tuple[str, Tensor]]:
    """Yield the active weights sorted by their names without peft's prefixes."""
    named = {}
    for name, tensor in model.state_dict().items():
        if adapter == "off" and is_adapter_weight(name):
            continue
        named[base_name(name)] = tensor
    return iter(sorted(named.items()))
