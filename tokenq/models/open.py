"""Opening a model to read it: files, weights, identity and the fastest exact way through it, each found once.

What an earlier run has found is kept (`tokenq.models.identity`, `tokenq.models.proof_cache`), and what this process has
open already is shared. A model that is to be trained is loaded for its trainer alone (`tokenq.models.load`).
"""

import hashlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import try_to_load_from_cache

from tokenq.collector import collector_paused
from tokenq.files import read_json
from tokenq.models.adapters import adapter_config, adapter_folder, base_of, is_adapter_folder
from tokenq.models.checkpoint import locate
from tokenq.models.forward.packed_lm import PackedLM, is_peft
from tokenq.models.forward.proof import Proof
from tokenq.models.identity import ModelIdentity, kept_identity
from tokenq.models.load import (
    DTYPES,
    TOKENIZER_FILES,
    ModelSpec,
    device_of,
    load_model,
    load_tokenizer,
    with_end,
)
from tokenq.models.precision import stored_dtype
from tokenq.models.proof_cache import proven
from tokenq.models.stamps import Stamp, refuse_moved, stamps

Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Opened:
    """A model that is read and not changed.

    Attributes:
        lm: the model behind its fastest exact way.
        identity: what it is.
        base: what it is with the adapter of its spec off; the same where there is none.
        files: stamps of the files that its weights are mapped from.
    """

    lm: PackedLM
    identity: ModelIdentity
    base: ModelIdentity
    files: tuple[Stamp, ...]


_open: dict[Any, tuple[weakref.ref[PackedLM], int]] = {}
_tokenizers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def open_model(
    spec: ModelSpec,
    attention: str = "auto",
    max_length: int = 1024,
    say: Say = _silent,
    load: Callable[[ModelSpec], nn.Module] = load_model,
    proof: Proof | None = None,
) -> Opened:
    """Return the model that `spec` names, to be read and left as it is: others that read it share it.

    Args:
        spec: what to open.
        attention: "auto", or the name of a way of batching.
        max_length: longest sequence of the job.
        say: told what could not be done as asked.
        load: loads it; a causal LM unless said otherwise.
        proof: what ways of batching are held to; log-probs when None.

    Raises:
        UserError: there is no such model, its files change while they are read, or no way through it is exact.
    """
    spec = _typed(spec)
    before = stamped(spec)
    key, named = (spec, before, attention, max_length, load, proof), spec.loaded is None
    lm = _held(key) if named else None
    with collector_paused():
        model = load(spec) if lm is None else lm.model
    files = before or stamped(spec)  # a hub's were fetched just now
    identity, finite = known_identity(lambda: model, spec, files, say, kind=load.__name__)
    base = identity
    if spec.adapter is not None or (not named and is_peft(model)):
        base, _ = known_identity(lambda: model, spec, files, say, load.__name__, "off")
    if lm is None:
        lm = proven(model, attention, max_length, proof, known=finite and named, say=say)
        refuse_moved(files)
        if named:
            _open[key] = weakref.ref(lm), _changes(lm)
    return Opened(lm, identity, base, files)


def known_identity(
    model: Callable[[], nn.Module],
    spec: ModelSpec,
    files: tuple[Stamp, ...],
    say: Say = _silent,
    kind: str = "load_model",
    adapter: Literal["on", "off"] = "on",
) -> tuple[ModelIdentity, bool]:
    """Return the identity of a model that is as its files have it, and whether its weights are finite.

    Args:
        model: gives the model where it must be hashed.
        spec: what it is.
        files: from `stamped`, before it was loaded.
        say: told when a kept identity was wrong.
        kind: name of what loads it.
        adapter: "off" identifies the base below the adapter.
    """
    made = {
        "kind": kind,
        "dtype": spec.dtype,
        "adapted": spec.adapter is not None,
        "trust_remote_code": spec.trust_remote_code,
        "merged on": device_of(spec.device).type if spec.loaded is None and is_adapter_folder(spec.path) else "",
    }
    return kept_identity(model, spec.name, files, made, adapter, say)


