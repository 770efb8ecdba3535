"""What could have stood at the tokens of a response, by columns: an entry that is in several lists is kept once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tokenq.records.trace_records import LISTS, Alternative, Numbers


@dataclass(frozen=True, eq=False)
class Alternatives:
    """What could have stood at each of n tokens: M entries, those of a token together, and three lists of them.

    Attributes:
        beta: KL temperature of the rewards.
        counts: [n] how many entries a token has; the policy's choices are the first of them.
        ids: [M] token ids.
        logps: [M] log π.
        ref_logps: [M] log π_ref.
        words: [M] which of the texts it is.
        texts: texts, perhaps those of other traces too.
        sizes: how many of each list a token has, [n] by the name of the list.
        places: which entries of their token they are, one token after the other, by the name of the list.
    """

    beta: float
    counts: Numbers
    ids: Numbers
    logps: Numbers
    ref_logps: Numbers
    words: Numbers
    texts: Sequence[str]
    sizes: Mapping[str, Numbers]
    places: Mapping[str, Numbers]

    @cached_property
    def offsets(self) -> Numbers:
        """[n] the first entry of each token."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def rewards(self) -> Numbers:
        """[M] β (log π − log π_ref)."""
        rewards: Numbers = self.beta * (self.logps - self.ref_logps)
        return rewards

    @property
    def said(self) -> list[str]:
        """[M] their texts."""
        return [self.texts[word] for word in self.words.tolist()]

    def entries(self, name: str) -> Numbers:
        """Return the entries of a list, one token after the other."""
        entries: Numbers = np.repeat(self.offsets, self.sizes[name]) + self.places[name]
        return entries

    def firsts(self, name: str) -> Numbers:
        """Return the entry that is the first of a list, [n]; at a token without one it means nothing."""
        sizes = self.sizes[name]
        firsts: Numbers = self.offsets + np.append(self.places[name], 0)[np.cumsum(sizes) - sizes]
        return firsts

    def walked(self) -> Iterator[dict[str, tuple[Alternative, ...]]]:
        """Yield the lists of each token by name."""
        columns = (self.ids.tolist(), self.said, self.logps.tolist(), self.ref_logps.tolist(), self.rewards.tolist())
        every = [Alternative(*values) for values in zip(*columns, strict=True)]
        lists = {}
        for name, sizes in self.sizes.items():
            found = [every[entry] for entry in self.entries(name).tolist()]
            ends = np.cumsum(sizes).tolist()
            lists[name] = [tuple(found[end - size : end]) for size, end in zip(sizes.tolist(), ends, strict=True)]
        yield from (dict(zip(lists, one, strict=True)) for one in zip(*lists.values(), strict=True))

    def spread(self, tokens: Numbers) -> "Alternatives":
        """Return the same among further tokens, at which there is nothing; a mask says which the n tokens are."""

        def among(counts: Numbers) -> Numbers:
            found = np.zeros(len(tokens), counts.dtype)
            found[tokens] = counts
            return found

        sizes = {name: among(sizes) for name, sizes in self.sizes.items()}
        return replace(self, counts=among(self.counts), sizes=sizes)

    def __getitem__(self, tokens: slice) -> "Alternatives":
        """Return what could have stood at some tokens."""
        begin, end, _ = tokens.indices(len(self.counts))

        def within(counts: Numbers) -> slice:
            return slice(int(counts[:begin].sum()), int(counts[:end].sum()))

        held = within(self.counts)
        return Alternatives(
            beta=self.beta,
            counts=self.counts[begin:end],
            ids=self.ids[held],
            logps=self.logps[held],
            ref_logps=self.ref_logps[held],
            words=self.words[held],
            texts=self.texts,
            sizes={name: sizes[begin:end] for name, sizes in self.sizes.items()},
            places={name: self.places[name][within(sizes)] for name, sizes in self.sizes.items()},
        )

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same."""
        return isinstance(other, Alternatives) and list(self.walked()) == list(other.walked())

    __hash__ = None  # type: ignore[assignment]  # columns can be changed


def alternatives_of(lists: Mapping[str, Sequence[Sequence[Alternative]]], beta: float, count: int) -> Alternatives:
    """Return the alternatives of tokens as columns.

    Args:
        lists: a list a token, by the name of the list.
        beta: KL temperature.
        count: how many tokens there are.
    """
    entries: list[Alternative] = []
    counts = np.zeros(count, np.int64)
    places: dict[str, list[int]] = {name: [] for name in LISTS}
    for token in range(count):
        own: dict[Alternative, int] = {}
        for name in LISTS:
            places[name] += [own.setdefault(one, len(own)) for one in lists[name][token]]
        entries += own
        counts[token] = len(own)
    words: dict[str, int] = {}
    codes = [words.setdefault(one.text, len(words)) for one in entries]
    return Alternatives(
        beta,
        counts,
        np.array([one.id for one in entries], np.int64),
        np.array([one.logp for one in entries], np.float64),
        np.array([one.ref_logp for one in entries], np.float64),
        np.array(codes, np.int64),
        list(words),
        {name: np.array([len(one) for one in lists[name]], np.int64) for name in LISTS},
        {name: np.array(places[name], np.int64) for name in LISTS},
    )


def no_alternatives(beta: float, count: int) -> Alternatives:
    """Return that nothing is known to stand at so many tokens."""
    whole, numbers = np.zeros(0, np.int64), np.zeros(0)
    sizes, places = dict.fromkeys(LISTS, np.zeros(count, np.int64)), dict.fromkeys(LISTS, whole)
    return Alternatives(beta, np.zeros(count, np.int64), whole, numbers, numbers, whole, (), sizes, places)
