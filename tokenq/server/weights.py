"""Other weights for a pair that is served: an adapter on its policy, or a folder in the policy's place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.models.adapters import is_adapter_folder, leaves_base, with_adapter
from tokenq.models.forward.packed_lm import PackedLM, bare
from tokenq.models.forward.policy import ReferencedPolicy
from tokenq.models.forward.single_rows import set_attention
from tokenq.models.load import ModelSpec, same_dtype
from tokenq.models.loaded import Loaded, twin
from tokenq.models.open import OpenedModel, OpenedPair, open_model
from tokenq.models.tokenizer import check_vocabularies


def adapted(reader: Reader, path: str) -> Reader:
    """Return a pair whose policy has an adapter on top, on the same weights; the reference is the same.

    Both models are twins: layers of their own on the weights that are loaded already, so that each engine may set its
    own attention.

    Args:
        reader: the pair that is served.
        path: folder of the adapter.

    Raises:
        UserError: there is no adapter, or it was made for another base.
    """
    pair = _pair(reader)
    if not (Path(path).is_dir() and is_adapter_folder(path)):
        raise UserError(f"{path} holds no adapter.", "An adapter folder holds adapter_config.json.")
    below = _free(pair.models.policy, reader)
    base: Any = below.base().model if below.has_adapter else below.model
    model = with_adapter(base, path, trainable=False)
    own = _opened(reader, ModelSpec(path, loaded=Loaded(model, reader.tokenizer)))
    if pair.models.reference is None:
        if not leaves_base(own.lm.model):
            said = f"{path} changes its base, which is the reference."
            raise UserError(said, "Start the server with a reference of its own: --reference MODEL.")
        return _with(reader, own, None)
    spec = ModelSpec("reference", loaded=_free(pair.models.reference, reader))
    return _with(reader, own, _opened(reader, spec).lm)


def _free(lm: PackedLM, reader: Reader) -> Loaded:
    """Return a twin of a model that is read, with the attention that it had before."""
    model = twin(lm.model)
    set_attention(bare(model), lm.own_attention)
    return Loaded(model, reader.tokenizer)


def reloaded(reader: Reader, path: str) -> Reader:
    """Return a pair with the weights of a folder in the place of the policy's.

    Args:
        reader: the pair that is served.
        path: folder of a whole model.

    Raises:
        UserError: there is no model, or it knows other tokens.
    """
    pair = _pair(reader)
    if not Path(path).is_dir():
        raise UserError(f"There is no folder {path}.", "The server reads it: name one on a disk of its machine.")
    spec = replace(reader.options.spec(path), base=None)
    own = _opened(reader, same_dtype(pair.models.policy.model, spec))
    check_vocabularies(own.lm.model, pair.models.policy.model)
    for parameter in own.lm.parameters():  # whoever published the folder may take it away again
        parameter.data = parameter.data.clone()
    reference = pair.models.reference
    if reference is None and pair.base is not None:
        reference = _opened(reader, same_dtype(pair.models.policy.model, pair.base)).lm
    return _with(reader, own, reference)


def _pair(reader: Reader) -> OpenedPair:
    if reader.pair is None or reader.other_tokenizer is not None:
        raise UserError("The reference reads other tokens: no weights can be exchanged.", "Serve two of one tokenizer.")
    return reader.pair


def _opened(reader: Reader, spec: ModelSpec) -> OpenedModel:
    return open_model(spec, reader.options.attention, reader.options.max_length or 1024)


def _with(reader: Reader, own: OpenedModel, reference: PackedLM | None) -> Reader:
    """Return the reader with another policy, whose weights are in memory, and a reference; None switches it off."""
    pair = _pair(reader)
    changed = replace(
        pair,
        models=ReferencedPolicy(own.lm, reference),
        identities=(own.identity.to_dict(), pair.identities[1]),
        limits=(own.limits, *pair.limits[1:]),
        base=pair.base if reference is None else None,
    )
    return replace(reader, pair=changed, limits=(own.limits, *reader.limits[1:]))