def weights_of(spec: ModelSpec, load: Callable[[ModelSpec], nn.Module] = load_model) -> str:
    """Return the hash of a model as a training begins with it; it is loaded only where the hash is not known.

    Args:
        spec: what it is.
        load: loads it.

    Raises:
        UserError: there is no such model.
    """
    spec = _typed(spec)
    return known_identity(partial(load, spec), spec, stamped(spec), kind=load.__name__)[0].weights


def open_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the tokenizer that belongs to `spec`, one for all folders that hold the same; it is not to be changed.

    Raises:
        UserError: as `load_tokenizer`.
    """
    if spec.loaded is not None:
        return with_end(spec.loaded.tokenizer, spec.path)
    content = _content(spec)
    found: PreTrainedTokenizerBase | None = _tokenizers.get(content)
    if found is None:
        with collector_paused():
            found = _tokenizers[content] = load_tokenizer(spec)
    return found


def stamped(spec: ModelSpec) -> tuple[Stamp, ...]:
    """Return the stamps of all files that decide the weights; none where they are in memory, or not on this disk.

    Raises:
        UserError: there is no model at that place.
    """
    if spec.loaded is not None:
        return ()
    places = _places(spec.path, spec.revision, spec.base)
    if spec.adapter is not None:
        places += (adapter_folder(spec.adapter),)
    return () if None in places else stamps([place for place in places if place is not None])


def _places(path: str, revision: str | None, base: str | None = None) -> tuple[Path | None, ...]:
    """Return the folders and files that a path stands for: for an adapter alone its base as well."""
    place = Path(path).expanduser()
    if is_adapter_folder(path):
        own = adapter_folder(path)
        return own, *_places(base_of(path, base), revision or (adapter_config(own).get("revision") if own else None))
    if place.exists():
        return (place,)
    cached = try_to_load_from_cache(path, "config.json", revision=revision) if path.count("/") < 2 else None
    return (Path(cached).parent if isinstance(cached, str) else None,)


def _typed(spec: ModelSpec) -> ModelSpec:
    """Return the spec with its type by name, where the checkpoint says which: the same weights have one key."""
    stored = stored_dtype(spec) if spec.dtype == "auto" and spec.loaded is None else None
    names = [name for name, dtype in DTYPES.items() if dtype == stored]
    return replace(spec, dtype=names[0]) if names else spec


def _held(key: Any) -> PackedLM | None:
    """Return the model of a key where somebody holds it still, as it was opened."""
    found, changes = _open.get(key, (None, 0))
    lm = None if found is None else found()
    return lm if lm is not None and _changes(lm) == changes else None


def _changes(model: nn.Module) -> int:
    """Return how often any weight was changed in place."""
    return sum(parameter._version for parameter in model.parameters())


def _content(spec: ModelSpec) -> str:
    """Return a hash of all files that a tokenizer is made of; of its name where these are not in one local folder."""
    if spec.adapter is not None or is_adapter_folder(spec.path):
        return repr([spec, stamped(spec)])
    folder, gguf = locate(spec.path)
    place = Path(folder)
    asked = [gguf, spec.revision, spec.trust_remote_code]
    if not place.is_dir() or gguf:
        return repr([folder, *asked, stamps([place / gguf["gguf_file"]] if gguf else [])])
    digest = hashlib.sha256(repr(asked).encode())
    for file in sorted({file for name in (*TOKENIZER_FILES, "*.json", "*.jinja") for file in place.glob(name)}):
        if file.is_file() and file.name not in _OF_WEIGHTS:
            told = file.read_bytes() if file.name != "config.json" else _kind(file)
            digest.update(f"{file.name} {len(told)} ".encode())
            digest.update(told)
    return digest.hexdigest()


def _kind(file: Path) -> bytes:
    """Return what transformers takes from a model's configuration when it makes a tokenizer."""
    wanted = ("model_type", "tokenizer_class", "auto_map", "transformers_version")
    return repr([read_json(file).get(name) for name in wanted]).encode()


_OF_WEIGHTS = {"generation_config.json", "adapter_config.json", "model.safetensors.index.json"}
"""JSON files in a model's folder that no tokenizer reads."""
