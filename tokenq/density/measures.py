"""What a chain of summaries is worth: density, what each step adds and drops, and how it was made of its article.

Density is entities a token (arXiv 2309.04269, Table 1): an entity counts once in a summary, tokens are words and marks.
An entity of one summary is in another where its words stand there side by side, whatever finds entities there: a back
end that misses it the second time has not dropped it.

Fusion and lead bias are read off an alignment, as the paper does by the relative gain of ROUGE: to each sentence of a
summary, sentences of the article are added one after the other, always the one that raises the F1 of their words
against the summary's most, for as long as one does. Fusion is how many those are on average; lead bias the mean place
of them in the article, from 0 for its first sentence to 1 for its last: the smaller, the more of the lead.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tokenq.density.backends import Entities, Mentions, mentions
from tokenq.density.text import holds, key, sentences, tokens, words

PUBLISHED = (0.089, 0.129, 0.148, 0.158, 0.167)
"""Densities of the paper's chains by step, entities by spaCy (GPT-4 on articles of CNN and the Daily Mail)."""

PUBLISHED_OTHERS = {"GPT-4 without steps": 0.122, "people": 0.151}
"""Densities of the summaries that the paper compares with."""

SPECIFIC = 5
"""Words of an entity at most, to be one that the paper asks for."""


@dataclass(frozen=True)
class Summary:
    """One summary of a chain.

    Attributes:
        text: it.
        entities: as it has them first.
        tokens: words and marks.
        words: words alone.
        density: entities a token; 0 for a text without tokens.
        added: entities that the summary before does not have; all of the first.
        dropped: entities of the summary before that it has no more.
        faithful: share of its entities that the article has; None without any, or without an article.
        fusion: see above; None without an article.
        lead: likewise.
    """

    text: str
    entities: tuple[str, ...]
    tokens: int
    words: int
    density: float
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    faithful: float | None = None
    fusion: float | None = None
    lead: float | None = None


def measured(summaries: Sequence[str], entities: Entities, article: str = "") -> list[Summary]:
    """Return what each summary of a chain is worth.

    Args:
        summaries: the first step first.
        entities: finds them.
        article: what is summarised; "" where nobody knows.
    """
    found, before, said = list[Summary](), Mentions((), ()), tuple[str, ...]()
    source, places = key(article), _sentence_words(article)
    for text in summaries:
        own, here = mentions(text, entities), key(text)
        size = len(tokens(text))
        true = [holds(source, one) for one in own.keys] if article else []
        aligned = _aligned(text, places)
        found.append(
            Summary(
                text,
                own.names,
                size,
                len(words(text)),
                len(own.names) / size if size else 0.0,
                tuple(name for name, one in zip(own.names, own.keys, strict=True) if not holds(said, one)),
                tuple(name for name, one in zip(before.names, before.keys, strict=True) if not holds(here, one)),
                fmean(true) if true else None,
                fmean(map(len, aligned)) if aligned else None,
                _lead(aligned, len(places)),
            )
        )
        before, said = own, here
    return found


def density(text: str, entities: Entities) -> float:
    """Return the entities of a text a token."""
    return measured([text], entities)[0].density


def specific(entity: str) -> bool:
    """Return whether an entity is as short as is asked for."""
    return 0 < len(words(entity)) <= SPECIFIC


def _sentence_words(text: str) -> list[Counter[str]]:
    return [Counter(key(text[start:end])) for start, end in sentences(text)]


def _aligned(summary: str, places: Sequence[Counter[str]]) -> list[list[int]]:
    """Return, for each sentence of a summary that shares a word with the article, the sentences that it is made of."""
    found = [_sources(one, places) for one in _sentence_words(summary)]
    return [one for one in found if one]


def _sources(sentence: Counter[str], places: Sequence[Counter[str]]) -> list[int]:
    chosen, gathered, best = list[int](), Counter[str](), 0.0
    while True:
        left = [place for place in range(len(places)) if place not in chosen]
        scored = [(_f1(sentence, gathered + places[place]), -place) for place in left]
        score, place = max(scored, default=(0.0, 0))
        if score <= best:
            return chosen
        chosen.append(-place)
        gathered, best = gathered + places[-place], score


def _f1(wanted: Counter[str], given: Counter[str]) -> float:
    shared = (wanted & given).total()
    return 2 * shared / (wanted.total() + given.total()) if shared else 0.0


def _lead(aligned: Sequence[Sequence[int]], count: int) -> float | None:
    places = [place for one in aligned for place in one]
    return fmean(places) / max(1, count - 1) if places else None
