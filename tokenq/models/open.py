"""Open a model by any name: located, loaded, identified, proven exact, with its limits known.

A name is a hub id, a folder, an adapter, a GGUF file, or a model that is in memory already. What an earlier run found
is kept (`identity`, `forward.proof_cache`), and what this process has open is shared. A model that is to be trained is
loaded for its trainer alone (`load`).
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenq.collector import collector_paused
from tokenq.errors import UserError
from tokenq.models.adapters import base_of, is_adapter_folder, leaves_base
from tokenq.models.classifier import open_classifier
from tokenq.models.forward.packed_lm import PackedLM, is_peft
from tokenq.models.forward.policy import ReferencedPolicy
from tokenq.models.forward.proof import Proof
from tokenq.models.forward.proof_cache import proven
from tokenq.models.forward.reward_lm import REWARDS, RewardLM, output_weights
from tokenq.models.identity import ModelIdentity, kept_identity
from tokenq.models.limits import ModelLimits, named_limits
from tokenq.models.load import DTYPES, ModelSpec, is_quantised, load_model, same_dtype, stored_dtype
from tokenq.models.stamps import Stamp, refuse_moved, stamped
from tokenq.models.tokenizer import check_vocabularies, open_tokenizer, same_tokens

Say = Callable[[str], None]


@dataclass(frozen=True)
class OpenedModel:
    """A model opened for reading.

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

    @property
    def limits(self) -> tuple[ModelLimits, str]:
        """The model's limits, and its name."""
        return named_limits(self.lm.model)


@dataclass(frozen=True)
class OpenedPair:
    """A policy and the reference that it is read against.

    Attributes:
        models: both of them.
        tokenizer: the policy's.
        other_tokenizer: the reference's, where its tokens are others.
        identities: (policy, reference) as provenance has them.
        limits: of each model that is loaded, the policy's first.
        files: stamps of the files that the weights are mapped from.
        warnings: what may be wrong with this pair.
        base: what the policy is with its adapter off, where that is the reference.
    """

    models: ReferencedPolicy
    tokenizer: PreTrainedTokenizerBase
    other_tokenizer: PreTrainedTokenizerBase | None
    identities: tuple[dict[str, Any], dict[str, Any]]
    limits: tuple[tuple[ModelLimits, str], ...]
    files: tuple[Stamp, ...]
    warnings: tuple[str, ...] = ()
    base: ModelSpec | None = None


@dataclass(frozen=True)
class OpenedRewards:
    """A reward model opened for reading.

    Attributes:
        lm: reads its outputs at every target of a batch.
        opened: the model behind it.
        weights: what each output weighs in the reward.
    """

    lm: RewardLM
    opened: OpenedModel
    weights: tuple[float, ...]


_open: dict[Any, tuple[weakref.ref[PackedLM], int]] = {}


