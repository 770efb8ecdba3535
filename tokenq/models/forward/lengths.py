"""Settings that act only on long rows (windows, chunks, rotary scalings), and how to make them act on short ones.

Windows, chunks and the keys that sparse attention keeps act only on rows that are longer; some rotary scalings take
their frequencies from the longest row of a batch. While such a length is made small in the live model, rows of a dozen
tokens show what long rows would.
"""

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

SHORT = 6
"""The length that all others become: every row of the proof is longer, or has others beside it that are."""

_NAMES = frozenset(
    {
        *("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "window_size"),
        *("index_topk", "keep_window_size", "floor_scale"),
        *("original_max_position_embeddings", "original_max_seq_len", "max_seq_len_cached"),
    }
)
"""Names of such lengths in configurations and in layers."""

_BLOCKS = {"index_topk_blocks": "index_block_size", "topk_blocks": "block_size"}
"""Names of how many blocks of keys sparse attention keeps, and of the size of a block: their product is the length."""

_OF_LONGEST = ("dynamic", "longrope")
"""Rotary scalings that look at the longest row of a batch."""


def length_limit(model: PreTrainedModel) -> int | None:
    """Return the smallest length at which the model treats rows differently; None if no length matters."""
    found = [place[name] for place in _configs(model) for name in _NAMES & place.keys()]
    found += [place[count] * place[size] for place in _configs(model) for count, size in _blocks(place)]
    found += [place["max_position_embeddings"] for place in _dynamic(model)]
    return min((int(one) for one in found if _is_length(one)), default=None)


@contextlib.contextmanager
def short_lengths(model: PreTrainedModel) -> Iterator[None]:
    """Shrink all such lengths of the model for the duration of the block, then restore them."""
    undone: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
    rotary = [module for module in model.modules() if any("inv_freq" in name for name in module._buffers)]
    for module in rotary:  # it keeps what it has found for the lengths that it saw
        kept = {name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()}
        undone += [(module.__dict__, dict(module.__dict__)), (module._buffers, kept)]
    places: list[MutableMapping[str, Any]] = [*_configs(model), *(module.__dict__ for module in model.modules())]
    names = _NAMES | ({"max_position_embeddings"} if _dynamic(model) else set())
    for place in places:
        short = dict.fromkeys((name for name in names & place.keys() if _is_length(place[name])), SHORT)
        for count, size in _blocks(place):
            short |= {count: 1, size: SHORT}
        undone.append((place, {name: place[name] for name in short}))
        place.update(short)
    try:
        yield
    finally:
        for place, values in undone:
            place.update(values)


def forget_lengths(body: nn.Module) -> None:
    """Reset rotary scalings that grow with the rows they have seen."""
    for module in body.modules():
        own, buffers = module.__dict__, module._buffers
        for name in [name for name in own if name.endswith("max_seq_len_cached")]:
            if own[name] != own.get("original_max_seq_len", own[name]):
                prefix = name.removesuffix("max_seq_len_cached")
                first = own.get(f"{prefix}original_inv_freq", buffers.get(f"{prefix}original_inv_freq"))
                now = buffers[f"{prefix}inv_freq"]
                assert first is not None
                assert now is not None
                buffers[f"{prefix}inv_freq"] = first.to(now)
                own[name] = own["original_max_seq_len"]


def _configs(model: PreTrainedModel) -> list[MutableMapping[str, Any]]:
    """Return the settings of all configurations in a model, and of their rotary scalings."""
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}
    for module in model.modules():
        config = module.__dict__.get("config")
        if isinstance(config, PreTrainedConfig):
            configs[id(config)] = config
    found: list[MutableMapping[str, Any]] = []
    for config in configs.values():
        found.append(config.__dict__)
        found += [part for part in _rotary(config.__dict__) if part.get("rope_type") in _OF_LONGEST]
    return found


def _rotary(settings: MutableMapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rotary parameters of a configuration, those of kinds of layers among them."""
    scaling = settings.get("rope_parameters") or {}
    return [part for part in (scaling, *scaling.values()) if isinstance(part, dict)]


def _blocks(place: MutableMapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names of (count, size) of the blocks that sparse attention keeps."""
    return [(count, size) for count, size in _BLOCKS.items() if count in place and size in place]


def _dynamic(model: PreTrainedModel) -> list[MutableMapping[str, Any]]:
    """Return the configurations with dynamic rotary scaling, which begins at `max_position_embeddings`."""
    return [
        place
        for place in _configs(model)
        if any(part.get("rope_type") == "dynamic" for part in _rotary(place)) and "max_position_embeddings" in place
    ]


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > SHORT
