"""Read examples from rows: find the format, read, choose pairs or responses, and count what is left out.

Nothing is left out silently. A row that cannot be used is an error, or is counted under its reason when the caller
says so; ratings that decide nothing are counted. This module reads no files and knows no tokens.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tokenq.data import turns as talk
from tokenq.data.bad_rows import BAD_ROWS, HINT, BadRowsError, UnusableRow
from tokenq.data.chat.messages import unmarked
from tokenq.data.files.local import Row
from tokenq.data.layouts.cells import note_on_pictures
from tokenq.data.layouts.columns import each_renamed, find_format, renamed_columns
from tokenq.data.layouts.context import refuse_unread, template_arguments, with_context
from tokenq.data.layouts.formats import FORMATS, Format
from tokenq.data.layouts.message_trees import question_rows
from tokenq.data.layouts.parsed_row import ParsedRow, cut_where_said
from tokenq.data.selection import PAIRINGS, SELECTIONS, LacksSelected, Pairing, Selection, only_learnt
from tokenq.data.turns import BadRow
from tokenq.errors import UserError, unknown_name
from tokenq.records.examples import Action, Example, Message, Response, Text


@dataclass(frozen=True)
class ReadResult:
    """Examples and an account of the rows that they came from.

    Attributes:
        examples: the examples, in the order of their rows.
        rows: the rows read.
        dropped: rows (or what became of them) that gave no example, by reason.
        notes: what was decided that the user may want otherwise, and how to say so.
    """

    examples: list[Example]
    rows: int
    dropped: Counter[str]
    notes: tuple[str, ...] = ()


def read_examples(
    rows: Sequence[Row],
    *,
    selection: str = "pairs",
    pairing: str = "best_worst",
    same_length: float | None = None,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = "error",
    style: str = "as_given",
) -> ReadResult:
    """Return the examples in the rows of one source.

    Args:
        rows: rows of one source; all have the format of the first.
        selection: "pairs" (chosen over rejected), "calibrated" (pairs with a response to calibrate on), "margins"
            (pairs with the difference of their ratings), "responses" (one to imitate: chosen, or the best), "labelled"
            (desirable and undesirable), "rewarded" (with a reward each), "ranked" (best first), "rated" (with ratings
            by attribute), "steps" (with labels of their steps) or "all" (as they are).
        pairing: which pairs rated responses give: "best_worst" (one), "all" (every two of different rating),
            "adjacent" (each and the next in rating) or "votes" (every two of different number of votes).
        same_length: the share by which both sides of a pair may differ in length; others are left out and counted.
        columns: the data set's name for a column of ours, such as {"prompt": "question"}.
        bad_rows: "error" or "drop".
        style: "as_given" or "chat" (text becomes turns: a transcript its turns, other text a user and an assistant).

    Raises:
        UserError: for columns of no known format, for unusable rows unless they are dropped, and when nothing is left.
    """
    for kind, name, options in (
        ("kind of example", selection, SELECTIONS),
        ("pairing", pairing, PAIRINGS),
        ("policy for bad rows", bad_rows, BAD_ROWS),
        ("style", style, STYLES),
    ):
        if name not in options:
            raise unknown_name(kind, name, options)
    named = question_rows(renamed_columns(rows, columns or {}))
    form, note = _format_of(named, rows[0].where, selection)
    asked = SELECTIONS[selection]
    order = {row.where: place for place, row in enumerate(named)}
    bad: list[UnusableRow] = []
    dropped: Counter[str] = Counter()
    found = _grouped(parsed_examples(named, form, style, bad, dropped), form, selection)
    examples = list(_selected(found, asked, PAIRINGS[pairing]._replace(same_length=same_length), order, bad, dropped))
    if bad and bad_rows == "error":
        first = min(one.place for one in bad)
        before = [example for example in examples if order[example.where] < first]
        raise BadRowsError(bad, len(rows), before, _hint(bad, asked, some=bool(examples)))
    dropped.update(one.problem.reason for one in bad)
    if not examples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise UserError(
            f"None of the {len(rows)} rows from {rows[0].where} on can be used: {reasons}.", "Check the data."
        )
    notes = (note, note_on_pictures(one.content for example in examples for one in example.responses))
    return ReadResult(examples, len(rows), dropped, tuple(one for one in notes if one))


def format_of(rows: Sequence[Row], selection: str, columns: Mapping[str, str]) -> tuple[Format, str]:
    """Return the format of the first rows of a source, and what was decided that the user may want otherwise, or "".

    Args:
        rows: the first rows, of which one should be without fault.
        selection: as in `read_examples`.
        columns: as in `read_examples`.

    Raises:
        UserError: there is no row, they have no known format, or not what is asked for.
    """
    return _format_of(question_rows(renamed_columns(rows, columns)), rows[0].where, selection)


def _format_of(named: Sequence[Row], where: str, selection: str) -> tuple[Format, str]:
    whole = next((row for row in named if not row.fault), None)
    name = next(iter(FORMATS)) if whole is None else find_format(whole)
    asked = SELECTIONS[selection]
    if asked.missing is not None and FORMATS[name].holds == "responses":
        raise UserError(
            f"{where}: the data holds single responses (format {name!r}: "
            f"{FORMATS[name].shown()}), not {asked.missing[0]}.",
            f"Train on it with --loss sft, or give data with {asked.missing[1]}.",
        )
    return FORMATS[name], "" if whole is None else FORMATS[name].note(whole.values)


def stream_examples(  # noqa: PLR0913 (one keyword a setting of `read_examples`)
    rows: Iterable[tuple[int, Row]],
    form: Format,
    bad: list[UnusableRow],
    dropped: Counter[str],
    *,
    selection: str,
    pairing: str,
    columns: Mapping[str, str],
    style: str,
    same_length: float | None = None,
) -> Iterator[tuple[int, Example]]:
    """Yield (number of its first row, example) of rows as they come.

    Args:
        rows: (number, row), in order.
        form: their format, that of the first.
        bad: rows that cannot be used are added to it.
        dropped: what gives no example is counted there.
        selection: as in `read_examples`.
        pairing: as in `read_examples`.
        columns: as in `read_examples`.
        style: as in `read_examples`.
        same_length: as in `read_examples`.
    """
    numbers: dict[str, int] = {}  # of the rows that are on their way

    def named() -> Iterator[Row]:
        for number, row in rows:
            for one in question_rows(each_renamed([row], columns)):
                numbers[one.where] = number
                yield one

    found = _grouped(parsed_examples(named(), form, style, bad, dropped), form, selection)
    choice = PAIRINGS[pairing]._replace(same_length=same_length)
    for example in _selected(found, SELECTIONS[selection], choice, numbers, bad, dropped):
        number = numbers[example.where]
        if len(numbers) > _MOST_ON_THEIR_WAY:
            for where in [where for where, earlier in numbers.items() if earlier < number]:
                del numbers[where]
        yield number, example


_MOST_ON_THEIR_WAY = 4096


def _selected(
    examples: Iterable[Example],
    asked: Selection,
    pairing: Pairing,
    order: Mapping[str, int],
    bad: list[UnusableRow],
    dropped: Counter[str],
) -> Iterator[Example]:
    """Yield what is asked for of each example; one that cannot give it is added to `bad`."""
    for example in examples:
        try:
            for one in asked.select(example, pairing, dropped):
                _check(one)
                yield only_learnt(one, asked.learnt)
        except BadRow as error:
            bad.append(UnusableRow(order[example.where], example.where, error))


def single_example(prompt: Text, response: str, *, chat: bool) -> Example:
    """Return one prompt with one response; a text is a user's turn where `chat`, and behind turns stands a turn."""
    if isinstance(prompt, str) and not chat:
        return Example(prompt, (Response(response),), False, "the given text")
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return Example(turns, (Response((Message("assistant", response),)),), False, "the given text")


