"""Layouts of two responses and a verdict, of which either may be the better one.

Which one is said in many ways: the columns of the responses end in a letter or a number (`response_a`, `answer_1`), and
the verdict names one of the two endings ("model_a", 1, "A>B"), lies nearer to one of two numbers, or is a pair of
scores. Where neither is better the row is undecided: it is left out and counted.
"""

import re
from collections.abc import Mapping
from typing import Any

from tokenq.data import turns as talk
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import QUESTION, ParsedRow, question, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Response, Text

TIE = "no response is the better one"
"""The reason under which undecided rows are counted."""

_STEMS = ("response", "answer", "completion", "output", "candidate", "conversation", "orig_response", "summary", "text")
_ENDINGS = (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"))
SIDES = {
    (f"{stem}{join}{first}", f"{stem}{join}{second}"): (first, second)
    for stem in _STEMS
    for join in ("_", "", " ")
    for first, second in _ENDINGS
}
"""Columns of two responses, to what their names end in."""

FIRST, SECOND = ("|".join(dict.fromkeys(names[place] for names in SIDES)) for place in (0, 1))
ASKED = ("prompt", "orig_instruction", "context", *QUESTION)
"""Columns in which the question to two responses stands."""

VERDICTS = (
    "winner",
    "better_response_id",
    "overall_response",
    "orig_preference",
    "preference",
    "preferred",
    "better",
    "choice",
    "verdict",
    "label",
)
"""Columns that say which response is the better one; the first that a row has decides."""

_FLAGS = ("winner_model_a", "winner_model_b", "winner_tie")
_TIES = "tie both both_bad bothbad equal same draw neither none c a=b b=a no_preference tie_bothbad tie_both_bad"
_NAMED = re.compile(
    r"(?:model|response|answer|output|assistant|completion|candidate|option)?[ _-]?([ab012])(?![a-z0-9])"
)


def sides(values: Values) -> tuple[str, str, tuple[str, str]] | None:
    """Return the columns of two responses and what their names end in; None for a row without."""
    found = ((*names, endings) for names, endings in SIDES.items() if names[0] in values and names[1] in values)
    return next(found, None)


def is_comparison(values: Values) -> bool:
    """Return whether a row holds two responses and something that says which is the better one."""
    found = sides(values)
    if found is None:
        return False
    scored = _score_columns(values, found[2])
    return any(name in values for name in VERDICTS) or all(name in values for name in _FLAGS[:2]) or bool(scored)


def what_decides(values: Values) -> str:
    """Return in words which column decides between two responses, and how to choose another."""
    name = next((name for name in VERDICTS if name in values), None)
    if name is None:
        return ""
    other = "safer_response_id" if "safer_response_id" in values else "THEIRS"
    return f"{name} says which response is the better one (another column: --columns {name}={other})"


def read_comparison(values: Values) -> ParsedRow:
    """Read a question, two responses and a verdict."""
    found = sides(values)
    assert found is not None
    first, second, endings = found
    contents = cells.content(values, first), cells.content(values, second)
    scored = _score_columns(values, endings)
    scores = [cells.number(values[name], name) for name in scored] or [None, None]
    prompt = _asked(values)
    # A transcript is no question of a user: it stays the text that the responses go on from.
    if isinstance(prompt, str) and talk.ASSISTANT not in prompt and all(isinstance(one, str) for one in contents):
        prompt, fields = (Message("user", prompt),), True
    else:
        fields = False
    return compared(prompt, contents, verdict(values, endings), (scores[0], scores[1]), fields=fields)


def compared(
    prompt: Text,
    contents: tuple[Text, Text],
    better: int,
    scores: tuple[float | None, float | None] = (None, None),
    *,
    fields: bool = False,
) -> ParsedRow:
    """Return two responses as a pair, the better one first.

    Args:
        prompt: the question; nothing where the responses are whole conversations.
        contents: the responses.
        better: 1 for the first, −1 for the second, 0 for neither.
        scores: of the responses, where the data has them.
        fields: whether the prompt stands in a column of text.
    """
    first, second = contents
    if not isinstance(prompt, str) or not isinstance(first, str) or not isinstance(second, str):
        prompt, first, second = talk.prompt_turns(prompt), reply(first), reply(second)
        if not prompt:
            prompt, first, second = _split(first, second)
    pair = (Response(first, score=scores[0]), Response(second, score=scores[1]))
    margin = None if scores[0] is None or scores[1] is None else abs(scores[0] - scores[1])
    tie = "" if better else TIE
    return ParsedRow(prompt, pair if better >= 0 else pair[::-1], True, fields, margin, tie)


def _split(
    first: tuple[Message, ...], second: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """Return prompt and responses of two conversations; identical ones are split after the first question."""
    if first == second:
        place = next((index for index, turn in enumerate(first) if turn.role == "assistant"), len(first))
        return first[:place], first[place:], second[place:]
    return talk.split_turns(first, second)


def _asked(values: Values) -> Text:
    """Return the question to two responses: text, turns, or nothing where the responses are conversations."""
    name = next((name for name in ASKED if name in values), None)
    if name is None:
        return ()
    value = values[name]
    if isinstance(value, Mapping) and isinstance(value.get("full_text"), str):  # WebGPT
        return str(value["full_text"])
    if name in QUESTION and isinstance(value, str):
        return question(values, name)[0].content
    return cells.content(values, name)


def _score_columns(values: Values, endings: tuple[str, str]) -> tuple[str, ...]:
    names = [tuple(f"{stem}_{ending}" for ending in endings) for stem in ("score", "rating", "reward")]
    return next((pair for pair in names if all(name in values for name in pair)), ())


def verdict(values: Values, endings: tuple[str, str]) -> int:
    """Return 1 where the first response is the better one, −1 for the second, 0 for neither.

    Raises:
        BadRow: nothing in the row says so.
    """
    name = next((name for name in VERDICTS if name in values), None)
    if name is not None:
        return _named(values[name], endings, name)
    if all(flag in values for flag in _FLAGS[:2]):
        first, second = (cells.label(values[flag], flag) for flag in _FLAGS[:2])
        return int(first) - int(second)
    scores = [cells.number(values[column], column) for column in _score_columns(values, endings)]
    if len(scores) < 2 or None in scores:
        raise BadRow("a comparison without a choice", "nothing says which response is the better one")
    return (scores[0] > scores[1]) - (scores[0] < scores[1])  # type: ignore[operator]  # none is None


def _named(value: Any, endings: tuple[str, str], name: str) -> int:
    """Return which of two columns a verdict names, by the endings of their names."""
    odd = BadRow(
        "a comparison without a choice", f"{name} is {cells.shown(value)}, and names none of the two responses"
    )
    if cells.is_missing(value) or isinstance(value, bool):
        raise odd
    if isinstance(value, str):
        said = value.strip().strip("[]").strip().lower()
        if re.sub(r"[^a-z=]+", "_", said).strip("_") in _TIES.split():
            return 0
        if match := _NAMED.match(said):
            ending = match[1]
            if ending not in (endings[0].lower(), endings[1].lower()):
                raise odd
            return (1 if ending == endings[0].lower() else -1) * (-1 if "<" in said else 1)
    if not endings[0].isdigit():
        raise odd
    number = cells.number(value, name)
    low, high = float(endings[0]), float(endings[1])
    if number == 0 and low == 1:  # AlpacaEval's old mark of a draw
        return 0
    if number is None or not low <= number <= high:
        raise odd
    middle = (low + high) / 2
    return (number < middle) - (number > middle)


def read_conversations(values: Values) -> ParsedRow:
    """Read two conversations and a verdict (Chatbot Arena, MT-bench); `turn` is the last answer judged."""
    contents = [_judged(cells.turns(values, name), values) for name in ("conversation_a", "conversation_b")]
    return compared((), (contents[0], contents[1]), verdict(values, ("a", "b")))


def _judged(turns: tuple[Message, ...], values: Values) -> tuple[Message, ...]:
    last = cells.whole(values.get("turn"), "turn") if "judge" in values else None
    places = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    return turns[: places[last - 1] + 1] if last is not None and 1 <= last <= len(places) else turns


def has_battle_lists(values: Values) -> bool:
    """Return whether prompts and responses are lists of turns (Chatbot Arena's 55,000 battles)."""
    named = [values[name] for name in ("prompt", "response_a", "response_b")]
    return all(isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[") for value in named)


def read_battle_lists(values: Values) -> ParsedRow:
    """Read two conversations as lists of prompts and responses, and the three flags of a verdict."""
    asked = cells.texts(values, "prompt")
    sides = [cells.texts(values, name) for name in ("response_a", "response_b")]
    if any(len(side) != len(asked) for side in sides):
        raise BadRow(
            "turns without answers", f"{len(asked)} prompts, and {len(sides[0])} and {len(sides[1])} responses"
        )
    contents = [
        tuple(turn for pair in zip(asked, side, strict=True) for turn in map(Message, ("user", "assistant"), pair))
        for side in sides
    ]
    return compared((), (contents[0], contents[1]), verdict(values, ("a", "b")))


def read_shp(values: Values) -> ParsedRow:
    """Read two comments on a post (SHP): `labels` is 1 where the first has more votes, 0 where the second has."""
    better = 1 if cells.label(values["labels"], "labels") else -1
    contents = cells.text(values, "human_ref_A"), cells.text(values, "human_ref_B")
    scores = cells.number(values.get("score_A"), "score_A"), cells.number(values.get("score_B"), "score_B")
    return compared((Message("user", cells.text(values, "history")),), contents, better, scores, fields=True)


def read_stack_pair(values: Values) -> ParsedRow:
    """Read two answers of Stack Exchange, of which `response_j` has more votes."""
    contents = cells.text(values, "response_j"), cells.text(values, "response_k")
    return compared(question(values, "question"), contents, 1, fields=True)


def read_openai_preference(values: Values) -> ParsedRow:
    """Read OpenAI's files of preferences: the conversation stands in `input.messages`."""
    prompt = cells.turns(cells.record(values, "input"), "messages")
    outputs = cells.content(values, "preferred_output"), cells.content(values, "non_preferred_output")
    return compared(prompt, outputs, 1)
