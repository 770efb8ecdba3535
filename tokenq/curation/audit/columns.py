"""What an audit keeps of every row: numbers and hashes, in columns; the texts go by.

The rows of a data set are looked at one after the other. What is compared later (prompts, responses, who is preferred
to whom) is kept by its hash, 64 bits each.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tokenq.curation.audit import texts
from tokenq.curation.audit.likeness import Likenesses
from tokenq.curation.audit.shortcuts import Side, Sides
from tokenq.curation.audit.truncation import is_cut
from tokenq.records.examples import Example, Response

_SHOWN = 160
"""Characters of a prompt or a response that are kept to be shown."""


class Account(dict[str, Counter[str]]):
    """Counts of rows by what they are written in and where they come from."""

    def __missing__(self, name: str) -> Counter[str]:
        """Begin to count something."""
        return self.setdefault(name, Counter())


class Said(NamedTuple):
    """A response of a row.

    Attributes:
        row: number of the row.
        response: as the data have it.
        mark: hash of its normalised text.
        side: its text.
    """

    row: int
    response: Response
    mark: int
    side: Side


@dataclass
class Columns:
    """What is kept of the rows; a row is known by its number over all data.

    Attributes:
        where: the place of each row.
        held_out: the first row of the held-out data, 0 without any.
        rows: [M] the row of each example that could be read; a row may have several.
        keys: [M] hash of everything that it says.
        prompts: [M] hash of its prompt, normalised.
        response_rows: [R] the row of each response.
        lengths: [R] its characters.
        tokens: [R] its tokens, empty without a tokenizer.
        better: edges of preference: hash of the prompt, of the better and of the worse response, and their rows.
        labels: hash of prompt, response, and 1 or 0 where the data call a response desirable or not; its row.
        faults: rows by what is wrong with each by itself.
        ids: hash of an id, its row, and the key of that.
        firsts: rows that differ, and their keys, in the order in which `likenesses` has them.
        likenesses: of rows that differ.
        sides: pairs, for what tells chosen from rejected.
        account: what languages and sources there are.
        shown: the beginning of each text of a row.
    """

    where: list[str] = field(default_factory=list)
    held_out: int = 0
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    keys: "array[int]" = field(default_factory=lambda: array("Q"))
    prompts: "array[int]" = field(default_factory=lambda: array("Q"))
    response_rows: "array[int]" = field(default_factory=lambda: array("q"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    better: "tuple[array[int], ...]" = field(default_factory=lambda: tuple(array(kind) for kind in "QQQqq"))
    labels: "tuple[array[int], ...]" = field(default_factory=lambda: tuple(array(kind) for kind in "QQqq"))
    faults: dict[str, dict[int, str]] = field(default_factory=dict)
    ids: "tuple[array[int], ...]" = field(default_factory=lambda: tuple(array(kind) for kind in "QqQ"))
    firsts: "tuple[array[int], ...]" = field(default_factory=lambda: tuple(array(kind) for kind in "qQ"))
    likenesses: Likenesses = field(default_factory=Likenesses)
    sides: Sides = field(default_factory=Sides)
    account: Account = field(default_factory=Account)
    shown: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)

    def add(self, row: int, example: Example, values: Mapping[str, object] = {}) -> tuple[int, list[Said]]:
        """Look at one row, and return the hash of its prompt and what is known of each response.

        Args:
            row: its number.
            example: what it says.
            values: its columns.
        """
        prompt = texts.plain(example.prompt)
        asked = texts.normalised(prompt)
        asks = texts.hash_of(asked)
        said = [_said(row, response) for response in example.responses]
        key = texts.hash_of(
            texts.exact(example.prompt),
            *(texts.exact(one.content) for one in example.responses),
            repr([(one.label, one.score) for one in example.responses]),
        )
        for column, value in ((self.rows, row), (self.keys, key), (self.prompts, asks)):
            column.append(value)
        for one in said:
            self.lengths.append(len(one.side.text))
            self.response_rows.append(row)
        if key not in self._known:
            self._known.add(key)
            for column, value in zip(self.firsts, (row, key), strict=True):
                column.append(value)
            salted = [(place if example.is_pair else 0, one.side.words) for place, one in enumerate(said, 1)]
            self.likenesses.add(texts.words(asked), salted)
        self._look(row, example, prompt, said)
        self._count(asked, said, values)
        self._identify(row, key, values)
        return asks, said

    def _look(self, row: int, example: Example, prompt: str, said: Sequence[Said]) -> None:
        """Look at what a row is by itself."""
        sides = ("chosen", "rejected", "calibration")
        several = [f"response {number}" for number in range(1, len(said) + 1)]
        names = sides if example.is_pair else several if len(said) > 1 else ["response"]
        named = list(zip(names, said, strict=False))
        if empty := [name for name, one in named if not one.side.normalised and not _acts(one.response)]:
            self.fault("empty", row, f"the {' and the '.join(empty)} is empty")
        if example.is_pair and said[0].mark == said[1].mark and said[0].side.normalised:
            self.fault("identical", row, "chosen and rejected are the same")
        if cut := [name for name, one in named if not one.response.goes_on and is_cut(one.side.text)]:
            self.fault("truncated", row, f"the {' and the '.join(cut)} ends in the middle of a sentence")
        self.shown[row] = (("prompt", _end(prompt)), *((name, one.side.text[:_SHOWN]) for name, one in named))

    def fault(self, kind: str, row: int, found: str) -> None:
        """Note what is wrong with a row by itself; the first of several questions of a row is named."""
        self.faults.setdefault(kind, {}).setdefault(row, found)

    def _count(self, asked: str, said: Sequence[Said], values: Mapping[str, object]) -> None:
        answer = max((one.side.normalised for one in said), key=len, default="")
        script = texts.script_of(answer)
        self.account["scripts of responses"][script] += 1
        self.account["scripts of prompts"][texts.script_of(asked[-2 * _SHOWN :])] += 1
        if script == "Latin":
            self.account["languages of responses in Latin letters"][texts.language_of(answer)] += 1
        for name in SOURCES:
            value = values.get(name)
            if isinstance(value, str) and len(value) <= _SHOWN:
                self.account[f"column {name}"][value] += 1

    def _identify(self, row: int, key: int, values: Mapping[str, object]) -> None:
        name = next((values[name] for name in IDS if values.get(name) not in (None, "")), None)
        if isinstance(name, str | int):
            for column, value in zip(self.ids, (texts.hash_of(str(name)), row, key), strict=True):
                column.append(value)

    def prefer(self, asks: int, group: Sequence[Said], *, is_pair: bool) -> None:
        """Note who is preferred to whom in a group of responses to one prompt.

        Args:
            asks: hash of the prompt.
            group: the responses; of a pair the chosen one first.
            is_pair: whether they are a pair; else their ratings say.
        """
        for better, worse in _edges(group, is_pair=is_pair):
            if better.mark != worse.mark:
                edge = (asks, better.mark, worse.mark, better.row, worse.row)
                for column, value in zip(self.better, edge, strict=True):
                    column.append(value)
        for one in group:
            if one.response.label is not None:
                label = (asks, one.mark, int(one.response.label), one.row)
                for column, value in zip(self.labels, label, strict=True):
                    column.append(value)


SOURCES = ("source", "dataset", "dataset_name", "origin", "subset", "category", "task")
"""Columns in which data sets say where a row comes from."""

IDS = ("id", "uid", "uuid", "example_id", "sample_id")
"""Columns that name a row, one of which counts."""


def rating(response: Response) -> float | None:
    """Return the rating of a response, or its label as 1 or 0."""
    found = response.score if response.score is not None else response.label
    return None if found is None else float(found)


def _edges(group: Sequence[Said], *, is_pair: bool) -> list[tuple[Said, Said]]:
    """Return who is better than whom: of rated responses those of a rating above those of the next one below."""
    if is_pair:
        return [(group[0], group[1])]
    levels: dict[float, list[Said]] = {}
    for one in group:
        if (value := rating(one.response)) is not None:
            levels.setdefault(value, []).append(one)
    steps = sorted(levels, reverse=True)
    return [(better, worse) for high, low in pairwise(steps) for better in levels[high] for worse in levels[low]]


def _said(row: int, response: Response) -> Said:
    text = texts.plain(response.content)
    norm = texts.normalised(text)
    return Said(row, response, texts.hash_of(norm), Side(text, norm, texts.words(norm)))


def _acts(response: Response) -> bool:
    """Return whether a response without text does something: it calls tools."""
    return not isinstance(response.content, str) and any(turn.tool_calls for turn in response.content)


def _end(prompt: str) -> str:
    """Return the end of a prompt: in a conversation the last question."""
    return prompt if len(prompt) <= _SHOWN else f"…{prompt[-_SHOWN:]}"
