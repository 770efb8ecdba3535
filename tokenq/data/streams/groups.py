"""Token groups of streams: read, tokenised and mixed as they come, from the first row or from a place on.

Nothing is drawn at random: of several sources the one that is furthest behind its share comes next, and a place says
how far each of them was read. So a stream gives the same groups whenever it gives the same rows.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tokenq.data.bad_rows import BadRowsError, UnusableRow, nothing_left
from tokenq.data.encoding import ResponseText
from tokenq.data.examples import ReadResult, format_of, stream_examples
from tokenq.data.files.local import Row
from tokenq.data.files.source_language import parse_source
from tokenq.data.layouts.formats import Format
from tokenq.data.layouts.message_trees import is_flat
from tokenq.data.sources import is_held_out
from tokenq.data.streams.rows import GIVEN, Mark, RowStream, given_stream, named_stream
from tokenq.data.tokenize import Tokenization
from tokenq.data.truncation import too_long
from tokenq.errors import UserError
from tokenq.records.examples import Example, TokenGroup

Change = Callable[[TokenGroup, tuple[ResponseText, ...]], TokenGroup | None]
"""(group, texts of its responses) → what is learnt from, None for nothing."""

FIRST_ROWS = 100
"""Rows of a stream that are looked at before the first step; what they hold is its identity."""

EVALUATED_ROWS = 10_000
"""Rows of a stream among which those are found that it is evaluated on."""

_TOGETHER = 64
"""Examples that are tokenised together."""


class SourceStream(NamedTuple):
    """One source of a stream.

    Attributes:
        rows: its rows.
        form: their format.
        weight: its share, relative to those of the others.
    """

    rows: RowStream
    form: Format
    weight: float = 1.0


class Place(NamedTuple):
    """How far a source was read.

    Attributes:
        number: passes over it before this one.
        row: the row of the last example that was read, rows counted from 0.
        examples: those of this row that were read.
        taken: groups that were taken, in all passes.
    """

    number: int = 0
    row: int = 0
    examples: int = 0
    taken: int = 0


Places = tuple[Place, ...]


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Groups of unknown number.

    Attributes:
        sources: where they come from.
        reading: how rows become examples: the settings of `read_examples` by name.
        tokenization: gives a new tokenisation, with the account of a pass.
        drops: whether bad rows are left out and counted, and do not stop.
        held_out: the share of the prompts that is not learnt from.
        seed: decides which prompts.
        say: told when a source begins again.
        changes: what is done to every group.
        left_out: rows that gave nothing, by reason, as far as they were read.
    """

    sources: tuple[SourceStream, ...]
    reading: Mapping[str, Any]
    tokenization: Callable[[], Tokenization]
    drops: bool = False
    held_out: float = 0.0
    seed: int = 0
    say: Callable[[str], None] = lambda text: None
    changes: tuple[Change, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)

    def then(self, change: Change) -> "TokenStream":
        """Return the stream with every group changed once more."""
        return replace(self, changes=(*self.changes, change))

    def read(self, number: int = 0, record: Mapping[str, Any] | None = None) -> Iterator[tuple[Places, TokenGroup]]:
        """Yield (places before it, group) of a pass; a mixture of several sources has one pass without an end.

        Args:
            number: of the pass, where it is read from its beginning.
            record: what `record` gave of places, to go on from there.

        Raises:
            UserError: a source fails, or a row is bad and bad rows are an error.
        """
        places = [Place(number) for _ in self.sources]
        marks = [Mark()] * len(places)
        if record is not None:
            places = [Place(*one) for one in record["places"]]
            marks = [Mark(*one) for one in record["marks"]]
        if len(places) == 1:
            for after, group in self._one_pass(0, places[0], marks[0]):
                yield tuple(places), group
                places[0] = after
            return
        total = sum(source.weight for source in self.sources)
        shares = [source.weight / total for source in self.sources]
        endless = [self._passes(*one) for one in zip(range(len(places)), places, marks, strict=True)]
        for count in itertools.count(1 + sum(place.taken for place in places)):
            behind = [share * count - place.taken for share, place in zip(shares, places, strict=True)]
            next_ = behind.index(max(behind))
            after, group = next(endless[next_])
            yield tuple(places), group
            places[next_] = after

    def record(self, places: Places) -> dict[str, Any]:
        """Return plain values from which `read` goes on at a place, without reading all that is before it."""
        marks = [source.rows.mark(place.row) for source, place in zip(self.sources, places, strict=True)]
        return {"places": [list(place) for place in places], "marks": [list(mark) for mark in marks]}

    def _passes(self, which: int, place: Place, mark: Mark) -> Iterator[tuple[Place, TokenGroup]]:
        """Yield (place behind it, group) of one source, again from its beginning when it has ended."""
        while True:
            for after, group in self._one_pass(which, place, mark):
                place = after
                yield after, group
            place, mark = Place(place.number + 1, taken=place.taken), Mark()

    def _one_pass(self, which: int, place: Place, mark: Mark) -> Iterator[tuple[Place, TokenGroup]]:
        """Yield (place behind it, group) of one source to its end."""
        rows, form, _ = self.sources[which]
        if place.number and not place.row:
            self.say(f"data: {rows.name} has ended, and pass {place.number + 1} over it begins")
        work, bad, found = self.tokenization(), list[UnusableRow](), False
        begun = ((number, row) for number, row in rows.read(mark) if number >= place.row)
        examples = stream_examples(begun, form, bad, self.left_out, **self.reading)
        for some in _chunks(_counted(itertools.islice(examples, place.examples, None), place)):
            kept = [(at, one) for at, one in some if not is_held_out(one.prompt, self.held_out, self.seed)]
            done = list(work.groups([one for _, one in kept]))
            self._account(work, bad, place.row)
            for one in done:
                group = self._changed(one.group, one.texts)
                if group is not None:
                    found = True
                    row, examples_of_row = kept[one.place][0]
                    place = Place(place.number, row, examples_of_row, place.taken + 1)
                    yield place, group
        self._account(work, bad, place.row)
        if not found and not place.row:
            raise nothing_left(self.left_out, [])

    def _account(self, work: Tokenization, bad: list[UnusableRow], row: int) -> None:
        """Count what was left out, or stop at it."""
        bad += work.bad
        if bad and not self.drops:
            raise BadRowsError(bad[:1], row + 1)
        if work.long:
            raise too_long(work.long, work.limits)
        self.left_out.update(one.problem.reason for one in bad)
        self.left_out.update(work.lost)
        for emptied in (bad, work.bad, work.lost):
            emptied.clear()

    def _changed(self, group: TokenGroup, texts: tuple[ResponseText, ...]) -> TokenGroup | None:
        found: TokenGroup | None = group
        for change in self.changes:
            found = None if found is None else change(found, texts)
        return found


