"""Encode texts to token ids, with the tokenizer's leading special tokens exactly once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tokenq.data.chat import Tokenizer
from tokenq.errors import UserError

Ids = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The ids of a text, with the tokenizer's leading special tokens once.

    Attributes:
        ids: token ids [n].
        shift: tokens put before what the text alone gives; below zero when doubled ones were removed.
        ends: [n] one past the last character of each token, where that was asked for. Tokens that have parts of one
            character end together, so that every end is a border between tokens.
    """

    ids: Ids
    shift: int
    ends: Ids | None


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer, and the special tokens it puts around a text.

    Attributes:
        tokenizer: the tokenizer.
        prefix: the ids that it puts before every text: BOS, for a tokenizer that uses it.
        eos: the id of EOS.
        locates: whether to ask where tokens stand in the text.
    """

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    eos: int
    locates: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer, locates: bool = False) -> "Encoder":
        """Return the encoder of a tokenizer.

        Raises:
            UserError: for a tokenizer without EOS.
        """
        if tokenizer.eos_token_id is None:
            raise UserError(
                "The tokenizer has no EOS token, so that a response could not end.",
                'Set "eos_token" in the tokenizer_config.json of the model.',
            )
        bare = list(tokenizer(["a"], add_special_tokens=False)["input_ids"][0])
        dressed = list(tokenizer(["a"], add_special_tokens=True)["input_ids"][0])
        starts = [start for start in range(len(dressed)) if bare and dressed[start : start + len(bare)] == bare]
        return cls(tokenizer, tuple(dressed[: starts[0]] if starts else ()), tokenizer.eos_token_id, locates)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The special tokens as text, EOS first."""
        special = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return tuple(dict.fromkeys([str(self.tokenizer.eos_token), *special]))

    def encode(self, texts: Iterable[str]) -> dict[str, Encoded]:
        """Return the ids of every text, in one call of the tokenizer."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return {}
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        if not self.locates:
            found = self.tokenizer(unique, **options)
            return {text: self._dressed(ids) for text, ids in zip(unique, found["input_ids"], strict=True)}
        try:
            found = self.tokenizer(unique, return_offsets_mapping=True, **options)
        except NotImplementedError as error:
            raise UserError(
                "The tokenizer cannot say where its tokens stand in a text.",
                "Take a fast one: save the model with a tokenizer.json.",
            ) from error
        rows = zip(unique, found["input_ids"], found["offset_mapping"], strict=True)
        return {text: self._dressed(ids, offsets) for text, ids, offsets in rows}

    def _dressed(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]] | None = None) -> Encoded:
        own, size = list(ids), len(self.prefix)
        while size and tuple(own[:size]) == self.prefix:
            own = own[size:]
        lost = len(ids) - len(own)
        located = None if offsets is None else np.array([*[0] * size, *_ends(offsets[lost:])], np.int32)
        return Encoded(np.array([*self.prefix, *own], np.int32), size - lost, located)


def _ends(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the end of each token in characters; tokens that share a character end where its last one does."""
    ends = [end for _, end in offsets]
    for place in range(len(ends) - 2, -1, -1):
        start, end = offsets[place + 1]
        if start < min(offsets[place][1], end):
            ends[place] = max(ends[place], ends[place + 1])
    return ends