def open_model(
    spec: ModelSpec,
    attention: str = "auto",
    max_length: int = 1024,
    say: Say = lambda _: None,
    load: Callable[[ModelSpec], nn.Module] = load_model,
    proof: Proof | None = None,
) -> OpenedModel:
    """Open the model that `spec` names for reading; readers of the same model share it.

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
    identity, finite = kept_identity(lambda: model, spec, files, say, kind=load.__name__)
    base = identity
    if spec.adapter is not None or (not named and is_peft(model)):
        base, _ = kept_identity(lambda: model, spec, files, say, load.__name__, "off")
    if lm is None:
        lm = proven(model, attention, max_length, proof, known=finite and named, say=say)
        refuse_moved(files)
        if named:
            _open[key] = weakref.ref(lm), _changes(lm)
    return OpenedModel(lm, identity, base, files)


def open_pair(
    policy: ModelSpec,
    reference: ModelSpec | None,
    attention: str = "auto",
    max_length: int = 1024,
    say: Say = lambda _: None,
) -> OpenedPair:
    """Open a policy and its reference for reading.

    An adapter without a reference is read against its base: one model in memory where switching it off gives the base.

    Args:
        policy: the policy.
        reference: the reference; None for the base of an adapter.
        attention: as in `open_model`.
        max_length: longest sequence of the job.
        say: told what could not be done as asked.

    Raises:
        UserError: a model is missing, or there is nothing to read the policy against.
    """
    read = partial(open_model, attention=attention, max_length=max_length, say=say)
    if reference is not None:
        return _separate(policy, read(policy), reference, read)
    if policy.loaded is not None and policy.loaded.has_adapter:
        base = replace(policy, path=f"the base of {policy.name}", loaded=policy.loaded.base())
        return _switched_off(policy, read(policy), base)
    if policy.loaded is not None or not is_adapter_folder(policy.path):
        raise UserError(
            f"{policy.path} needs a --reference: it is no adapter, which could be switched off.",
            "Name the model that it was trained from.",
        )
    base = replace(policy, path=base_of(policy.path, policy.base), base=None)
    own = read(replace(base, adapter=policy.path))
    own = replace(own, identity=replace(own.identity, path=policy.path))
    return _switched_off(policy, own, base) if leaves_base(own.lm.model) else _separate(policy, own, base, read)


def _separate(
    policy: ModelSpec, own: OpenedModel, reference: ModelSpec, read: Callable[[ModelSpec], OpenedModel]
) -> OpenedPair:
    tokenizer, theirs = open_tokenizer(policy), open_tokenizer(reference)
    other = read(same_dtype(own.lm.model, reference))
    shared = same_tokens(tokenizer, theirs)
    if shared:
        check_vocabularies(own.lm.model, other.lm.model)
    rounded = tuple(
        f"{spec.path} has quantised weights: its log-probs are those of a rounded model"
        for spec, one in ((policy, own), (reference, other))
        if spec.path.endswith(".gguf") or is_quantised(one.lm.model)
    )
    return OpenedPair(
        ReferencedPolicy(own.lm, other.lm),
        tokenizer,
        None if shared else theirs,
        (own.identity.to_dict(), other.identity.to_dict()),
        (own.limits, other.limits),
        own.files + other.files,
        rounded,
    )


def _switched_off(policy: ModelSpec, own: OpenedModel, base: ModelSpec) -> OpenedPair:
    identities = own.identity.to_dict(), own.base.to_dict() | {"path": base.path}
    pair = ReferencedPolicy(own.lm, None)
    return OpenedPair(pair, open_tokenizer(policy), None, identities, (own.limits,), own.files, base=base)


def open_reward_model(
    spec: ModelSpec,
    weights: Mapping[str, str | float] | None = None,
    attention: str = "auto",
    max_length: int = 1024,
    say: Say = lambda _: None,
) -> OpenedRewards:
    """Open a reward model that is read at every token.

    Args:
        spec: what to open.
        weights: of its outputs by name, where it has several.
        attention: as in `open_model`.
        max_length: longest sequence of the job.
        say: told what could not be done as asked.

    Raises:
        NoTokenHead: it says something of whole texts alone.
        UserError: there is no such model, or its outputs are several and nobody says what each weighs.
    """
    opened = open_model(spec, attention, max_length, say, open_classifier, REWARDS)
    lm = RewardLM(opened.lm)
    return OpenedRewards(lm.eval(), opened, output_weights(lm.attributes, weights, spec.path))


def weights_of(spec: ModelSpec, load: Callable[[ModelSpec], nn.Module] = load_model) -> str:
    """Return the hash of a model's weights; the model is loaded only if the hash is not known.

    Args:
        spec: what it is.
        load: loads it.

    Raises:
        UserError: there is no such model.
    """
    spec = _typed(spec)
    return kept_identity(partial(load, spec), spec, stamped(spec), kind=load.__name__)[0].weights


def _typed(spec: ModelSpec) -> ModelSpec:
    """Return the spec with the checkpoint's dtype in place of "auto", so that the same weights have one key."""
    stored = stored_dtype(spec) if spec.dtype == "auto" and spec.loaded is None else None
    names = [name for name, dtype in DTYPES.items() if dtype == stored]
    return replace(spec, dtype=names[0]) if names else spec


def _held(key: Any) -> PackedLM | None:
    """Return the open model of a key if it is still in use and unchanged."""
    found, changes = _open.get(key, (None, 0))
    lm = None if found is None else found()
    return lm if lm is not None and _changes(lm) == changes else None


def _changes(model: nn.Module) -> int:
    """Return how often weights were changed in place."""
    return sum(parameter._version for parameter in model.parameters())
