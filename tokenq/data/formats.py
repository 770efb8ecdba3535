"""Rows to examples: every format of preference data in one table, `FORMATS`, at the foot of this file.

A format is a set of columns and a reader of one row. To add one: write a reader, add a row to the table. Choosing
pairs out of ratings, dropping and counting is the work of `examples`; tokens are the work of `tokenize`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenq.data import cells
from tokenq.data import turns as talk
from tokenq.data.cells import Values
from tokenq.data.turns import BadRow
from tokenq.records import Message, Response, Text


class Parsed(NamedTuple):
    """What a reader makes of one row; a pair is (chosen, rejected), then a column `calibration` if there is one.

    `fields` says that the turns were made of named text columns, and not found as turns in the data: they may as well
    be written as plain text. `margin` says by how much the chosen response is the better one, where a column does.
    """

    prompt: Text
    responses: tuple[Response, ...]
    is_pair: bool = False
    fields: bool = False
    margin: float | None = None


@dataclass(frozen=True)
class Format:
    """One format of the ecosystem.

    Attributes:
        columns: the columns that a row must have; "a|b" is either.
        read: one row to its parts; raises `BadRow`.
        holds: "pairs", "ratings" (from which pairs can be chosen) or "responses".
        grouped: whether consecutive rows with one prompt make one example.
        fits: what the values must look like besides the names of their columns.
    """

    columns: tuple[str, ...]
    read: Callable[[Values], Parsed]
    holds: str
    grouped: bool = False
    fits: Callable[[Values], bool] = lambda values: True

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Return the required columns that `columns` lacks."""
        return [name for name in self.columns if not any(option in columns for option in name.split("|"))]

    def used(self, columns: Sequence[str]) -> set[str]:
        """Return those of `columns` that this format reads as a required column."""
        return {option for name in self.columns for option in name.split("|") if option in columns}


def _question(values: Values, *names: str) -> tuple[Message, ...]:
    """Return the user turn of formats with named fields; an `input` beside an `instruction` goes below it."""
    text = cells.text(values, *names)
    extra = values.get("input") if "instruction" in values and "instruction" in names else None
    return (Message("user", f"{text}\n\n{extra}" if isinstance(extra, str) and extra.strip() else text),)


def _pair(prompt: Text, chosen: Text, rejected: Text, values: Values, *, fields: bool = False) -> Parsed:
    scores = (cells.number(values.get("score_chosen")), cells.number(values.get("score_rejected")))
    pair = (Response(chosen, score=scores[0]), Response(rejected, score=scores[1]))
    margin = cells.number(values.get("margin"))
    if margin is None and scores[0] is not None and scores[1] is not None:
        margin = scores[0] - scores[1]
    if values.get("calibration") is None:
        return Parsed(prompt, pair, True, fields, margin)
    beside = cells.content(values, "calibration")
    more = Response(beside if isinstance(chosen, str) else _reply(beside))
    return Parsed(prompt, (*pair, more), True, fields, margin)


def _reply(content: Text) -> tuple[Message, ...]:
    return (Message("assistant", content),) if isinstance(content, str) else content


def _read_preference(values: Values) -> Parsed:
    prompt = cells.content(values, "prompt")
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return _pair(prompt, chosen, rejected, values)
    chosen, rejected = _reply(chosen), _reply(rejected)
    if chosen[0].role != "assistant" and rejected[0].role != "assistant":
        first, chosen, rejected = talk.split_turns(chosen, rejected)
        asked = (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)
        if not {text.strip() for text in asked} <= {turn.content.strip() for turn in first}:
            raise BadRow("prompt and conversation differ", "the prompt is no turn of the conversations")
        return _pair(first, chosen, rejected, values)
    return _pair(talk.prompt_turns(prompt), chosen, rejected, values)


def _read_step_preference(values: Values) -> Parsed:
    """Read two next steps of one solution (Step-DPO): what was written before stands in both responses."""
    begun = cells.text(values, "initial_reason_steps") if values.get("initial_reason_steps") is not None else ""
    steps = [cells.text(values, side) for side in ("chosen", "rejected")]
    chosen, rejected = (Response(_reply(begun + step), goes_on=True) for step in steps)
    return Parsed((Message("user", cells.text(values, "prompt")),), (chosen, rejected), is_pair=True, fields=True)


def _read_implicit(values: Values) -> Parsed:
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _pair(*talk.split_text(chosen, rejected), values)
    return _pair(*talk.split_turns(_reply(chosen), _reply(rejected)), values)


def _read_question_pair(values: Values) -> Parsed:
    prompt = _question(values, "question", "instruction", "input")
    chosen, rejected = cells.content(values, "chosen"), cells.content(values, "rejected")
    fields = isinstance(chosen, str) and isinstance(rejected, str)
    return _pair(prompt, _reply(chosen), _reply(rejected), values, fields=fields)


def _read_conversation_pair(values: Values) -> Parsed:
    prompt = cells.turns(values, "conversations")
    return _pair(prompt, _reply(cells.content(values, "chosen")), _reply(cells.content(values, "rejected")), values)


