"""Parts of stored data: what weights take of each source, what is held out, and the account of either.

Facts of all rows are read part by part, some fifty bytes a group; the groups themselves stay on the disk.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.data.files.source_language import SourceName
from tokenq.data.sources import prompt_ranks, weighted_places
from tokenq.data.stored.columns import TokenFile, numbers
from tokenq.data.stored.store import StoredSource
from tokenq.data.summary import MENDED, DataSummary, account
from tokenq.data.tokenize import TokenizedData
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import LazyGroups

_PARTS = ("chosen", "rejected", "calibration", "response")
"""Parts of responses in a summary, by number."""


class _Facts(NamedTuple):
    """What is known of all groups of a file without building one.

    Attributes:
        rows: [groups] their places in the file.
        prompts: [groups] hashes of their prompts, where they are asked for.
        examples: [groups] what a loss counts in each.
        pairs: [groups] whether each is a pair.
        prompt_lengths: [groups] tokens.
        starts: [groups + 1] where the responses of each begin.
        lengths: [responses] tokens.
        longest: the row of the longest group.
        highest: the row of the group with the highest token.
    """

    rows: NDArray[np.int32]
    prompts: NDArray[np.uint64]
    examples: NDArray[np.int32]
    pairs: NDArray[np.bool_]
    prompt_lengths: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    longest: int
    highest: int


def _facts(tokens: TokenFile, *, hashes: bool) -> _Facts:
    """Return the facts of a file, without hashes of prompts where nobody asks for them."""
    sizes = np.zeros(2, np.int64)  # groups and responses; arrays of these sizes are filled, as parts would stay behind
    for batch in tokens.columns("sizes", "account"):
        counts = _counts(batch)
        sizes += (len(counts), counts.sum())
    groups, responses = sizes.tolist()
    found = _Facts(
        rows=np.empty(groups, np.int32),
        prompts=np.empty(groups if hashes else 0, np.uint64),
        examples=np.empty(groups, np.int32),
        pairs=np.empty(groups, np.bool_),
        prompt_lengths=np.empty(groups, np.int32),
        starts=np.zeros(groups + 1, np.int32),
        lengths=np.empty(responses, np.int32),
        longest=0,
        highest=0,
    )
    first = group = response = 0
    longest, highest = (0, 0), (-1, 0)
    for batch in tokens.columns("ids", "sizes", "is_pair", "prompt", "examples", "account"):
        column = {name: batch.column(name) for name in batch.schema.names}
        counts, is_group = _counts(batch), _is_group(batch)
        own = slice(group, group + len(counts))
        found.rows[own] = first + np.flatnonzero(is_group)
        if hashes:
            found.prompts[own] = numbers(column["prompt"])[is_group]
        found.examples[own] = numbers(column["examples"])[is_group]
        found.pairs[own] = numbers(column["is_pair"])[is_group]
        lengths, begins = numbers(column["sizes"].values), _offsets(column["sizes"])[:-1][is_group]
        is_prompt = np.zeros(len(lengths), np.bool_)
        is_prompt[begins] = True
        found.prompt_lengths[own] = lengths[begins]
        found.lengths[response : response + counts.sum()] = lengths[~is_prompt]
        found.starts[group + 1 : group + 1 + len(counts)] = response + np.cumsum(counts)
        if len(begins):
            most = lengths[begins] + np.maximum.reduceat(np.where(is_prompt, 0, lengths), begins)
            longest = max(longest, (int(most.max()), -int(found.rows[group + most.argmax()])))
            ids, ends = numbers(column["ids"].values), _offsets(column["ids"])[1:]
            top = int(ids.argmax())
            highest = max(highest, (int(ids[top]), -(first + int(np.searchsorted(ends, top, "right")))))
        first, group, response = first + batch.num_rows, group + len(counts), response + int(counts.sum())
    return found._replace(longest=-longest[1], highest=-highest[1])


def _is_group(batch: Any) -> NDArray[np.bool_]:
    said = _offsets(batch.column("account"))
    found: NDArray[np.bool_] = said[1:] == said[:-1]
    return found


def _counts(batch: Any) -> NDArray[np.int32]:
    """Return the number of responses of each group."""
    return np.diff(_offsets(batch.column("sizes")))[_is_group(batch)] - 1


def _offsets(column: Any) -> NDArray[np.int32]:
    """Return where the values of each row begin, and where the last ends."""
    return np.frombuffer(column.buffers()[1], np.int32)[: len(column) + 1]


def _fixed(column: Any, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(column.buffers()[2], np.uint8)[: len(column) * width].reshape(-1, width)


def select(
    sources: Sequence[tuple[SourceName, StoredSource]], held_out: float, seed: int
) -> tuple[TokenizedData, TokenizedData]:
    """Return what weights take of stored sources, in what is trained on and what is held out.

    Args:
        sources: names with their weights, and what is stored of each.
        held_out: below 1 the share of the prompts that is held out, else the least number of groups, whose prompts are
            those of the lowest ranks; 0 holds nothing out.
        seed: decides what is taken and held out.

    Raises:
        UserError: nothing is left to train on.
    """
    facts = [_facts(source.tokens, hashes=bool(held_out)) for _, source in sources]
    dropped: Counter[str] = Counter()
    taken: list[NDArray[np.int64]] = []
    begin = 0
    for one, (name, source) in zip(facts, sources, strict=True):
        chosen = weighted_places(len(one.rows), name, seed)
        places = np.arange(len(chosen)) if isinstance(chosen, range) else np.asarray(chosen, np.int64)
        dropped += source.dropped
        if len(places) < len(one.rows):
            dropped["left out by the weight of its source"] += len(one.rows) - len(places)
        taken.append(places + begin)
        begin += len(one.rows)
    every, rows = np.concatenate(taken), sum(source.rows for _, source in sources)
    together = _Together(facts, [source.tokens for _, source in sources])
    if not held_out:
        data = together.data(every, rows, dropped)
        return data, TokenizedData([], data.summary)
    ranks = np.concatenate([prompt_ranks(one.prompts, seed) for one in facts])[every]
    if held_out >= 1:
        ordered = np.sort(ranks)
        least = ordered[min(int(held_out), len(ordered)) - 1]
        held = ranks <= least
    else:
        held = ranks < held_out
    if held.all():
        raise UserError(f"--eval-size {held_out:g} leaves nothing of {len(every)} examples.", "Make it smaller.")
    data = replace(together.data(every[~held], rows, dropped), keys=lambda: iter(()))  # no prompt is on both sides
    if not held.any():
        return data, TokenizedData([], data.summary)
    return data, together.data(every[held], int(held.sum()), {})


class _Together:
    """Several files as one."""

    def __init__(self, facts: Sequence[_Facts], tokens: Sequence[TokenFile]) -> None:
        self._tokens = tokens
        self._which = np.repeat(np.arange(len(facts), dtype=np.int16), [len(one.rows) for one in facts])
        self._facts = facts[0] if len(facts) == 1 else _joined(facts)
        longest = [file.group(one.longest) for one, file in zip(facts, tokens, strict=True)]
        highest = [file.group(one.highest) for one, file in zip(facts, tokens, strict=True)]
        self._extremes = [max(longest, key=_row_length), max(highest, key=_highest_token)]

    def data(self, places: NDArray[np.int64], rows: int, dropped: Mapping[str, int]) -> TokenizedData:
        """Return the groups of some places, with their account."""
        facts, which, tokens, extremes = self._facts, self._which, self._tokens, self._extremes
        own, files = facts.rows[places], which[places]

        def get(place: int) -> TokenGroup:
            file: TokenFile = tokens[files[place]]
            return file.group(int(own[place]))

        summary = self._summary(places, rows, dropped)
        groups = LazyGroups(get, facts.examples[places], summary.responses, lambda: extremes)
        digest = hashlib.sha256()
        for some in self._columns("digest", 16, places):
            digest.update(some.tobytes().hex().encode())
        return TokenizedData(groups, summary, digest=digest.hexdigest(), keys=self._keys)

    def _columns(self, name: str, width: int, places: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield [some groups, width] bytes of a column, of all places in their order, part by part."""
        for run in np.split(places, np.flatnonzero(np.diff(places) <= 0) + 1):  # the places of each pass rise
            first = 0
            for tokens in self._tokens:
                for batch in tokens.columns(name, "account"):
                    own = _fixed(batch.column(name), width)[_is_group(batch)]
                    low, high = np.searchsorted(run, (first, first + len(own)))
                    yield own[run[low:high] - first]
                    first += len(own)

    def _keys(self) -> Iterator[str]:
        """Yield the keys of all groups, also of those that are held out."""
        for tokens in self._tokens:
            for batch in tokens.columns("key"):
                yield from (key.hex() for key in batch.column(0).to_pylist())

    def _summary(self, places: NDArray[np.int64], rows: int, dropped: Mapping[str, int]) -> DataSummary:
        facts = self._facts
        by_part: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _PARTS}
        for start in range(0, len(places), 2**16):
            some = places[start : start + 2**16]
            counts = facts.starts[some + 1] - facts.starts[some]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            lengths = facts.lengths[np.repeat(facts.starts[some], counts) + within]
            part = np.where(np.repeat(facts.pairs[some], counts), np.minimum(within, 3), 3)
            for number, name in enumerate(_PARTS):
                by_part[name].append(lengths[part == number])
        told = {name: np.concatenate(parts) for name, parts in by_part.items()}
        sums = sum(some.sum(0, dtype=np.int64) for some in self._columns("mended", len(MENDED), places))
        mended = dict(zip(MENDED, sums.tolist(), strict=True))
        kept = len(places), int(facts.pairs[places].sum()), sum(map(len, told.values()))
        told = {"prompt": facts.prompt_lengths[places], **{name: found for name, found in told.items() if len(found)}}
        return account(rows, kept, dropped, mended, told)


def _joined(facts: Sequence[_Facts]) -> _Facts:
    columns = {name: np.concatenate([getattr(one, name) for one in facts]) for name in _Facts._fields[:-2]}
    ends = np.cumsum([0, *(len(one.lengths) for one in facts)])
    shifted = [one.starts[:-1] + begin for one, begin in zip(facts, ends[:-1], strict=True)]
    columns["starts"] = np.concatenate([*shifted, ends[-1:]])
    return _Facts(**columns, longest=0, highest=0)


def _row_length(group: TokenGroup) -> int:
    return len(group.prompt_ids) + max(len(response.ids) for response in group.responses)


def _highest_token(group: TokenGroup) -> int:
    return max(int(ids.max()) for ids in (group.prompt_ids, *(one.ids for one in group.responses)) if len(ids))
