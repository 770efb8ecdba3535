"""Texts to token ids, and back: exactly what was written, and the piece that each token adds to it.

Encoding puts the tokenizer's leading special tokens in front exactly once.

Tokenizers decode a sequence as if it were a whole text: the blank of a first word goes, spaces before marks may be
tidied away, and bytes that make no character become U+FFFD. What a model wrote stands behind its prompt, so its text
is what decoding prompt and response adds to decoding the prompt, with nothing tidied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.data.chat.template import Tokenizer
from tokenq.errors import UserError
from tokenq.records.examples import TokenResponse

Ids = NDArray[np.int32]

UNKNOWN = "\ufffd"
"""The character that decoders write for bytes that are no character (yet)."""

WINDOW = 8
"""Tokens that are decoded before a new one, to see what it adds; doubled where they begin inside a character."""


@dataclass(frozen=True, eq=False)
class ResponseText:
    """The positions of a response's tokens in its text.

    Attributes:
        prompt: the text before the response.
        text: the response, with the marks of a chat template where one was used.
        ends: [n] for each token, one past its last character in `text`. What lies between two ends is the piece of a
            token; the pieces give the text back. Tokens that have parts of one character share a piece, which stands
            with the first of them. A token without a character in the response has an empty piece: an EOS that was
            added, what the response re-reads of the prompt.
    """

    prompt: str
    text: str
    ends: Ids

    def fitted(self, response: TokenResponse) -> "ResponseText":
        """Return the text of a response that may have been cut from the right."""
        if len(response.ids) == len(self.ends):
            return self
        ends = self.ends[: len(response.ids)]
        return ResponseText(self.prompt, self.text[: int(ends[-1])], ends)


_LOCATED_AT_ONCE = 256
"""Texts encoded together where it is asked where their tokens stand: that is many objects, for a while."""


@dataclass(frozen=True, eq=False)
class EncodedText:
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

    def encode(self, texts: Iterable[str]) -> dict[str, EncodedText]:
        """Return the ids of every text, in one call of the tokenizer, or in a few where it says where tokens stand."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return {}
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        if not self.locates:
            found = self.tokenizer(unique, **options)
            return {text: self._dressed(ids) for text, ids in zip(unique, found["input_ids"], strict=True)}
        encoded: dict[str, EncodedText] = {}
        try:
            for start in range(0, len(unique), _LOCATED_AT_ONCE):
                some = unique[start : start + _LOCATED_AT_ONCE]
                found = self.tokenizer(some, return_offsets_mapping=True, **options)
                rows = zip(some, found["input_ids"], found["offset_mapping"], strict=True)
                encoded |= {text: self._dressed(ids, offsets) for text, ids, offsets in rows}
        except NotImplementedError as error:
            raise UserError(
                "The tokenizer cannot say where its tokens stand in a text.",
                "Take a fast one: save the model with a tokenizer.json.",
            ) from error
        return encoded

    def _dressed(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]] | None = None) -> EncodedText:
        own, size = list(ids), len(self.prefix)
        while size and tuple(own[:size]) == self.prefix:
            own = own[size:]
        lost = len(ids) - len(own)
        located = None if offsets is None else np.array([*[0] * size, *_ends(offsets[lost:])], np.int32)
        return EncodedText(np.array([*self.prefix, *own], np.int32), size - lost, located)


