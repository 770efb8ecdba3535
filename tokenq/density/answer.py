"""The answer of a writer that was asked for a whole chain: strict JSON, or what can be mended into it, with a count.

What is asked for is a list of records with the keys `Missing_Entities` and `Denser_Summary`. Every way in which an
answer strays from that has a name, and is counted; an answer that holds no summary at all is refused.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MISSING, DENSER = "Missing_Entities", "Denser_Summary"

FENCES: Final = "in fences"
PROSE: Final = "beside prose"
WRAPPED: Final = "in a record"
KEYS: Final = "other keys"
LISTED: Final = "entities as a list"
PYTHON: Final = "no JSON, but Python"
BREAKS: Final = "line breaks in texts"
COMMAS: Final = "a comma too many"
CUT: Final = "cut off"
FEWER: Final = "fewer steps"
MORE: Final = "more steps"
REPEATED: Final = "the same summary twice"
BLANK: Final = "a step without a summary"


class Unreadable(ValueError):
    """An answer without a chain in it; says why."""


@dataclass(frozen=True)
class Step:
    """One step of a chain as it was answered.

    Attributes:
        missing: entities that the writer named as missing before.
        summary: the summary with them.
    """

    missing: tuple[str, ...]
    summary: str


@dataclass(frozen=True)
class Answer:
    """A chain as it was answered.

    Attributes:
        steps: its steps, at most as many as were asked for.
        repairs: how it strays from what was asked for: what was mended, and what is short of it.
    """

    steps: tuple[Step, ...]
    repairs: Counter[str] = field(default_factory=Counter)

    @property
    def strict(self) -> bool:
        """Return whether it is what was asked for to the letter."""
        return not self.repairs


def read_answer(text: str, steps: int) -> Answer:
    """Return the chain of an answer.

    Args:
        text: what the writer wrote.
        steps: how many steps were asked for; further ones are left out and counted.

    Raises:
        Unreadable: there is none.
    """
    repairs = Counter[str]()
    records = _records(_parsed(text, repairs), repairs)
    found = list[Step]()
    for record in records:
        step = _step(record, repairs)
        if not step.summary:
            repairs[BLANK] += 1
        elif found and step.summary.split() == found[-1].summary.split():
            repairs[REPEATED] += 1
        else:
            found.append(step)
    if not found:
        raise Unreadable("no step of it has a summary")
    if len(records) != steps:
        repairs[FEWER if len(records) < steps else MORE] += 1
    return Answer(tuple(found[:steps]), repairs)


def _parsed(text: str, repairs: Counter[str]) -> Any:
    body = text.strip()
    fenced = re.search(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|$)", body, re.DOTALL)
    if fenced and re.search(r"[\[{]", fenced[1]):
        repairs[FENCES] += 1
        if body[: fenced.start()].strip() or body[fenced.end() :].strip():
            repairs[PROSE] += 1
        body = fenced[1].strip()
    first = re.search(r"\[\s*\{|\{", body)
    if first is None:
        raise Unreadable("there is no list of records in it")
    if first.start() > 0:
        repairs[PROSE] += 1
        body = body[first.start() :]
    for name, mend in _MENDING.items():
        try:
            found, end = mend(body)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if name:
            repairs[name] += 1
        if body[end:].strip():
            repairs[PROSE] += not repairs[PROSE]
        return found
    raise Unreadable("its list of records cannot be read")


def _decoded(body: str, *, strict: bool = True) -> tuple[Any, int]:
    return json.JSONDecoder(strict=strict).raw_decode(body)


def _without_commas(body: str) -> tuple[Any, int]:
    mended = re.sub(r",(\s*[\]}])", r"\1", body)
    found, end = _decoded(mended, strict=False)
    return found, len(body) - (len(mended) - end)


def _python(body: str) -> tuple[Any, int]:
    end = body.rfind("]" if body[0] == "[" else "}") + 1
    return ast.literal_eval(body[:end]), end


def _cut(body: str) -> tuple[Any, int]:
    """Return the whole records at the beginning of a list whose end is not there."""
    found, place = list[Any](), body.find("{")
    while place >= 0:
        try:
            record, end = _decoded(body[place:], strict=False)
        except ValueError:
            break
        found.append(record)
        place = body.find("{", place + end)
    if not found:
        raise ValueError
    return found, len(body)


_MENDING: Mapping[str, Any] = {
    "": _decoded,
    BREAKS: lambda body: _decoded(body, strict=False),
    COMMAS: _without_commas,
    PYTHON: _python,
    CUT: _cut,
}
"""Ways to read a list, the strictest first, by what is then said of it."""


def _records(found: Any, repairs: Counter[str]) -> list[Mapping[str, Any]]:
    """Return the records of what was parsed: a list, a record that holds it, or one step alone."""
    if isinstance(found, Mapping):
        repairs[WRAPPED] += 1
        inner = next((one for one in found.values() if _is_records(one)), None)
        steps = [one for one in found.values() if isinstance(one, Mapping)]
        found = inner if inner is not None else steps or [found]
    if not _is_records(found):
        raise Unreadable("it is no list of records")
    records: list[Mapping[str, Any]] = found
    return records


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(one, Mapping) for one in value)


def _step(record: Mapping[str, Any], repairs: Counter[str]) -> Step:
    plain = {re.sub(r"[^a-z]", "", str(name).lower()): value for name, value in record.items()}
    if not {MISSING, DENSER} <= set(record):
        repairs[KEYS] += 1
    missing = record.get(MISSING, _first(plain, "missing", "entit"))
    summary = record.get(DENSER, _first(plain, "summar", "dens"))
    if isinstance(missing, list):
        repairs[LISTED] += 1
        names = [str(one) for one in missing]
    else:
        names = named(missing) if isinstance(missing, str) else []
    return Step(
        tuple(name.strip() for name in names if name.strip()), summary.strip() if isinstance(summary, str) else ""
    )


def named(said: str) -> list[str]:
    """Return entities that are listed with semicolons, or else with commas."""
    parts = said.split(";" if ";" in said else ",")
    return [name for part in parts if (name := part.strip().strip(".\"'*-• ").strip())]


def _first(record: Mapping[str, Any], *parts: str) -> Any:
    return next((value for part in parts for name, value in record.items() if part in name), None)