def parsed_examples(
    rows: Iterable[Row], form: Format, style: str, bad: list[UnusableRow], dropped: Counter[str]
) -> Iterator[Example]:
    """Yield the example of each row; unreadable rows are added to `bad`, ties are counted."""
    for place, row in enumerate(rows):
        try:
            if row.fault:
                raise row.fault
            lacking = form.missing(list(row.values))
            if lacking:
                raise BadRow("a missing column", f"column {lacking[0]!r} is missing")
            parsed = cut_where_said(form.read(row.values), row.values)
            example = as_example(row, parsed, style, form.used(list(row.values)))
        except BadRow as error:
            bad.append(UnusableRow(place, row.where, error))
        else:
            if parsed.undecided:
                dropped[parsed.undecided] += 1
            else:
                dropped.update(parsed.left_out)
                yield example


def as_example(row: Row, parsed: ParsedRow, style: str, used: Collection[str] = ()) -> Example:
    """Return a parsed row as an example in the style asked for, with its system text and earlier turns.

    Args:
        row: the row.
        parsed: what its layout has read.
        style: a key of `STYLES`.
        used: columns that the layout has read itself.

    Raises:
        BadRow: the row holds something beside them that cannot be read, and changes what it means.
    """
    refuse_unread(row.values, used)
    parsed = parsed._replace(prompt=with_context(parsed.prompt, row.values, used))
    styled = STYLES[style](parsed)
    prompt = styled.prompt
    if not isinstance(prompt, str):  # nothing is learnt of a prompt, so that marks say nothing there
        prompt = unmarked(prompt)
    taught = tuple(map(_taught, styled.responses))
    return Example(prompt, taught, styled.is_pair, row.where, template_arguments(row.values), margin=styled.margin)