def _ends(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the end of each token in characters; tokens that share a character end where its last one does."""
    ends = [end for _, end in offsets]
    for place in range(len(ends) - 2, -1, -1):
        start, end = offsets[place + 1]
        if start < min(offsets[place][1], end):
            ends[place] = max(ends[place], ends[place + 1])
    return ends


def common_tokens(first: Ids, second: Ids) -> int:
    """Return the length of the longest common prefix of two rows of ids."""
    size = min(len(first), len(second))
    differ = np.flatnonzero(first[:size] != second[:size])
    return int(differ[0]) if len(differ) else size


def text_of(tokenizer: Any, prompt: Sequence[int], response: Sequence[int]) -> str:
    """Return the text of a response, without special tokens.

    Args:
        tokenizer: a tokenizer of `transformers`.
        prompt: token ids before it.
        response: token ids.
    """
    context = _context(tokenizer, prompt)
    before = _decoded(tokenizer, context)
    whole = _decoded(tokenizer, [*context, *response])
    if whole.startswith(before) and not before.endswith(UNKNOWN) and UNKNOWN not in whole[len(before) :]:
        return whole[len(before) :]
    return "".join(pieces_of(tokenizer, prompt, response))


def pieces_of(tokenizer: Any, prompt: Sequence[int], response: Sequence[int]) -> list[str]:
    """Return the piece of text that each token of a response adds; joined they are the text.

    A character of several tokens stands with its last one; special tokens, and others that only begin a character, add
    nothing. Bytes that no token completes are U+FFFD.

    Args:
        tokenizer: a tokenizer of `transformers`.
        prompt: token ids before it.
        response: token ids.
    """
    said = Pieces(tokenizer, prompt)
    pieces = [said.of(token) for token in response]
    place, rest = said.rest()
    if rest:
        pieces[place] = rest
    return pieces


class Pieces:
    """The piece that each token adds to a text, token by token as they come; `pieces_of` says which.

    Args:
        tokenizer: a tokenizer of `transformers`.
        prompt: token ids before the text.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._known = _context(tokenizer, prompt)  # tokens whose text is said: what follows is decoded behind them
        self._before = _decoded(tokenizer, self._known)
        self._held: list[int] = []  # tokens of a character that is not complete
        self._count = 0

    def of(self, token: int) -> str:
        """Return the piece of the next token."""
        tokenizer, held = self._tokenizer, self._held
        self._count += 1
        held.append(token)
        whole = _decoded(tokenizer, [*self._known, *held])
        said = whole[len(self._before) :] if whole.startswith(self._before) else _amid(tokenizer, held)
        if not said.endswith(UNKNOWN):
            self._known, self._before, self._held = [*self._known, *held], whole, []
            if len(self._known) > 2 * WINDOW:  # not at every token: finding where to begin costs as much as the token
                self._known = _context(tokenizer, self._known)
                self._before = _decoded(tokenizer, self._known)
            return said
        if size := _character(tokenizer, held):
            said = _added(tokenizer, self._known, held[:-size]) + _amid(tokenizer, held[-size:])
            self._known, self._held = held[-size:], []
            self._before = _decoded(tokenizer, self._known)
            return said
        return ""

    def rest(self) -> tuple[int, str]:
        """Return what the tokens of a character that nothing completes say, and with which token it stands."""
        held = self._held
        if not held:  # nothing is left
            return -1, ""
        last = max((place for place, token in enumerate(held) if _decoded(self._tokenizer, [token])), default=0)
        return self._count - len(held) + last, _added(self._tokenizer, self._known, held)


def piece_of(tokenizer: Any, token: int, before: Sequence[int] = ()) -> str:
    """Return the text that a token adds after others, or inside a text if none are given; special tokens by name.

    Args:
        tokenizer: a tokenizer of `transformers`.
        token: its id.
        before: ids of the tokens before it.
    """
    said = _added(tokenizer, before[-WINDOW:], [token]) if before else _amid(tokenizer, [token])
    return said or whole_text(tokenizer, [token])


def whole_text(tokenizer: Any, ids: Iterable[int]) -> str:
    """Return the text of a whole sequence, special tokens by name, nothing tidied."""
    numbers = [int(number) for number in ids]
    return str(tokenizer.decode(numbers, skip_special_tokens=False, clean_up_tokenization_spaces=False))


_USUAL = "PreTrainedTokenizerBase.decode"
"""The `decode` of transformers: it looks at every number, and hands a list of them to the tokenizer's `_decode`."""


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    decode = tokenizer._decode if type(tokenizer).decode.__qualname__ == _USUAL else tokenizer.decode
    return str(decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _context(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Return the last tokens that begin at a character: enough context to decode what follows."""
    size = WINDOW
    while size < len(ids):
        some = list(ids[-size:])
        said = _decoded(tokenizer, some)
        if said.strip() and UNKNOWN not in said:
            return some
        size *= 2
    return list(ids)


def _character(tokenizer: Any, held: Sequence[int]) -> int:
    """Return how many tokens at the end form one character, 0 if none do.

    Decoders of single bytes give up a whole run of them for one that is no character.
    """
    for size in range(1, min(4, len(held) - 1) + 1):
        text = _amid(tokenizer, held[-size:])
        if text and UNKNOWN not in text:
            return size
    return 0


def _added(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text that tokens add after others, decoded alone if both together are invalid bytes."""
    said, whole = _decoded(tokenizer, before), _decoded(tokenizer, [*before, *tokens])
    return whole[len(said) :] if whole.startswith(said) else _amid(tokenizer, tokens)


def _amid(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens after a letter: at the start of a text a leading blank would be lost."""
    letter = tokenizer.encode("a", add_special_tokens=False)[-1:]
    said, whole = _decoded(tokenizer, letter), _decoded(tokenizer, [*letter, *tokens])
    return whole.removeprefix(said)
