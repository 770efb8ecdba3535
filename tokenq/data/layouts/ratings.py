"""Layouts of rated responses: ratings, rewards, ranks and labels, from which pairs and rankings can be made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenq.data.layouts import cells
from tokenq.data.layouts.answers import label_of, read_completion
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.comparisons import TIE
from tokenq.data.layouts.parsed_row import ParsedRow, question, reply
from tokenq.records.examples import Response, Text


def read_labelled(values: Values) -> ParsedRow:
    """Read a response that is desirable or not."""
    prompt, responses, *_ = read_completion(values)
    return ParsedRow(prompt, (Response(responses[0].content, label=label_of(values)),))


def read_scored(values: Values) -> ParsedRow:
    """Read a response with a score or a rating; one without is a response that is not rated."""
    prompt, responses, *_ = read_completion(values)
    name = "score" if "score" in values else "rating"
    return ParsedRow(prompt, (Response(responses[0].content, score=cells.number(values[name], name)),))


def read_rewarded(values: Values) -> ParsedRow:
    """Read a response with a reward."""
    prompt, responses, *_ = read_completion(values)
    label = None if cells.is_missing(values.get("label")) else cells.label(values["label"])
    return ParsedRow(prompt, (Response(responses[0].content, label, cells.reward(values["reward"])),))


TOKEN_NUMBERS = ("advantages", "old_logps", "returns", "old_values", "target_weights")
"""Columns with a number for each token of a response, or one for all."""


def read_advantages(values: Values) -> ParsedRow:
    """Read a response that a policy wrote, with advantages and other numbers of its tokens."""
    prompt, responses, *_ = read_completion(values)
    found = {name: _numbers(values, name) for name in TOKEN_NUMBERS if not cells.is_missing(values.get(name))}
    ids = () if cells.is_missing(values.get("token_ids")) else _numbers(values, "token_ids")
    response = replace(
        responses[0], token_ids=tuple(map(int, ids)), token_numbers=found, goes_on=values.get("terminal") is False
    )
    return ParsedRow(prompt, (response,))


def _numbers(values: Values, name: str) -> tuple[float, ...]:
    held = values[name] if isinstance(values[name], int | float) else cells.items(values, name)
    return tuple(cells.reward(one, name) for one in (held if isinstance(held, list) else [held]))


HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""The attributes of HelpSteer and HelpSteer2, each rated from 0 to 4."""


def read_helpsteer(values: Values) -> ParsedRow:
    """Read a response that is rated by the attributes of HelpSteer."""
    prompt, responses, *_ = read_completion(values)
    ratings = cells.ratings({name: values.get(name) for name in HELPSTEER})
    score = ratings.get("helpfulness")
    return ParsedRow(prompt, (Response(responses[0].content, score=score, ratings=ratings, scale=(0, 4)),))


def read_rated(values: Values) -> ParsedRow:
    """Read a response with a record of its ratings."""
    prompt, responses, *_ = read_completion(values)
    return ParsedRow(prompt, (Response(responses[0].content, ratings=cells.ratings(cells.record(values, "ratings"))),))


def read_two_responses(values: Values) -> ParsedRow:
    """Read HelpSteer preferences: a strength below zero prefers the first response, above zero the second."""
    prompt = cells.content(values, "context" if "context" in values else "prompt")
    contents: list[Text] = [
        cells.text(values, "response1", "response_1"),
        cells.text(values, "response2", "response_2"),
    ]
    if not isinstance(prompt, str):
        contents = [reply(content) for content in contents]
    strength = cells.number(cells.first(values, "overall_preference", "preference_strength"), "preference strength")
    scores = (None, None) if strength is None else (-strength, strength)
    responses = tuple(Response(content, score=score) for content, score in zip(contents, scores, strict=True))
    tie = TIE if strength == 0 else ""
    return ParsedRow(prompt, responses, margin=None if strength is None else abs(strength), undecided=tie)


def read_nectar(values: Values) -> ParsedRow:
    """Read answers with their ranks, 1 the best (Nectar)."""
    ranks = [
        (answer["answer"], cells.number(answer.get("rank"), "rank"))
        for answer in cells.records(values, "answers", "answer")
    ]
    prompt = cells.content(values, "prompt")
    contents = [text if isinstance(prompt, str) else reply(text) for text, _ in ranks]
    scores = [None if rank is None else -rank for _, rank in ranks]
    return ParsedRow(prompt, tuple(Response(one, score=score) for one, score in zip(contents, scores, strict=True)))


def read_ultrafeedback(values: Values) -> ParsedRow:
    """Read completions with their ratings (UltraFeedback)."""
    rated = cells.records(values, "completions", "response")
    responses = [
        Response(
            reply(item["response"]),
            score=cells.number(item.get("overall_score"), "overall_score"),
            ratings=_annotations(item.get("annotations")),
            scale=(1, 5),
        )
        for item in rated
    ]
    return ParsedRow(question(values, "instruction"), tuple(responses), fields=True)


def _annotations(found: Any) -> dict[str, float]:
    """Return UltraFeedback's ratings of one completion: a record with a key "Rating" for each aspect."""
    records = found.items() if isinstance(found, Mapping) else ()
    return cells.ratings({name: one.get("Rating") for name, one in records if isinstance(one, Mapping)})
