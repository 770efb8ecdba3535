"""The one pass over the rows of an audit: each is looked at, and rows of one prompt that belong together are joined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenq.curation.audit.columns import Columns, Said, rating
from tokenq.records.examples import Example


class Compared(NamedTuple):
    """A pair.

    Attributes:
        rows: numbers of its rows: one, or two where each response has a row of its own.
        example: the pair.
    """

    rows: tuple[int, ...]
    example: Example


class Collector:
    """Looks at rows in their order.

    Args:
        count_tokens: (text) → its tokens, None where nobody counts them.
        keep_pairs: whether the pairs themselves are kept, for policies to read.
    """

    def __init__(self, count_tokens: Callable[[str], int] | None = None, *, keep_pairs: bool = False) -> None:
        self.columns = Columns()
        self.pairs: list[Compared] = []
        self._count_tokens, self._keeps = count_tokens, keep_pairs
        self._open: tuple[int, Example, list[Said]] | None = None

    def row(self, where: str) -> int:
        """Begin a row, and return its number."""
        self.columns.where.append(where)
        return len(self.columns.where) - 1

    def hold_out(self) -> None:
        """Take what follows as held-out data."""
        self.close()
        self.columns.held_out = len(self.columns.where)

    def add(self, row: int, example: Example, values: Mapping[str, object] = {}, *, grouped: bool = False) -> None:
        """Look at what a row says.

        Args:
            row: its number.
            example: what it says.
            values: its columns.
            grouped: whether neighbouring rows of one prompt belong together.
        """
        asks, said = self.columns.add(row, example, values)
        if self._count_tokens is not None:
            self.columns.tokens.extend(self._count_tokens(one.side.text) for one in said)
        if self._open is not None and grouped and _together(self._open[1], example):
            self._open[2].extend(said)
            return
        self.close()
        self._open = (asks, example, list(said))
        if not grouped:
            self.close()

    def close(self) -> None:
        """End a group of rows."""
        if self._open is None:
            return
        (asks, example, group), self._open = self._open, None
        self.columns.prefer(asks, group, is_pair=example.is_pair)
        pair = group[:2] if example.is_pair else _best_and_worst(group)
        if len(pair) < 2 or pair[0].mark == pair[1].mark or self.columns.held_out:
            return
        chosen, rejected = pair
        self.columns.sides.add(asks, chosen.side, rejected.side)
        if self._keeps:
            sides = (replace(chosen.response, role="chosen"), replace(rejected.response, role="rejected"))
            rows = tuple(sorted({chosen.row, rejected.row}))
            self.pairs.append(Compared(rows, replace(example, responses=sides, is_pair=True)))


def _together(first: Example, second: Example) -> bool:
    return (first.prompt, first.context) == (second.prompt, second.context)


def _best_and_worst(group: Sequence[Said]) -> Sequence[Said]:
    """Return the responses of the highest and the lowest rating, none where one rating is all there is."""
    rated = [(value, one) for one in group if (value := rating(one.response)) is not None]
    if len({value for value, _ in rated}) < 2:
        return []
    return [pick(rated, key=lambda item: item[0])[1] for pick in (max, min)]
