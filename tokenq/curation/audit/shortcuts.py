"""What tells chosen from rejected without being understood: length, the first word, format, a bag of words.

Each is a logistic regression on differences of chosen and rejected, without a constant, so that it knows nothing of
the order; its accuracy is that on folds that it has not seen, with all pairs of a prompt in one fold.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tokenq.curation.audit.texts import HASHES, Words, first_word
from tokenq.data.sources import prompt_ranks
from tokenq.stats.bootstrap import PLAIN, Estimate, Resampling, mean_intervals

Floats = NDArray[np.float64]

MOST_PAIRS = 10_000
"""Pairs that are looked at; of more, those of as many prompts, drawn."""

_FOLDS = 5
_FEWEST = 3
"""Pairs in which a word stands that counts."""

_SIGNS = {"lines": "\n", "bold": "**", "code": "`", "question marks": "?", "exclamation marks": "!", "links": "://"}
_PATTERNS = {
    "items of lists": re.compile(r"^\s*(?:[-*•+]|\d{1,3}[.)])\s", re.M),
    "headings": re.compile(r"^\s*#{1,6}\s", re.M),
    "digits": re.compile(r"\d"),
    "quotation marks": re.compile(r"[\"“”]"),
    "emoji": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"),
}
"""Format as counts of signs and of patterns, by name; beside them how a text begins and ends."""

FORMAT_NAMES = (*_SIGNS, *_PATTERNS, "ends with a mark", "begins with a capital")


class Side(NamedTuple):
    """A response of a pair.

    Attributes:
        text: as it stands.
        normalised: without letter case and blanks.
        words: of the normalised text.
    """

    text: str
    normalised: str
    words: Words


@dataclass(frozen=True)
class Kept:
    """What is kept of a pair: for (chosen, rejected) characters, words, the hash of the first word, format; words."""

    prompt: int
    lengths: tuple[int, int]
    firsts: tuple[int, int]
    formats: tuple[tuple[float, ...], tuple[float, ...]]
    words: tuple[Words, Words]


class Sides:
    """Collects pairs, at most `MOST_PAIRS`: those of the prompts of the lowest ranks, whatever order they come in."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[float, Kept]] = []
        self._ceiling = 1.0

    def add(self, prompt: int, chosen: Side, rejected: Side) -> None:
        """Add a pair.

        Args:
            prompt: hash of its prompt.
            chosen: the one.
            rejected: the other.
        """
        self.count += 1
        rank = float(prompt_ranks(np.array([prompt], np.uint64), 0)[0])
        if rank >= self._ceiling:
            return
        both = (chosen, rejected)
        kept = Kept(
            prompt,
            (len(chosen.text.strip()), len(rejected.text.strip())),
            (HASHES[first_word(chosen.normalised)], HASHES[first_word(rejected.normalised)]),
            (_format(chosen.text), _format(rejected.text)),
            (np.unique(both[0].words), np.unique(both[1].words)),
        )
        self._kept.append((rank, kept))
        if len(self._kept) > 2 * MOST_PAIRS:
            self._thin()

    def _thin(self) -> None:
        self._kept.sort(key=lambda one: one[0])
        self._kept = self._kept[:MOST_PAIRS]
        self._ceiling = self._kept[-1][0]

    def pairs(self) -> list[Kept]:
        """Return the pairs that are looked at, in the order of their ranks."""
        self._thin() if len(self._kept) > MOST_PAIRS else self._kept.sort(key=lambda one: one[0])
        return [kept for _, kept in self._kept]


def _format(text: str) -> tuple[float, ...]:
    said = text.strip()
    signs = [said.count(sign) for sign in _SIGNS.values()]
    counts = [*signs, *(len(pattern.findall(said)) for pattern in _PATTERNS.values())]
    return (*map(log1p, counts), float(said[-1:] in tuple(".!?…。！？")), float(said[:1].isupper()))


class Shortcut(NamedTuple):
    """What one of them comes to.

    Attributes:
        name: "length", "first_token", "format" or "bag_of_words".
        accuracy: on pairs that it was not fitted to, with its interval; ties count half.
        telling: the features that speak most for chosen, and for rejected, with their weights.
    """

    name: str
    accuracy: Estimate
    telling: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        ends = {"accuracy": self.accuracy.value, "low": self.accuracy.low, "high": self.accuracy.high}
        return {**ends, "telling": dict(self.telling)}


KINDS = {
    "length": "length_bias",
    "first_token": "first_token_bias",
    "format": "format_bias",
    "bag_of_words": "word_bias",
}
"""Shortcuts, to the kind of finding that one makes."""


