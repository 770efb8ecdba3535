"""Rows that are nearly the same, without comparing every two: MinHash signatures in bands.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3. How alike two texts are is the
Jaccard index of their pairs of neighbouring words. Two rows are alike when both their prompts and their responses are:
many data sets have many rows for a prompt, which is no fault. A band therefore holds values of both signatures, and
rows meet only where both agree. All that meet are compared by their word pairs themselves, which lie in a temporary
file: 100,000 rows of a few hundred words take no memory to speak of.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.curation.audit.texts import Words
from tokenq.listener import Progress, silent

BANDS = 40
"""Bands of a signature."""

_PROMPT, _RESPONSES = 2, 3
"""Values of each signature in a band: rows of one prompt are common, so that responses weigh more."""

_BATCH = 256
"""Rows whose signatures are computed at once."""

_CROWD = 12
"""Rows of a bucket that are all compared with each other; of a larger one each with the first and with the next."""

_RNG = np.random.default_rng(20_231_107)
_FACTORS = _RNG.integers(0, 2**31, BANDS * (_PROMPT + _RESPONSES), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
_ADDED = _RNG.integers(0, 2**32, BANDS * (_PROMPT + _RESPONSES), dtype=np.uint32)
_EDGE = np.array([0x9E3779B9], np.uint32)

Pairs = NDArray[np.uint32]
"""Pairs of neighbouring words, sorted, each once."""


def word_pairs(words: Words, salt: int = 0) -> Pairs:
    """Return the pairs of neighbouring words of a text, its edges with them, by their hashes.

    Args:
        words: of the text.
        salt: texts of different salt have no pair in common.
    """
    edged = np.concatenate([_EDGE, words, _EDGE])
    mixed = edged[:-1] * np.uint32(0x85EBCA6B) + _rotated(edged[1:]) + np.uint32(salt * 0x27D4EB2F % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # Wellons's mixing of 32 bits
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return np.unique(mixed ^ (mixed >> np.uint32(16)))


def _rotated(values: Words) -> Words:
    return (values << np.uint32(13)) | (values >> np.uint32(19))


def jaccard(first: Pairs, second: Pairs) -> float:
    """Return the share of what two sets have together that they have in common."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


class Alike(NamedTuple):
    """Two rows that are alike.

    Attributes:
        first: place of the one.
        second: place of the other, later one.
        likeness: the smaller Jaccard index of the two: of their prompts, of their responses.
    """

    first: int
    second: int
    likeness: float


class Likenesses:
    """Collects rows, and finds those that are alike."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (until `close`)
        self._ends: list[int] = [0]
        self._waiting: list[tuple[Pairs, Pairs]] = []
        self._keys: list[NDArray[np.uint64]] = []

    def add(self, prompt: Words, responses: Sequence[tuple[int, Words]]) -> None:
        """Add a row.

        Args:
            prompt: words of its prompt.
            responses: (salt, words) of its responses.
        """
        said = [word_pairs(words, salt) for salt, words in responses]
        own = word_pairs(prompt), said[0] if len(said) == 1 else np.unique(np.concatenate(said))
        for part in own:
            self._file.write(part.tobytes())
            self._ends.append(self._ends[-1] + len(part))
        self._waiting.append(own)
        if len(self._waiting) == _BATCH:
            self._flush()

    def close(self) -> None:
        """Let go of the temporary file."""
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            prompts, responses = zip(*self._waiting, strict=True)
            split = BANDS * _PROMPT
            asked, said = _signatures(prompts, slice(split)), _signatures(responses, slice(split, None))
            banded = np.concatenate([asked.reshape(BANDS, _PROMPT, -1), said.reshape(BANDS, _RESPONSES, -1)], 1)
            key = np.zeros((BANDS, len(prompts)), np.uint64)
            for place in range(_PROMPT + _RESPONSES):
                key = (key ^ banded[:, place].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
            self._keys.append(key)
            self._waiting = []

    def pairs(self, least: float, progress: Progress = silent) -> list[Alike]:
        """Return rows that are alike, by the places at which they were added; those alike to one row may be left out.

        Args:
            least: the smallest likeness that counts; two rows of likeness 0.6 meet with probability 0.96.
            progress: told how many of those that meet are compared.
        """
        self._flush()
        if not self._keys:
            return []
        keys = np.concatenate(self._keys, 1)
        count = keys.shape[1]
        met = np.unique(np.concatenate([code for band in keys for code in _meeting(band, count)] or [_NONE]))
        self._file.flush()
        sets: Pairs = np.memmap(self._file, np.uint32, "r")
        found = []
        for number, code in enumerate(met.tolist(), 1):
            first, second = divmod(code, count)
            likeness = jaccard(self._part(sets, 2 * first + 1), self._part(sets, 2 * second + 1))
            if likeness >= least:
                likeness = min(likeness, jaccard(self._part(sets, 2 * first), self._part(sets, 2 * second)))
            if likeness >= least:
                found.append(Alike(first, second, likeness))
            if number % 10_000 == 0 or number == len(met):
                progress(number, len(met))
        return found

    def _part(self, sets: Pairs, place: int) -> Pairs:
        return sets[self._ends[place] : self._ends[place + 1]]


_NONE = np.zeros(0, np.int64)


def _signatures(sets: Sequence[Pairs], which: slice) -> NDArray[np.uint32]:
    """Return [values, rows] the smallest hash of each set under each of some functions; no set is empty."""
    joined = np.concatenate(sets)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in sets])[:-1]])
    found = np.empty((len(_FACTORS[which]), len(sets)), np.uint32)
    for place, (factor, added) in enumerate(zip(_FACTORS[which], _ADDED[which], strict=True)):
        found[place] = np.minimum.reduceat(joined * factor + added, starts)
    return found


def _meeting(band: NDArray[np.uint64], count: int) -> Iterator[NDArray[np.int64]]:
    """Yield codes (first · count + second) of rows that are in one bucket of a band."""
    order = np.argsort(band, kind="stable")
    bounds = np.flatnonzero(np.diff(band[order])) + 1
    starts, ends = np.concatenate([[0], bounds]), np.concatenate([bounds, [count]])
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        members = order[start:end].astype(np.int64)
        if len(members) <= _CROWD:
            one, other = np.triu_indices(len(members), 1)
            yield members[one] * count + members[other]
        else:
            yield members[0] * count + members[1:]
            yield members[:-1] * count + members[1:]