def _counted(examples: Iterable[tuple[int, Example]], begin: Place) -> Iterator[tuple[tuple[int, int], Example]]:
    """Yield ((row, examples of this row up to this one), example)."""
    last, count = begin.row, begin.examples
    for number, example in examples:
        last, count = number, count + 1 if number == last else 1
        yield (number, count), example


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield items in lists; what came before an error is yielded before it is raised."""
    chunk: list[Any] = []
    try:
        for item in items:
            chunk.append(item)
            if len(chunk) == _TOGETHER:
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def first_of_streams(
    names: Sequence[str],
    selection: str,
    columns: Mapping[str, str],
    read: Callable[[Sequence[Row]], ReadResult],
    ahead: int,
    *,
    given: Any = None,
) -> tuple[tuple[SourceStream, ...], ReadResult]:
    """Return streams with the formats of their first rows, and the examples in these.

    Args:
        names: `--data` strings.
        selection: what is asked of the rows.
        columns: the data set's name for a column of ours.
        read: rows of one source to examples, usually `read_examples` with its options bound.
        ahead: how many rows are looked at: `FIRST_ROWS`, or `EVALUATED_ROWS` where some are to be evaluated on.
        given: the rows that Python gives, None where the streams are named.

    Raises:
        UserError: there is no such stream, it has no rows, or none that can be used.
    """
    if given is not None:
        streams = [(given_stream(given, GIVEN), 1.0)]
    elif GIVEN in names:
        hint = "Go on with tokenq.train(..., resume=True), and give it the stream again."
        raise UserError("The data of this run are a stream that Python gave, and only Python can give it again.", hint)
    else:
        parsed = [parse_source(text) for text in names]
        streams = [(named_stream(source), source.weight) for source in parsed]
    sources: list[SourceStream] = []
    found = ReadResult([], 0, Counter())
    for stream, weight in streams:
        rows = stream.first(ahead)
        if not rows:
            raise UserError(f"{stream.name} holds no rows.", "Give a stream with at least one row.")
        result = read(rows)
        if any(is_flat(row.values) for row in rows):
            said = "holds a row for each message of a tree, and a question's answers may come at any later place"
            raise UserError(f"{stream.name} {said}.", "Read it without --streaming.")
        sources.append(SourceStream(stream, format_of(rows, selection, columns)[0], weight))
        notes = tuple(dict.fromkeys((*found.notes, *result.notes)))
        examples, dropped = found.examples + result.examples, found.dropped + result.dropped
        found = ReadResult(examples, found.rows + result.rows, dropped, notes)
    return tuple(sources), found
