"""Texts that were read or written, with their keys and values: what begins as one of them is read from there on.

A chat that goes on, another branch of a text, and the next response to a prompt share what stands before. The least
recently used are forgotten first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tokenq.models.forward.streams.joined import Layers, length_of, size_of, text_of

MOST_TEXTS = 256
"""Texts that are kept at most: each new prompt is held against all of them."""

Said = tuple[float, tuple[tuple[int, float], ...]]
"""The log-prob of a token of a prompt, and (id, log-prob) of the likeliest in its place."""


@dataclass(eq=False)
class Remembered:
    """A text with its keys and values.

    Attributes:
        tokens: [T] its ids.
        layers: keys and values [heads, T, d].
        said: log-probs of its first tokens, the very first (which nothing predicts) left out.
        alternatives: of each of these.
    """

    tokens: NDArray[np.int64]
    layers: Layers
    said: Sequence[Said] = ()
    alternatives: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Weigh it."""
        self.size = size_of(self.layers)


def shared_length(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    shorter = min(len(one), len(other))
    differ = one[:shorter] != other[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


class TextMemory:
    """The texts that were used last.

    It belongs to one model, and to its weights as they are.

    Args:
        most: bytes of keys and values that are kept.
    """

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._texts: dict[int, Remembered] = {}

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self._texts)

    def find(self, prompt: NDArray[np.int64], alternatives: int | None) -> tuple[Layers, list[Said]]:
        """Return what is known of the beginning of a prompt: its keys and values, and its log-probs.

        Its last token is always read anew, since something is to be predicted.

        Args:
            prompt: token ids.
            alternatives: how many are asked for at every token of the prompt; None where its log-probs are not.
        """
        best, length = None, 0
        for text in self._texts.values():
            common = shared_length(prompt, text.tokens)
            if alternatives is not None:  # what is said of a token stands before it: the last common one is read again
                common = min(common - 1, len(text.said)) if text.alternatives >= alternatives else 0
            common = min(common, len(prompt) - 1)
            if common > length:
                best, length = text, common
        if best is None:
            return {}, []
        self._texts[id(best)] = self._texts.pop(id(best))  # the last used is the last in line
        said = [] if alternatives is None else [(one, tops[:alternatives]) for one, tops in best.said[:length]]
        return text_of(best.layers, length), said

    def keep(self, tokens: Sequence[int], layers: Layers, said: Sequence[Said] = (), alternatives: int = 0) -> None:
        """Keep a text in place of those that it begins with, and forget the oldest where that is too much.

        Args:
            tokens: of the text; those behind its keys and values do not count.
            layers: keys and values [heads, T, d].
            said: log-probs of its tokens from the second on; empty where they were not asked for.
            alternatives: of each of these.
        """
        new = Remembered(np.asarray(tokens[: length_of(layers)], np.int64), layers, tuple(said), alternatives)
        if new.size > self.most:
            return
        for key, old in list(self._texts.items()):
            common = shared_length(old.tokens, new.tokens)
            if common == len(old.tokens) and _says_no_more(old, new):
                self._forget(key)
            elif common == len(new.tokens) and _says_no_more(new, old):
                self._texts[key] = self._texts.pop(key)
                return
        self._texts[id(new)] = new
        self.size += new.size
        while self.size > self.most or len(self._texts) > MOST_TEXTS:
            self._forget(next(iter(self._texts)))

    def clear(self) -> None:
        """Forget everything."""
        self._texts.clear()
        self.size = 0

    def _forget(self, key: int) -> None:
        self.size -= self._texts.pop(key).size


def _says_no_more(one: Remembered, other: Remembered) -> bool:
    """Return whether all that is said of the tokens of one text is said of those of another, which begins with it."""
    return not one.said or (len(one.said) <= len(other.said) and one.alternatives <= other.alternatives)
