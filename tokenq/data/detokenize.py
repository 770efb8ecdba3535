"""From token ids back to text: the exact text, and the piece that each token adds.

Tokenizers decode a sequence as if it were a whole text: the blank of a first word goes, spaces before marks may be
tidied away, and bytes that make no character become U+FFFD. What a model wrote stands behind its prompt, so its text
is what decoding prompt and response adds to decoding the prompt, with nothing tidied.
"""

from collections.abc import Iterable, Sequence
from typing import Any

UNKNOWN = "\ufffd"
"""The character that decoders write for bytes that are no character (yet)."""

WINDOW = 8
"""Tokens that are decoded before a new one, to see what it adds; doubled where they begin inside a character."""


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
    known = _context(tokenizer, prompt)  # tokens whose text is said: what follows is decoded behind them
    before = _decoded(tokenizer, known)
    held: list[int] = []  # tokens of a character that is not complete
    pieces = []
    for token in response:
        held.append(token)
        whole = _decoded(tokenizer, [*known, *held])
        said = whole[len(before) :] if whole.startswith(before) else _amid(tokenizer, held)
        if not said.endswith(UNKNOWN):
            known, before, held = [*known, *held], whole, []
            if len(known) > 2 * WINDOW:  # not at every token: finding where to begin costs as much as the token
                known = _context(tokenizer, known)
                before = _decoded(tokenizer, known)
        elif size := _character(tokenizer, held):
            said = _added(tokenizer, known, held[:-size]) + _amid(tokenizer, held[-size:])
            known, held = held[-size:], []
            before = _decoded(tokenizer, known)
        else:
            said = ""
        pieces.append(said)
    if held:  # stands with the last of them that says anything
        last = max((place for place, token in enumerate(held) if _decoded(tokenizer, [token])), default=0)
        pieces[len(pieces) - len(held) + last] = _added(tokenizer, known, held)
    return pieces


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


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


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
