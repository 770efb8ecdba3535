"""The findings of an audit: which rows, what is wrong with them, and what to drop to be rid of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenq.errors import unknown_name

KINDS: Mapping[str, str] = {
    "unusable": "the row cannot be read",
    "empty": "a response says nothing",
    "identical": "chosen and rejected are the same, but for letter case and blanks",
    "contradiction": "two rows say the opposite of each other",
    "cycle": "preferences go in a circle: a over b, b over c, c over a",
    "duplicate": "rows are the same to the last character",
    "near_duplicate": "rows are nearly the same",
    "shared_prompt": "a prompt is both in the data and in the held-out data",
    "repeated_id": "an id stands at rows that differ",
    "truncated": "a response is cut",
    "length_bias": "length alone tells the chosen response",
    "first_token_bias": "the first word alone tells the chosen response",
    "format_bias": "format alone (lists, headings, code, marks) tells the chosen response",
    "word_bias": "a bag of words tells the chosen response",
    "label_noise": "labels are wrong, as policies that never saw the rows say",
    "suspect": "the label is probably wrong, by the margin of a policy",
}
"""Kinds of findings, with what they say."""

ANY = "any"
"""Stands for every kind."""


@dataclass(frozen=True)
class Fault:
    """A finding.

    Attributes:
        kind: a key of `KINDS`.
        rows: numbers of its rows from 0, over all data and then the held-out data; none where it is about all of them.
        found: what was found, a sentence.
        drop: those of its rows without which it is gone.
        numbers: what it rests on.
    """

    kind: str
    rows: tuple[int, ...]
    found: str
    drop: tuple[int, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self, where: Sequence[str]) -> dict[str, Any]:
        """Return plain values for JSON.

        Args:
            where: the place of every row, as messages have it.
        """
        return {
            "kind": self.kind,
            "rows": list(self.rows),
            "where": [where[row] for row in self.rows],
            "found": self.found,
            "drop": list(self.drop),
            "numbers": dict(self.numbers),
        }


def check_kinds(names: Iterable[str]) -> None:
    """Refuse names that are no kind of finding.

    Raises:
        UserError: names the nearest.
    """
    for name in names:
        if name != ANY and name not in KINDS:
            raise unknown_name("kind of finding", name, (*KINDS, ANY))


def of_kinds(faults: Iterable[Fault], names: Sequence[str]) -> list[Fault]:
    """Return the findings of some kinds."""
    return [fault for fault in faults if ANY in names or fault.kind in names]