def shortcuts(pairs: Sequence[Kept], how: Resampling = PLAIN) -> list[Shortcut]:
    """Return how far each shortcut goes; none for fewer prompts than folds.

    Args:
        pairs: what was kept of them.
        how: resamples and confidence of the intervals.
    """
    prompts = np.array([pair.prompt for pair in pairs], np.uint64)
    known, own = np.unique(prompts, return_inverse=True)
    if len(known) < 2 * _FOLDS:
        return []
    fold = (np.argsort(np.argsort(prompt_ranks(known, 1))) % _FOLDS)[own]
    tables = {
        "length": _Table(sparse.csr_matrix(_lengths(pairs)[:, None]), ("longer",)),
        "first_token": _bags([(np.array([a]), np.array([b])) for a, b in (pair.firsts for pair in pairs)]),
        "format": _Table(sparse.csr_matrix(_formats(pairs)), FORMAT_NAMES),
        "bag_of_words": _bags([pair.words for pair in pairs]),
    }
    right = np.stack([_held_out(table.values, fold) for table in tables.values()], 1)
    alone = len(known) == len(pairs)
    estimates = mean_intervals(right, None if alone else own.tolist(), how)
    return [
        Shortcut(name, estimate, _telling(table))
        for (name, table), estimate in zip(tables.items(), estimates, strict=True)
    ]


def _lengths(pairs: Sequence[Kept]) -> Floats:
    """Return the log-ratio of the lengths."""
    return np.array([np.log1p(pair.lengths[0]) - np.log1p(pair.lengths[1]) for pair in pairs])


def _formats(pairs: Sequence[Kept]) -> Floats:
    """Return differences of format, each in units of its spread."""
    table = np.array([np.subtract(*pair.formats) for pair in pairs])
    spread = np.sqrt((table**2).mean(0))
    return table / np.where(spread > 0, spread, 1.0)


class _Table(NamedTuple):
    """Features of the pairs.

    Attributes:
        values: [N, columns] differences of chosen and rejected.
        names: the features, one a column: words by their hashes.
    """

    values: sparse.csr_matrix
    names: Sequence[str] | Words


def _bags(both: Sequence[tuple[Words, Words]]) -> _Table:
    """Return +1 for the words of the chosen response, −1 for those of the rejected one."""
    marks = np.concatenate([part for pair in both for part in pair])
    signs = np.concatenate([part for a, b in both for part in (np.ones(len(a)), -np.ones(len(b)))])
    ends = np.concatenate([[0], np.cumsum([len(a) + len(b) for a, b in both])])
    names, places = np.unique(marks, return_inverse=True)
    table = sparse.csr_matrix((signs, places, ends), shape=(len(both), len(names)))
    table.sum_duplicates()
    table.eliminate_zeros()
    common = np.flatnonzero(np.bincount(table.indices, minlength=len(names)) >= _FEWEST)
    return _Table(table[:, common], names[common])


def _fitted(table: sparse.csr_matrix) -> Floats:
    """Return the weights of the features that tell a pair from its mirror image."""
    from sklearn.linear_model import LogisticRegression

    if not table.shape[1]:
        return np.zeros(0)
    signs = np.where(np.arange(table.shape[0]) % 2, -1.0, 1.0)
    model = LogisticRegression(C=0.3, fit_intercept=False, solver="liblinear", max_iter=200)
    found: Floats = model.fit(sparse.diags(signs) @ table, signs).coef_[0]
    return found


def _held_out(table: sparse.csr_matrix, fold: NDArray[np.int64]) -> Floats:
    """Return [N] 1 for a pair that is told right by weights of the other folds, 0 for wrong, ½ for a tie."""
    right = np.full(table.shape[0], 0.5)
    for one in range(_FOLDS):
        held = fold == one
        said = table[held] @ _fitted(table[~held])
        right[held] = np.where(said == 0, 0.5, said > 0)
    return right


_TOLD = 6


def _telling(table: _Table) -> tuple[tuple[str, float], ...]:
    """Return the features that tell most, by name, with their weights."""
    weights = _fitted(table.values)
    order = np.argsort(-np.abs(weights), kind="stable")[:_TOLD].tolist()
    if isinstance(table.names, np.ndarray):
        wanted = {int(table.names[place]) for place in order}
        words = {mark: word for word, mark in HASHES.items() if mark in wanted}
        named = [(words.get(int(table.names[place]), "?"), place) for place in order]
    else:
        named = [(table.names[place], place) for place in order]
    return tuple((name, float(weights[place])) for name, place in named)