def _read_completion(values: Values) -> Parsed:
    prompt, name = cells.content(values, "prompt"), "completion" if "completion" in values else "response"
    content = cells.content(values, name)
    if not isinstance(prompt, str) or not isinstance(content, str):
        prompt, content = talk.prompt_turns(prompt), _reply(content)
    return Parsed(prompt, (Response(content),))


def _read_labelled(values: Values) -> Parsed:
    prompt, responses, *_ = _read_completion(values)
    return Parsed(prompt, (Response(responses[0].content, label=cells.label(values.get("label"))),))


def _read_rewarded(values: Values) -> Parsed:
    prompt, responses, *_ = _read_completion(values)
    label = None if values.get("label") is None else cells.label(values["label"])
    return Parsed(prompt, (Response(responses[0].content, label, cells.reward(values["reward"])),))


def _read_helpsteer(values: Values) -> Parsed:
    prompt, responses, *_ = _read_completion(values)
    ratings = cells.ratings({name: values.get(name) for name in HELPSTEER})
    score = ratings.get("helpfulness")
    return Parsed(prompt, (Response(responses[0].content, score=score, ratings=ratings, scale=(0, 4)),))


HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""The attributes of HelpSteer and HelpSteer2, each rated from 0 to 4."""


def _read_rated(values: Values) -> Parsed:
    prompt, responses, *_ = _read_completion(values)
    return Parsed(prompt, (Response(responses[0].content, ratings=cells.ratings(cells.record(values, "ratings"))),))


def _read_two_responses(values: Values) -> Parsed:
    """Read HelpSteer preferences: a strength below zero prefers the first response, above zero the second."""
    prompt = cells.content(values, "context" if "context" in values else "prompt")
    contents: list[Text] = [
        cells.text(values, "response1", "response_1"),
        cells.text(values, "response2", "response_2"),
    ]
    if not isinstance(prompt, str):
        contents = [_reply(content) for content in contents]
    strength = cells.number(cells.first(values, "overall_preference", "preference_strength"))
    scores = (None, None) if strength is None else (-strength, strength)
    responses = tuple(Response(content, score=score) for content, score in zip(contents, scores, strict=True))
    return Parsed(prompt, responses, margin=None if strength is None else abs(strength))


def _read_stepwise(values: Values) -> Parsed:
    steps, labels = cells.items(values, "completions"), [cells.label(label) for label in cells.items(values, "labels")]
    if len(steps) != len(labels):
        raise BadRow("steps without labels", f"{len(steps)} completions but {len(labels)} labels")
    if not all(isinstance(step, str) for step in steps):
        raise BadRow("a column without text", "column 'completions' holds a step that is not text")
    # Steps carry no separator of their own: each goes on a line, so that their concatenation is the response.
    lines = tuple(step if step.endswith("\n") else f"{step}\n" for step in steps[:-1]) + tuple(steps[-1:])
    response = Response(_reply("".join(lines)), label=all(labels), steps=lines, step_labels=tuple(labels))
    prompt = cells.content(values, "prompt")
    fields = isinstance(prompt, str)
    return Parsed((Message("user", prompt),) if isinstance(prompt, str) else prompt, (response,), fields=fields)


def _read_first_error(values: Values) -> Parsed:
    steps, said = cells.items(values, "steps"), cells.first(values, "mistake_index", "label")
    if not steps or not all(isinstance(step, str) for step in steps):
        raise BadRow("a column without text", "column 'steps' is not a list of texts")
    if said is not None and (isinstance(said, bool) or not isinstance(said, int) or said >= len(steps) or said < -1):
        raise BadRow("steps without labels", f"the first wrong step is {said!r}, and there are {len(steps)} steps")
    wrong = len(steps) if said in (None, -1) else said
    # From the first error on nothing is right: what follows stands on it.
    labels = [number < wrong for number in range(len(steps))]
    return _read_stepwise({"prompt": cells.text(values, *_ASKED), "completions": steps, "labels": labels})


_ASKED = ("problem", "input", "question", "prompt")


def _read_nectar(values: Values) -> Parsed:
    ranks = [
        (answer["answer"], cells.number(answer.get("rank"))) for answer in cells.records(values, "answers", "answer")
    ]
    responses = tuple(Response(text, score=None if rank is None else -rank) for text, rank in ranks)
    return Parsed(cells.text(values, "prompt"), responses)


def _read_ultrafeedback(values: Values) -> Parsed:
    rated = cells.records(values, "completions", "response")
    responses = [
        Response(
            _reply(item["response"]),
            score=cells.number(item.get("overall_score")),
            ratings=_annotations(item.get("annotations")),
            scale=(1, 5),
        )
        for item in rated
    ]
    return Parsed(_question(values, "instruction"), tuple(responses), fields=True)


def _annotations(found: Any) -> dict[str, float]:
    """Return UltraFeedback's ratings of one completion: a record with a key "Rating" for each aspect."""
    records = found.items() if isinstance(found, Mapping) else ()
    return cells.ratings({name: one.get("Rating") for name, one in records if isinstance(one, Mapping)})


