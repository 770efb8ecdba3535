"""Layouts of several responses in one row, with a score, a rank or a label each."""

from collections.abc import Mapping
from typing import Any

from tokenq.data import turns as talk
from tokenq.data.chat.messages import as_turn, is_turns
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import CHOSEN, QUESTION, REJECTED, ParsedRow, question, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Response, Text

LISTS = ("responses", "completions", "generations", "outputs", "candidates", "all_generated_responses")
"""Columns of several responses."""

SCORES = ("scores", "rewards", "ratings", "all_rm_scores", "rm_scores", "labels", "ranks")
"""Columns of what they are worth, one each; of ranks 1 is the best."""


def read_stack_exchange(values: Values) -> ParsedRow:
    """Read the answers to a question with their scores, as H4 prepared Stack Exchange."""
    answers = cells.records(values, "answers", "text")
    name = "pm_score" if "pm_score" in answers[0] else "score"
    responses = [Response(reply(one["text"]), score=cells.number(one.get(name), name)) for one in answers]
    return ParsedRow(question(values, "question"), tuple(responses), fields=True)


def has_scored_answers(values: Values) -> bool:
    """Return whether the answers of a row are records with a text and a score."""
    answers = cells.listed(values["answers"])
    return isinstance(answers, list) and all(
        isinstance(one, Mapping) and "text" in one and ("pm_score" in one or "score" in one) for one in answers
    )


def read_listed(values: Values) -> ParsedRow:
    """Read a prompt with lists of right and of wrong responses (RewardBench 2, RM-Bench)."""
    responses = [
        Response(content, label=right)
        for right, names in ((True, CHOSEN), (False, REJECTED))
        for content in _listed(values, *names)
    ]
    return _to_prompt(values, responses)


def is_listed(values: Values) -> bool:
    """Return whether a side of a row is a list of responses, and not a text or the turns of one."""
    sides = (cells.first(values, *names) for names in (CHOSEN, REJECTED))
    return any(isinstance(side, list) and not is_turns(side) for side in sides)


def _listed(values: Values, *names: str) -> list[Text]:
    value, name = cells.first(values, *names), next(name for name in names if name in values)
    if not isinstance(value, list) or is_turns(value):
        return [cells.content(values, name)]
    if not value:
        raise BadRow("a column without text", f"column {name!r} holds no response")
    return [cells.content({f"{name}[{place}]": one}, f"{name}[{place}]") for place, one in enumerate(value)]


def _to_prompt(values: Values, responses: list[Response]) -> ParsedRow:
    """Return responses in the form of the row's prompt: text or turns."""
    name = next(name for name in ("prompt", *QUESTION) if name in values)
    content = cells.content(values, name)
    if isinstance(content, str) and all(isinstance(one.content, str) for one in responses):
        if name == "prompt":
            return ParsedRow(content, tuple(responses))
        turns = [Response(reply(one.content), one.label, one.score) for one in responses]
        return ParsedRow(question(values, name), tuple(turns), fields=True)
    prompt = talk.prompt_turns(content)
    whole = [reply(one.content) for one in responses]
    if all(turns[: len(prompt)] == prompt for turns in whole):  # responses that repeat their prompt
        whole = [turns[len(prompt) :] for turns in whole]
    pairs = zip(whole, responses, strict=True)
    return ParsedRow(prompt, tuple(Response(turns, one.label, one.score) for turns, one in pairs))


def read_scored_list(values: Values) -> ParsedRow:
    """Read a prompt with a list of responses and a list of their scores."""
    name = next(name for name in SCORES if name in values)
    contents, worth = _listed(values, *LISTS), cells.items(values, name)
    if len(contents) != len(worth):
        raise BadRow("responses without scores", f"{len(contents)} responses but {len(worth)} {name}")
    if name == "labels":
        responses = [Response(one, label=cells.label(said)) for one, said in zip(contents, worth, strict=True)]
    else:
        sign = -1.0 if name == "ranks" else 1.0
        numbers = [cells.number(said, name) for said in worth]
        responses = [
            Response(one, score=None if said is None else sign * said)
            for one, said in zip(contents, numbers, strict=True)
        ]
    return _to_prompt(values, responses)


def read_summary_ratings(values: Values) -> ParsedRow:
    """Read a summary with its ratings by axis (summarize_from_feedback), asked for as the comparisons are."""
    from tokenq.data.layouts.pairs import summary_prompt

    summary = cells.record(values, "summary")
    axes = summary.get("axes")
    ratings = cells.ratings(axes) if isinstance(axes, Mapping) else {}
    text = f" {cells.text(summary, 'text').strip()}"
    response = Response(text, score=ratings.get("overall"), ratings=ratings, scale=(1, 7))
    return ParsedRow(summary_prompt(cells.record(values, "info")), (response,))


def read_vertex(values: Values) -> ParsedRow:
    """Read Gemini's files: turns in `contents`, and completions with a score each."""
    prompt = _contents(values["contents"])
    system = values.get("systemInstruction")
    if isinstance(system, Mapping):
        prompt = (Message("system", _parts(system)), *prompt)
    completions = cells.items(values, "completions")
    responses = []
    for one in completions:
        if not isinstance(one, Mapping) or not isinstance(one.get("completion"), Mapping):
            raise BadRow("a column without a record", "column 'completions' holds an item without a completion")
        turns = (Message("assistant", _parts(one["completion"])),)
        responses.append(Response(turns, score=cells.number(one.get("score"), "score")))
    return ParsedRow(prompt, tuple(responses))


def _contents(value: Any) -> tuple[Message, ...]:
    turns = value if isinstance(value, list) else []
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow("a column without turns", "column 'contents' holds no list of turns")
    return tuple(as_turn({"role": turn.get("role", "user"), "content": _parts(turn)}) for turn in turns)


def _parts(turn: Mapping[str, Any]) -> str:
    parts = turn.get("parts")
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadRow("content that is not text", "the parts of a turn are not text")
    return "".join(text for text in texts if isinstance(text, str))
