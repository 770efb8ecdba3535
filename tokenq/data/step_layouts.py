"""Layouts of solutions in steps, or as a whole, that are right or wrong."""

from collections.abc import Mapping
from typing import Any

from tokenq.data import cells
from tokenq.data.cells import Values
from tokenq.data.parsed import Parsed, question, reply
from tokenq.data.turns import BadRow
from tokenq.records import Message, Response


def read_stepwise(values: Values) -> Parsed:
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
    return Parsed((Message("user", prompt),) if isinstance(prompt, str) else prompt, (response,), fields=fields)


ASKED = ("problem", "input", "question", "prompt")
"""The columns in which a problem may stand."""


def read_first_error(values: Values) -> Parsed:
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


def read_solutions(values: Values) -> Parsed:
    """Read solutions of several models, right or wrong."""
    responses = [
        Response(reply(cells.text(solution, "solution")), label=cells.label(solution["is_correct"]))
        for solution in solutions(values)
    ]
    return Parsed(question(values, "question"), tuple(responses), fields=True)
