"""Python functions as tools: a model calls them, reads what they return, and is judged by its answer.

A message without a call is the answer and ends the episode. A call that is not valid JSON, of an unknown tool or with
other arguments is answered with what is wrong with it, and counted.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenq.data.prompts import Prompt, load_prompts
from tokenq.envs.adapters import calculator
from tokenq.envs.adapters.tool_calls import Call, calls_in
from tokenq.envs.adapters.tool_functions import Tool, schemas_of, tools_of
from tokenq.envs.environment import Environment, Observation, Step
from tokenq.envs.limits import Late, Worker
from tokenq.envs.options import read_options
from tokenq.errors import nearest, reason
from tokenq.judge.answers import find_equality, find_extractor
from tokenq.judge.tasks import AnswerTask
from tokenq.records.examples import Message

DEFAULTS: Mapping[str, Any] = {
    "file": "",
    "data": "",
    "column": "answer",
    "answer": "last_number",
    "seconds": 5.0,
    "characters": 2000,
}
"""Options: a Python file whose public functions are the tools (a calculator); rows of prompts with true answers (sums
for it); the column of these answers; how an answer is found in a text, as --answer has it; how long a call may take;
how much of what it returns is shown."""


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options."""
    options = read_options("tools", given, DEFAULTS)
    functions = tools_of(options["file"])
    rows = options["data"] or calculator.questions()
    prompts = load_prompts(rows if isinstance(rows, list) else [rows]).prompts
    task = AnswerTask(prompts, options["column"], find_extractor(options["answer"]), find_equality(options["answer"]))
    task.answers  # noqa: B018  (says what is wrong with the first)
    return lambda: Tools(functions, task, options["seconds"], options["characters"])


def schemas(given: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """Return the JSON schemas of the tools."""
    return schemas_of(read_options("tools", given, DEFAULTS)["file"])


class Tools:
    """One question; see `DEFAULTS` for the options."""

    def __init__(self, functions: Mapping[str, Tool], task: AnswerTask, seconds: float, characters: int) -> None:
        self._functions, self._task, self._seconds, self._characters = functions, task, seconds, characters
        self._prompt: Prompt = task.prompts[0]
        self._worker: Worker | None = None

    def reset(self, seed: int) -> Observation:
        """Ask the question of the seed."""
        self._prompt = self._task.prompts[seed % len(self._task.prompts)]
        return self._prompt.text

    def step(self, action: str) -> Step:
        """Call what is called, or judge the answer."""
        calls = calls_in(action)
        if not calls:
            right = self._task.correct(self._prompt.id, action)
            return Step("", right, True, info={"success": right == 1})
        answers, invalid = [], False
        for number, call in enumerate(calls):
            said = call.problem or self._misfit(call)
            invalid |= bool(said)
            shown = said or self._cut(self._called(call))
            answers.append(Message("tool", shown, tool_call_id=f"call_{number}", name=call.name or None))
        return Step(tuple(answers), info={"calls": len(calls), **({"invalid": True} if invalid else {})})

    def close(self) -> None:
        """End the thread of the tools."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _cut(self, text: str) -> str:
        more = len(text) - self._characters
        return text if more <= 0 else f"{text[: self._characters]}… ({more:,} characters more)"

    def _misfit(self, call: Call) -> str:
        """Return what is wrong with the name or the arguments of a call, "" for nothing."""
        if call.name not in self._functions:
            close = nearest(call.name, self._functions)
            guess = f" Did you mean {close}?" if close else ""
            return f"There is no tool {call.name!r}.{guess} Tools: {', '.join(self._functions)}."
        try:
            inspect.signature(self._functions[call.name]).bind(**call.arguments)
        except TypeError as problem:
            return f"{call.name} was called with other arguments than it takes: {problem}."
        return ""

    def _called(self, call: Call) -> str:
        """Return what a tool returns as text, or how it failed."""
        if self._worker is None:
            self._worker = Worker()
        try:
            result = self._worker.run(lambda: self._functions[call.name](**call.arguments), self._seconds)
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        except Late as problem:
            self._worker.abandon()
            self._worker = None
            return f"{call.name} failed: {problem}."
        except (Exception, SystemExit) as problem:
            return f"{call.name} failed: {type(problem).__name__}: {reason(problem)}."
