"""The functions of a file as tools, and what a model is told of them."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenq.envs.adapters import calculator
from tokenq.errors import UserError, reason
from tokenq.judge.function import load_file

Tool = Callable[..., Any]


@cache
def tools_of(file: str) -> dict[str, Tool]:
    """Return the public functions that a file defines.

    Raises:
        UserError: there is no such file, or none in it.
    """
    if not file:
        return {"add": calculator.add, "multiply": calculator.multiply}
    names = load_file(file, f"--environment-options file={file}")
    found: dict[str, Tool] = {
        name: one
        for name, one in names.items()
        if inspect.isfunction(one) and one.__module__ == names["__name__"] and not name.startswith("_")
    }
    if not found:
        raise UserError(f"{file} defines no function that could be a tool.", "A tool's name begins with a letter.")
    return found


def schemas_of(file: str) -> tuple[dict[str, Any], ...]:
    """Return the JSON schemas of the tools of a file, made of their signatures and docstrings.

    Raises:
        UserError: a tool has no docstring, or no types.
    """
    from transformers.utils import get_json_schema

    found = []
    for name, function in tools_of(file).items():
        try:
            found.append(get_json_schema(function))
        except Exception as problem:
            raise UserError(
                f"The tool {name} cannot be described: {reason(problem)}",
                "Give it types, a docstring, and a line for each argument under 'Args:'.",
            ) from problem
    return tuple(found)