def _taught(response: Response) -> Response:
    """Return a response up to its last learnt turn."""
    if isinstance(response.content, str):
        return response
    turns = talk.learnt_turns(response.content)
    return response if turns == response.content else replace(response, content=turns)


def _as_given(parsed: ParsedRow) -> ParsedRow:
    """Return named fields as plain text, and everything else unchanged."""
    if not parsed.fields or isinstance(parsed.prompt, str):
        return parsed
    responses = [
        replace(response, content="".join(turn.content for turn in response.content))
        for response in parsed.responses
        if not isinstance(response.content, str)
    ]
    return parsed._replace(prompt=talk.plain_prompt(parsed.prompt), responses=tuple(responses))


def _as_chat(parsed: ParsedRow) -> ParsedRow:
    """Return text as turns; text without a prompt is unchanged."""
    if not isinstance(parsed.prompt, str) or not parsed.prompt.strip():
        return parsed
    responses = [
        replace(response, content=talk.response_turns(response.content, parsed.prompt)) for response in parsed.responses
    ]
    return parsed._replace(prompt=talk.prompt_turns(parsed.prompt), responses=tuple(responses))


def _grouped(examples: Iterator[Example], form: Format, selection: str) -> Iterator[Example]:
    """Yield the examples; formats with one row per response have consecutive rows of one prompt joined."""
    last: Example | None = None
    grouped = form.grouped and selection not in form.apart
    for example in examples:
        if last and grouped and (last.prompt, last.context) == (example.prompt, example.context):
            last = replace(last, responses=last.responses + example.responses)
            continue
        if last:
            yield last
        last = example
    if last:
        yield last


STYLES: dict[str, Callable[[ParsedRow], ParsedRow]] = {"as_given": _as_given, "chat": _as_chat}
"""Styles of text: as the data set has it, or as turns for a chat template."""


def _check(example: Example) -> None:
    """Raise `BadRow` for an example that teaches nothing, or something else than it says.

    An empty prompt is one: BOS stands before the response. Blanks are text, and have tokens.
    """
    if not isinstance(example.prompt, str) and not example.prompt:
        raise BadRow("empty prompt", "the prompt is empty")
    names = ("chosen", "rejected") if example.is_pair else ()
    for place, response in enumerate(example.responses):
        content, name = response.content, f"{names[place]} " if place < len(names) else ""
        if not (content if isinstance(content, str) else content and _says(content[-1])):
            raise BadRow("empty response", f"the {name}response is empty")
        if not isinstance(content, str) and (content[0].role, content[-1].role) != ("assistant", "assistant"):
            raise BadRow("response without assistant", "the response does not begin and end with an assistant turn")
    if example.is_pair and example.responses[0].content == example.responses[1].content:
        raise BadRow("chosen equals rejected")


def _says(turn: Message) -> bool:
    """Return whether a turn says something; what was done in an episode may be to end at once."""
    return bool(turn.content or turn.tool_calls) or isinstance(turn, Action)


def _hint(bad: Sequence[UnusableRow], asked: Selection, *, some: bool) -> str:
    """Return a hint about bad rows, "" if there is nothing special to say; `some`: other rows are good."""
    if asked.missing is not None and not some and all(isinstance(one.problem, LacksSelected) for one in bad):
        return f"The loss needs {asked.missing[1]}: give such data, or choose a loss for what the data holds."
    if min(bad, key=lambda one: one.place).problem.reason == "no common prompt":
        return f"{HINT} If the prompt has a column of its own, name it with --columns prompt=THEIRS."
    return ""
