"""Layouts of solutions in steps, or as a whole, that are right or wrong."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenq.data.chat.messages import is_turns
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.parsed_row import CONVERSATION, ParsedRow, question, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Message, Response


def read_stepwise(values: Values) -> ParsedRow:
    """Read steps with a label each."""
    steps, labels = cells.items(values, "completions"), [cells.label(label) for label in cells.items(values, "labels")]
    if len(steps) != len(labels):
        raise BadRow("steps without labels", f"{len(steps)} completions but {len(labels)} labels")
    if not all(isinstance(step, str) for step in steps):
        raise BadRow("a column without text", "column 'completions' holds a step that is not text")
    # Steps carry no separator of their own: each goes on a line, so that their concatenation is the response.
    lines = tuple(step if step.endswith("\n") else f"{step}\n" for step in steps[:-1]) + tuple(steps[-1:])
    response = Response(reply("".join(lines)), label=all(labels), steps=lines, step_labels=tuple(labels))
    prompt = cells.content(values, "prompt")
    fields = isinstance(prompt, str)
    return ParsedRow((Message("user", prompt),) if isinstance(prompt, str) else prompt, (response,), fields=fields)


ASKED = ("problem", "input", "question", "prompt")
"""The columns in which a problem may stand."""


def read_first_error(values: Values) -> ParsedRow:
    """Read steps with the place of the first wrong one."""
    steps, name = cells.items(values, "steps"), "mistake_index" if "mistake_index" in values else "label"
    if not steps or not all(isinstance(step, str) for step in steps):
        raise BadRow("a column without text", "column 'steps' is not a list of texts")
    said = cells.whole(values[name], name)
    if said is not None and not -1 <= said < len(steps):
        said_so = f"the first wrong step is {cells.shown(said)}, and there are {len(steps)} steps"
        raise BadRow("steps without labels", said_so)
    wrong = len(steps) if said in (None, -1) else said
    # From the first error on nothing is right: what follows stands on it.
    labels = [number < wrong for number in range(len(steps))]
    return read_stepwise({"prompt": cells.text(values, *ASKED), "completions": steps, "labels": labels})


def solutions(values: Values) -> list[Mapping[str, Any]]:
    """Return the columns that hold a solution and whether it is right."""
    return [
        value for value in values.values() if isinstance(value, Mapping) and {"is_correct", "solution"} <= value.keys()
    ]


def read_solutions(values: Values) -> ParsedRow:
    """Read solutions of several models, right or wrong."""
    responses = [
        Response(reply(cells.text(solution, "solution")), label=cells.label(solution["is_correct"]))
        for solution in solutions(values)
    ]
    return ParsedRow(question(values, "question"), tuple(responses), fields=True)


MARK = "ки"
"""What stands behind each step in Math-Shepherd: a token that its tokenizer has, and mathematics has not."""

_FIRST_STEP = re.compile(r"\s*(?=Step\s*1\s*:)")


def is_marked(values: Values) -> bool:
    """Return whether a row has marks behind its steps (Math-Shepherd)."""
    return isinstance(values["input"], str) and MARK in values["input"]


def read_marked(values: Values) -> ParsedRow:
    """Read question and steps in one text, and the same text with "+" or "-" in place of the marks (Math-Shepherd)."""
    *pieces, tail = cells.text(values, "input").split(MARK)
    marked = cells.text(values, "label")
    if not pieces:
        raise BadRow("steps without labels", "no step is marked")
    labels: list[str] = []
    place = 0
    for piece in pieces:
        sign = marked[place + len(piece) : place + len(piece) + 1]
        if not marked.startswith(piece, place) or sign not in ("+", "-"):
            raise BadRow("steps without labels", f"label and input differ at step {len(labels) + 1}")
        labels.append(sign)
        place += len(piece) + 1
    starts = [found.end() for found in _FIRST_STEP.finditer(pieces[0])]
    if not starts or not pieces[0][: starts[-1]].strip():
        raise BadRow("steps without a question", "the text before the first mark has no 'Step 1:' behind a question")
    asked, pieces[0] = pieces[0][: starts[-1]].strip(), pieces[0][starts[-1] :]
    steps = [piece.strip() for piece in pieces]
    if tail.strip():
        raise BadRow("steps without labels", f"there is text behind the last mark: {tail.strip()[:40]!r}")
    return read_stepwise({"prompt": asked, "completions": steps, "labels": labels})


def is_prm800k(values: Values) -> bool:
    """Return whether a row is one of PRM800K: a record of a problem, and one of labelled steps."""
    asked, label = values["question"], values["label"]
    return isinstance(asked, Mapping) and "problem" in asked and isinstance(label, Mapping) and "steps" in label


def read_prm800k(values: Values) -> ParsedRow:
    """Read the path that a labeller of PRM800K took through a solution: a step rated −1 is wrong, 0 and 1 are right.

    At each step the completion that was gone on from counts, else the one that a person wrote, which is right; where
    neither is there, the path ends with the first completion. A path is right if all its steps are and it was found to
    be a solution.
    """
    steps: list[str] = []
    labels: list[bool] = []
    for step in cells.items(cells.record(values, "label"), "steps"):
        text, right, ends = _taken(step)
        if text is None:
            break
        steps.append(text)
        labels.append(right)
        if ends:
            break
    if not steps:
        raise BadRow("steps without labels", "no step has a completion")
    parsed = read_stepwise(
        {"prompt": cells.text(values["question"], "problem"), "completions": steps, "labels": labels}
    )
    (response,) = parsed.responses
    finished = values["label"].get("finish_reason") in ("solution", None)
    return parsed._replace(responses=(replace(response, label=bool(response.label) and finished),))


def _taken(step: Any) -> tuple[str | None, bool, bool]:
    """Return (text, whether it is right, whether the path ends with it) of one step."""
    if not isinstance(step, Mapping):
        raise BadRow("steps without labels", "a step is no record")
    completions = cells.listed(step.get("completions")) or []
    chosen = cells.whole(step.get("chosen_completion"), "chosen_completion")
    person = step.get("human_completion")
    if chosen is None and person is not None:
        written = person.get("text") if isinstance(person, Mapping) else person
        return cells.text({"human_completion": written}, "human_completion"), True, False
    if not completions:
        return None, False, True
    if chosen is not None and not 0 <= chosen < len(completions):
        raise BadRow("steps without labels", f"chosen_completion is {chosen} of {len(completions)} completions")
    one = completions[chosen or 0]
    rating = cells.number(one.get("rating"), "rating")
    if rating is None:
        raise BadRow("steps without labels", "a step has no rating")
    return cells.text(one, "text"), rating >= 0, chosen is None


_SIGNS = ("+", "-")


def is_signed(values: Values) -> bool:
    """Return whether every assistant turn is "+" or "-" (RLHFlow's process reward data)."""
    turns = cells.first(values, *CONVERSATION)
    if not is_turns(turns):
        return False
    said = [turn for turn in map(_said, turns) if turn[0] in ("assistant", "gpt")]
    return bool(said) and all(text in _SIGNS for _, text in said)


def _said(turn: Mapping[str, Any]) -> tuple[str, str]:
    content = turn["content"] if "content" in turn else turn.get("value")
    return str(turn.get("role", turn.get("from"))), str(content).strip()


def read_signed(values: Values) -> ParsedRow:
    """Read steps as turns of a user, each answered by "+" or "-"; the first holds the question, up to "Step 1"."""
    turns = cells.turns(values, next(name for name in CONVERSATION if name in values))
    steps = [turn.content for turn in turns if turn.role == "user"]
    labels = [turn.content.strip() for turn in turns if turn.role == "assistant"]
    starts = [found.end() for found in _FIRST_STEP.finditer(steps[0])] if steps else []
    if not starts or not steps[0][: starts[-1]].strip():
        raise BadRow("steps without a question", "the first turn has no 'Step 1:' behind a question")
    asked, steps[0] = steps[0][: starts[-1]].strip(), steps[0][starts[-1] :]
    return read_stepwise({"prompt": asked, "completions": [step.strip() for step in steps], "labels": labels})
