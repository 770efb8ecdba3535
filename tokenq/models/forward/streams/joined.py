"""Flat rows of several structures: steps of branches, and parts of prompts that are read, go through a model together.

Linear layers and the head see one row; attention runs part by part, each as its own layout has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenq.models.forward.attention import Attends, Layout, Scoring

Layers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [key-value heads, …, d] by layer."""


@dataclass(frozen=True)
class Joined:
    """A flat row of parts that do not see each other.

    Attributes:
        parts: the structure of each part, and its number of tokens.
    """

    parts: Sequence[tuple[Attends, int]]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output [1, T, heads, d], part by part."""
        if len(self.parts) == 1:
            return self.parts[0][0].attend(module, query, key, value, scoring)
        sizes = [size for _, size in self.parts]
        split = zip(self.parts, *(torch.split(tensor, sizes, 2) for tensor in (query, key, value)), strict=True)
        outputs = [layout.attend(module, q, k, v, scoring) for (layout, _), q, k, v in split]
        return torch.cat(outputs, 1)


@dataclass
class Pieces:
    """The next tokens of several prompts, behind what was read of each before.

    Attributes:
        before: keys and values of what was read; empty for a prompt that is new.
        layout: has the positions of the new tokens, and the masks.
        lengths: new tokens of each prompt.
        after: keys and values of what has then been read, once every layer has seen the row.
    """

    before: Sequence[Layers]
    layout: Layout
    lengths: Sequence[int]
    after: list[Layers] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.after = [{} for _ in self.before]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Return the attention output [1, T, heads, d], and remember keys and values."""
        layer, outputs = module.layer_idx, []
        split = zip(*(torch.split(tensor, list(self.lengths), 2) for tensor in (query, key, value)), strict=True)
        for before, after, (asked, keys, values) in zip(self.before, self.after, split, strict=True):
            known = 0
            if layer in before:
                known = before[layer][0].shape[1]
                keys, values = (
                    torch.cat((old[None], new), 2) for old, new in zip(before[layer], (keys, values), strict=True)
                )
            # A copy: a slice would keep the whole row of this step, and hold what the next layer writes.
            after[layer] = (keys[0], values[0]) if known else (keys[0].clone(), values[0].clone())
            outputs.append(self.layout.run(asked, keys, values, known, scoring))
        return torch.cat(outputs, 2).transpose(1, 2)


def text_of(layers: Layers, stop: int) -> Layers:
    """Return keys and values of the first tokens of a text."""
    return {number: (keys[:, :stop], values[:, :stop]) for number, (keys, values) in layers.items()}


def length_of(layers: Layers) -> int:
    """Return how many tokens keys and values are of."""
    return next((keys.shape[1] for keys, _ in layers.values()), 0)


def size_of(layers: Layers) -> int:
    """Return the bytes of keys and values."""
    return sum(keys.nbytes + values.nbytes for keys, values in layers.values())
