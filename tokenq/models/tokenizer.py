"""Load tokenizers, share them between folders with the same files, and compare the tokens of two."""

import copy
import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tokenq.collector import collector_paused
from tokenq.errors import UserError
from tokenq.files import read_json
from tokenq.models.adapters import adapter_folder, is_adapter_folder
from tokenq.models.checkpoint import from_pretrained, locate
from tokenq.models.forward.packed_lm import PackedLM, bare
from tokenq.models.load import ModelSpec, base_spec
from tokenq.models.stamps import stamped, stamps

_TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "*.py")
"""Patterns of the files of a tokenizer; its folder holds some of them."""

SLACK = 1024
"""Rows by which vocabularies may differ: embeddings padded to a round number, a few added tokens."""

_HINT = "Both must share one tokenizer; take the model that the policy was trained from as reference."

_tokenizers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def load_tokenizer(spec: ModelSpec, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `spec`.

    Args:
        spec: what to load.
        chat_template: a Jinja template that replaces the tokenizer's own, as text.

    Raises:
        UserError: when there is none, or it has no end-of-sequence token.
    """
    return require_eos(any_tokenizer(spec), spec.path, chat_template)


def any_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `spec`, which may have no end-of-sequence token.

    Raises:
        UserError: there is none.
    """
    if spec.loaded is not None:
        return copy.deepcopy(spec.loaded.tokenizer)
    own = spec.adapter and adapter_folder(spec.adapter)
    if own and (own / _TOKENIZER_CONFIG).is_file():  # its vocabulary may have grown
        spec = replace(spec, path=str(own))
    own = adapter_folder(spec.path)
    if own and not (own / _TOKENIZER_CONFIG).is_file():
        return any_tokenizer(base_spec(spec))
    folder, gguf = (str(own), {}) if own else locate(spec.path)
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code} | gguf
    if Path(folder).is_dir() and not gguf and not any(f for name in TOKENIZER_FILES for f in Path(folder).glob(name)):
        # transformers would return one that knows no word.
        raise UserError(f"The folder {folder} holds no tokenizer.", "Save it there: tokenizer.save_pretrained(folder).")
    found: PreTrainedTokenizerBase = from_pretrained(AutoTokenizer.from_pretrained, folder, options, spec.path)
    return found


def require_eos(
    tokenizer: PreTrainedTokenizerBase, path: str, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer if it has an end-of-sequence token, with its chat template replaced if asked.

    Args:
        tokenizer: given a chat template where there is one.
        path: where it came from.
        chat_template: replaces its own.

    Raises:
        UserError: it has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of {path} has no end-of-sequence token, so no response could ever end.",
            'Set "eos_token" in its tokenizer_config.json.',
        )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def open_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Open the tokenizer of `spec`, shared by all folders with the same files; do not change it.

    Raises:
        UserError: as `load_tokenizer`.
    """
    if spec.loaded is not None:
        return require_eos(spec.loaded.tokenizer, spec.path)
    content = _content(spec)
    found: PreTrainedTokenizerBase | None = _tokenizers.get(content)
    if found is None:
        with collector_paused():
            found = _tokenizers[content] = load_tokenizer(spec)
    return found


def check_vocabularies(policy: nn.Module, reference: nn.Module) -> None:
    """Raise a UserError when the two models give log-probs to vocabularies of different size.

    Embeddings padded to a round number of rows are no mismatch as long as both cover the tokenizer.
    """
    sizes = [bare(model).config.get_text_config().vocab_size for model in (policy, reference)]
    if abs(sizes[0] - sizes[1]) > SLACK:
        raise UserError(f"The policy has a vocabulary of {sizes[0]} tokens, the reference one of {sizes[1]}.", _HINT)


def check_tokenizers(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> None:
    """Raise a UserError when the two tokenizers give different ids to the same token, or know different tokens."""
    difference = _difference(policy, reference)
    if difference:
        raise UserError(difference, _HINT)


def same_tokens(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> bool:
    """Return whether both tokenizers give ids the same meaning; a few added tokens are no difference."""
    return not _difference(policy, reference)


def _difference(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> str:
    """Return the difference between two tokenizers in words, "" if there is none."""
    if policy is reference:
        return ""
    ours, theirs = policy.get_vocab(), reference.get_vocab()
    moved = [token for token, number in ours.items() if theirs.get(token, number) != number]
    if moved:
        token = moved[0]
        ids = f"{token!r} is {ours[token]} in the policy and {theirs[token]} in the reference"
        return f"{len(moved)} tokens have other ids in the reference than in the policy: {ids}."
    unknown = ours.keys() - theirs.keys() - policy.get_added_vocab().keys()
    if unknown:
        return f"The reference does not know {len(unknown)} tokens of the policy, such as {min(unknown)!r}."
    return ""


def _content(spec: ModelSpec) -> str:
    """Return a hash of a tokenizer's files, or of its name if they are not in one local folder."""
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
    """Return the parts of a model's configuration that transformers reads to make a tokenizer."""
    wanted = ("model_type", "tokenizer_class", "auto_map", "transformers_version")
    return repr([read_json(file).get(name) for name in wanted]).encode()


_OF_WEIGHTS = {"generation_config.json", "adapter_config.json", "model.safetensors.index.json"}
"""JSON files in a model's folder that no tokenizer reads."""


def ends_of(policy: PackedLM, tokenizer: Any, texts: Sequence[str]) -> tuple[int, ...]:
    """Return the ids that end a response: the tokenizer's, the model's own, and those that were asked for.

    Raises:
        UserError: a text is not one token.
    """
    said = policy.lm.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])} - {None}
    for text in texts:
        tokens = tokenizer.encode(text.replace("\\n", "\n"), add_special_tokens=False)
        if len(tokens) != 1:
            raise UserError(f"--eos {text!r} is {len(tokens)} tokens, not one.", "Give the text of a single token.")
        ids.add(tokens[0])
    return tuple(sorted(ids))
