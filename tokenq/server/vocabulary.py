"""Tokens by themselves: the text that a client is shown for one, and the bytes that it stands for.

A token may hold a part of a character. Its text is then spelt as bytes, so that two of them are told apart and no
U+FFFD stands for what is no such character; joined, the bytes of a response's tokens are its text in UTF-8.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from tokenq.data.encoding import UNKNOWN, piece_of, whole_text

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Shown(NamedTuple):
    r"""A token as a client is shown it.

    Attributes:
        text: its text; special tokens by name, parts of characters as "bytes:\xf0\x9f".
        bytes: what it stands for; none for special tokens, which stand for no text.
    """

    text: str
    bytes: tuple[int, ...]


class Vocabulary:
    """The tokens of a tokenizer, looked up as they are needed and kept.

    Args:
        tokenizer: a tokenizer of `transformers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._known: dict[int, Shown] = {}

    def shown(self, token: int) -> Shown:
        """Return a token as a client is shown it."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._shown(token)
        return found

    def _shown(self, token: int) -> Shown:
        if token in self._special:
            return Shown(whole_text(self._tokenizer, [token]), ())
        text = piece_of(self._tokenizer, token)
        if UNKNOWN not in text:
            return Shown(text, tuple(text.encode()))
        raw = self._raw(token)
        try:
            return Shown(raw.decode(), tuple(raw))
        except UnicodeDecodeError:
            return Shown("bytes:" + "".join(f"\\x{one:02x}" for one in raw), tuple(raw))

    def _raw(self, token: int) -> bytes:
        """Return the bytes of a token that is no whole characters, as its vocabulary spells them."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):  # a row of the embedding that no token has
            return UNKNOWN.encode()
        if single := _FALLBACK.fullmatch(name):
            return bytes([int(single[1], 16)])
        table = _byte_level()
        if all(char in table for char in name):
            return bytes(table[char] for char in name)
        return name.encode()


@cache
def _byte_level() -> Mapping[str, int]:
    """Return the byte of each character with which byte-level vocabularies spell it.

    Printable bytes of Latin-1 stand for themselves, the others in their order for the characters from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}
