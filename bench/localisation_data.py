"""Rows for the localisation study on GSM8K: `python -m bench.localisation_data gsm8k_train.jsonl.gz --output folder`.

Solutions without calculator notes are the chosen responses. In the rejected ones one intermediate result is made wrong
and carried on: later calculator results that used it are computed anew where they can be, and stay where they cannot.
Only the first wrong number is labelled as the error; what follows from it is right arithmetic on it.
"""

import argparse
import ast
import operator
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenq.data.files.local import read_file
from tokenq.files import write_json_lines

_NOTE = re.compile(r"<<([^<>=]*)=([^<>]*)>>(-?[\d,]*\.?\d+)?")


def main() -> None:
    """Write demonstrations, training pairs and held-out pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--demonstrations", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=330)
    parser.add_argument("--held-out", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = [row.values for row in read_file(asked.source, str(asked.source))]
    demonstrations, rest = rows[: asked.demonstrations], rows[asked.demonstrations :]
    found = list(corrupted(rest, asked.pairs + asked.held_out, random.Random(asked.seed)))
    asked.output.mkdir(parents=True, exist_ok=True)
    shown = [{"prompt": prompt(row), "completion": solution(row["answer"])[0]} for row in demonstrations]
    write_json_lines(asked.output / "demonstrations.jsonl", shown)
    write_json_lines(asked.output / "pairs.jsonl", found[: asked.pairs])
    more = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in found[: asked.pairs]]
    write_json_lines(asked.output / "chosen.jsonl", more)
    write_json_lines(asked.output / "held_out.jsonl", found[asked.pairs :])


def prompt(row: dict[str, Any]) -> str:
    """Return a question as a policy that was trained on GSM8K's own columns reads it (docs/data.md)."""
    return f"{row['question']}\n"


def solution(answer: str) -> tuple[str, list[tuple[str, int, int]]]:
    """Return a solution without notes, and (expression, start, end) of every calculator result in it."""
    text, places, done = "", [], 0
    for note in _NOTE.finditer(answer):
        text += answer[done : note.start()]
        shown = note[3] or ""
        if shown:
            places.append((note[1], len(text), len(text) + len(shown)))
        text += shown
        done = note.end()
    return text + answer[done:], places


def corrupted(rows: list[dict[str, Any]], count: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    """Yield pairs with the stretch of the first wrong number of the rejected response."""
    made = 0
    for row in rows:
        text, places = solution(row["answer"])
        if not places or made == count:
            continue
        which = dice.randrange(len(places))
        wrong = _carried_on(text, places, which, dice)
        if wrong is None:
            continue
        response, start, end = wrong
        made += 1
        yield {"prompt": prompt(row), "chosen": text, "rejected": response, "errors": [[start, end]]}


def _carried_on(
    text: str, places: list[tuple[str, int, int]], which: int, dice: random.Random
) -> tuple[str, int, int] | None:
    """Return (solution with one result made wrong and carried on, start and end of it); None where that cannot be."""
    _, start, end = places[which]
    old = text[start:end]
    try:
        value = float(old.replace(",", ""))
    except ValueError:
        return None
    new = _written(value + dice.choice([1, 2, 5, 10] if value >= 10 else [1, 2]) * dice.choice([-1, 1]))
    if new == old or float(new) < 0:
        return None
    changed, pieces, done = {old.replace(",", ""): new}, [text[:start], new], end
    for later, begin, stop in places[which + 1 :]:
        shown = text[begin:stop]
        renewed = re.sub(r"\d+(?:\.\d+)?", lambda number: changed.get(number[0], number[0]), later)
        result = _calculated(renewed)
        said = _written(result) if renewed != later and result is not None else shown
        if said != shown:
            changed[shown.replace(",", "")] = said
        pieces += [_renewed(text[done:begin], changed), said]
        done = stop
    pieces.append(_renewed(text[done:], changed))
    return "".join(pieces), start, start + len(new)


def _renewed(text: str, changed: dict[str, str]) -> str:
    """Return text behind the error with the numbers that it has made wrong; by chance also equal ones of others."""
    return re.sub(r"\d+(?:\.\d+)?", lambda number: changed.get(number[0], number[0]), text)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _calculated(expression: str) -> float | None:
    """Return the value of an expression of numbers and + − * /, None for anything else."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                return _OPERATORS[type(sign)](value(left), value(right))
        raise ValueError(expression)

    try:
        return value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _written(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.2f}".rstrip("0")


if __name__ == "__main__":
    main()
