"""Read answers of other programs as results: AlpacaEval, MT-bench, batches of OpenAI and vLLM, harnesses.

A form is a row of `OUTPUTS`: the columns that it is told by, and a reader of one row to its prompt and its answers.
Some files hold no prompts; those are taken from another file with the same names.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tokenq.data.files.local import Row, read_file, whole
from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.records.examples import Text
from tokenq.records.results import Candidate, Cost, SearchResult, read_results
from tokenq.records.rollouts import Rollout

NAMES = ("id", "question_id", "custom_id", "uid", "task_id", "doc_id", "request_id")
"""Columns in which a prompt has a name, by which two files are put side by side."""


class StoredAnswer(NamedTuple):
    """A prompt, empty where the file does not hold it, and what was answered."""

    prompt: Text
    texts: list[str]


def read_answers(path: Path) -> list[SearchResult]:
    """Return the results of a file: of `tokenq search`, or of another program.

    Raises:
        UserError: there is no such file, its form is not known, or a row cannot be read.
    """
    if not path.is_file() or _is_ours(path):
        return list(read_results(path))
    rows = whole(read_file(path, str(path)))
    form = next((form for columns, form in OUTPUTS if _has(rows[0].values, columns)), None)
    if form is None:
        known = "; ".join(" + ".join(columns) for columns, _ in OUTPUTS)
        raise UserError(
            f"{rows[0].where}: the columns {', '.join(map(repr, rows[0].values))} are no answers that can be read.",
            f"Give what tokenq search wrote, or rows with one of: {known}.",
        )
    if rows[0].values.keys() >= ROLLOUT:
        return _of_rollouts(rows, path.stem)
    name = next((name for name in NAMES if all(not cells.is_missing(row.values.get(name)) for row in rows)), None)
    results = []
    for number, row in enumerate(rows, 1):
        try:
            prompt, texts = form(row.values)
        except (BadRow, LookupError, TypeError, AttributeError, StopIteration) as problem:
            detail = problem.detail if isinstance(problem, BadRow) else "it has not the form of the first row"
            raise UserError(f"{row.where}: {detail}.", "Mend the row or leave it out.") from problem
        known_as = str(row.values[name]) if name else str(number)
        candidates = tuple(Candidate(text, (), 0.0, (), None, True) for text in texts)
        results.append(SearchResult(known_as, prompt, path.stem, "", candidates, Cost(0, 0, 0, 0.0, 0)))
    return results


ROLLOUT = {"token_ids", "logps", "finish", "version", "use"}
"""Columns by which a response of an online round is told."""


def _of_rollouts(rows: Sequence[Row], system: str) -> list[SearchResult]:
    """Return the responses of a round by their prompts: those that the policy wrote, to be compared, as samples."""
    found: dict[str, list[Rollout]] = {}
    for row in rows:
        try:
            one = Rollout.from_dict(row.values)
        except (KeyError, TypeError) as problem:
            raise UserError(
                f"{row.where}: no response of a round ({problem}).", "Mend the row or leave it out."
            ) from None
        if one.writer == "policy" and one.compared:
            found.setdefault(one.id, []).append(one)
    results = []
    for name, some in found.items():
        drawn = [Candidate(one.response, one.token_ids, 0.0, one.logps, None, one.finish == "stop") for one in some]
        cost = Cost(sum(len(one.token_ids) for one in some), 0, 0, 0.0, 0)
        results.append(SearchResult(name, some[0].prompt, "sample", system, tuple(drawn), cost))
    return results


def with_prompts(systems: Mapping[str, Sequence[SearchResult]]) -> dict[str, list[SearchResult]]:
    """Return results with missing prompts filled in from other files' results of the same id.

    Raises:
        UserError: no file holds the prompt.
    """
    prompts = {one.id: one.prompt for results in systems.values() for one in results if one.prompt}
    found = {}
    for system, results in systems.items():
        for one in results:
            if one.id not in prompts:
                raise UserError(
                    f"The answers of {system!r} hold no prompts, and no other file has the prompt {one.id!r}.",
                    "Put the prompt of each answer into its row, in a column 'prompt'.",
                )
        found[system] = [replace(one, prompt=one.prompt or prompts[one.id]) for one in results]
    return found


def _is_ours(path: Path) -> bool:
    """Return whether the first line of a file is a search result, or broken."""
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as handle:
        line = handle.readline(2**24)
    try:
        first = json.loads(line)
    except ValueError:
        return True
    return not isinstance(first, Mapping) or {"schema", "candidates"} <= first.keys()


def _has(values: Values, columns: Sequence[str]) -> bool:
    return all(any(name in values for name in column.split("|")) for column in columns)


def _texts(value: Any, name: str) -> list[str]:
    """Return one text or several: a text, a list of texts, or a list of records with a text, a message or turns."""
    return [_text(one, name) for one in (value if isinstance(value, list) else [value])]


def _text(one: Any, name: str) -> str:
    if isinstance(one, Mapping):
        inner = next(
            (one[key] for key in ("text", "message", "turns", "content", "generated_text") if key in one), None
        )
        one = inner[0] if isinstance(inner, list) and inner else inner
        return _text(one, name) if isinstance(one, Mapping) else cells.text({name: one}, name)
    return cells.text({name: one}, name)


def _from_batch(values: Values) -> StoredAnswer:
    """Read a line of a batch of OpenAI or vLLM; it holds no prompt."""
    body = cells.record(cells.record(values, "response"), "body")
    return StoredAnswer("", _texts(cells.items(body, "choices"), "choices"))


def _from_choices(values: Values) -> StoredAnswer:
    """Read answers of MT-bench, of which the first turn counts, or completions that were logged with their messages."""
    prompt = cells.turns(values, "messages") if "messages" in values else ""
    return StoredAnswer(prompt, _texts(cells.items(values, "choices"), "choices"))


def _from_harness(values: Values) -> StoredAnswer:
    """Read a sample of lm-evaluation-harness."""
    asked = values["arguments"]
    first = next(iter(asked.values())) if isinstance(asked, Mapping) else asked[0]
    prompt = first["arg_0"] if isinstance(first, Mapping) else first[0]
    return StoredAnswer(
        cells.text({"arguments": prompt}, "arguments"), _texts(cells.items(values, "resps")[0], "resps")
    )


def _from_helm(values: Values) -> StoredAnswer:
    """Read a request state of HELM."""
    prompt = cells.text(cells.record(values, "request"), "prompt")
    return StoredAnswer(prompt, _texts(cells.items(cells.record(values, "result"), "completions"), "completions"))


def _from_conversation(values: Values) -> StoredAnswer:
    """Read a conversation that ends with the answer."""
    turns = cells.turns(values, "messages")
    if turns[-1].role != "assistant":
        raise BadRow("no assistant turn", "the conversation does not end with an answer")
    return StoredAnswer(turns[:-1], [turns[-1].content])


_PROMPTS = ("prompt", "instruction", "question", "problem", "inputs", "input", "query")
_ANSWERS = (
    *("output", "outputs", "response", "responses", "completion", "completions"),
    *("generated_text", "generation", "generations", "answer"),
)


def _from_columns(values: Values) -> StoredAnswer:
    """Read a prompt and an answer, or several, from columns of their own."""
    asked, name = next(n for n in _PROMPTS if n in values), next(n for n in _ANSWERS if n in values)
    prompt = cells.content(values, asked)
    return StoredAnswer(prompt, _texts(cells.listed(values[name]), name))


Form = Callable[[Values], StoredAnswer]
OUTPUTS: tuple[tuple[tuple[str, ...], Form], ...] = (
    (("custom_id", "response"), _from_batch),
    (("arguments", "resps"), _from_harness),
    (("request", "result"), _from_helm),
    (("choices",), _from_choices),
    (("|".join(_PROMPTS), "|".join(_ANSWERS)), _from_columns),
    (("messages",), _from_conversation),
)
"""Every form of answers: its columns ("a|b" is either), and the reader of a row; the first that fits counts."""