def _read_comparison(values: Values) -> Parsed:
    """Read a summary comparison, with the prompt as the TL;DR models of the literature are asked."""
    info, summaries, choice = values["info"], cells.records(values, "summaries", "text"), values.get("choice")
    if not isinstance(info, Mapping):
        raise BadRow("a column without a record", "column 'info' holds no record")
    if choice not in (0, 1) or len(summaries) != 2:
        raise BadRow("a comparison without a choice", f"choice is {choice!r}, not 0 or 1")
    post = info.get("post")
    if post is None:
        prompt = f"{info.get('article') or ''}\n\nTL;DR:"
    else:
        prompt = f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {post}\n\nTL;DR:"
    texts = [f" {summary['text'].strip()}" for summary in summaries]
    return _pair(prompt, texts[choice], texts[1 - choice], values)


def _solutions(values: Values) -> list[Mapping[str, Any]]:
    return [
        value for value in values.values() if isinstance(value, Mapping) and {"is_correct", "solution"} <= value.keys()
    ]


def _read_solutions(values: Values) -> Parsed:
    responses = [
        Response(_reply(cells.text(solution, "solution")), label=cells.label(solution["is_correct"]))
        for solution in _solutions(values)
    ]
    return Parsed(_question(values, "question"), tuple(responses), fields=True)


def _read_messages(values: Values) -> Parsed:
    turns = cells.turns(values, "messages" if "messages" in values else "conversations")
    prompt, response = talk.split_messages(turns)
    return Parsed(prompt, (Response(response),))


def _read_instruction(values: Values) -> Parsed:
    return Parsed(_question(values, "instruction"), (Response(_reply(cells.text(values, "output"))),), fields=True)


def _read_instruction_pair(values: Values) -> Parsed:
    output = cells.items(values, "output")
    if len(output) != 2 or not all(isinstance(text, str) for text in output):
        raise BadRow("an output that is no pair", "column 'output' is not [chosen, rejected]")
    return _pair(_question(values, "instruction"), _reply(output[0]), _reply(output[1]), values, fields=True)


def _read_answer(values: Values) -> Parsed:
    return Parsed(_question(values, "question"), (Response(_reply(cells.text(values, "answer"))),), fields=True)


def _read_text(values: Values) -> Parsed:
    prompt, response = talk.split_transcript(cells.text(values, "text"))
    return Parsed(prompt, (Response(response),))


FORMATS: dict[str, Format] = {
    "stepwise": Format(("prompt", "completions", "labels"), _read_stepwise, "ratings", grouped=True),
    "first error": Format(("|".join(_ASKED), "steps", "mistake_index|label"), _read_first_error, "ratings"),
    "nectar": Format(("prompt", "answers"), _read_nectar, "ratings"),
    "ultrafeedback": Format(("instruction", "completions"), _read_ultrafeedback, "ratings"),
    "comparison": Format(("info", "summaries", "choice"), _read_comparison, "pairs"),
    "solutions": Format(
        ("question", "ground_truth"), _read_solutions, "ratings", fits=lambda row: bool(_solutions(row))
    ),
    "helpsteer preference": Format(
        ("context|prompt", "response1|response_1", "response2|response_2", "overall_preference|preference_strength"),
        _read_two_responses,
        "ratings",
    ),
    "rated": Format(("prompt", "completion|response", "ratings"), _read_rated, "ratings", grouped=True),
    "helpsteer": Format(("prompt", "response", "helpfulness"), _read_helpsteer, "ratings", grouped=True),
    "conversation preference": Format(("conversations", "chosen", "rejected"), _read_conversation_pair, "pairs"),
    "step preference": Format(("prompt", "initial_reason_steps", "chosen", "rejected"), _read_step_preference, "pairs"),
    "preference": Format(("prompt", "chosen", "rejected"), _read_preference, "pairs"),
    "question preference": Format(("question|instruction|input", "chosen", "rejected"), _read_question_pair, "pairs"),
    "implicit preference": Format(("chosen", "rejected"), _read_implicit, "pairs"),
    "rewarded": Format(("prompt", "completion|response", "reward"), _read_rewarded, "ratings", grouped=True),
    "labelled": Format(("prompt", "completion", "label"), _read_labelled, "ratings", grouped=True),
    "completion": Format(("prompt", "completion|response"), _read_completion, "responses"),
    "messages": Format(("messages|conversations",), _read_messages, "responses"),
    "instruction preference": Format(
        ("instruction", "output"),
        _read_instruction_pair,
        "pairs",
        fits=lambda row: isinstance(row["output"], list),
    ),
    "instruction": Format(("instruction", "output"), _read_instruction, "responses"),
    "question": Format(("question", "answer"), _read_answer, "responses"),
    "text": Format(("text",), _read_text, "responses"),
}
"""Every format by name, the more specific first: a data set has the first format whose columns it has."""
