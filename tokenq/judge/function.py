"""A judge that is a function of the user's own: FILE.py:NAME, called with prompts and responses."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenq.errors import UserError, unknown_name
from tokenq.records.examples import Text

Function = Callable[[Sequence[Any], Sequence[str]], Sequence[float]]
"""(prompts, responses) → what each response is worth; a prompt is its text, or its turns as dictionaries."""


def load_function(name: str) -> Function:
    """Return the function that judges, as `load_callable`."""
    found: Function = load_callable(name, "--judge ")
    return found


def load_callable(name: str, flag: str) -> Callable[..., Any]:
    """Return a function or a class of a file.

    Args:
        name: FILE.py:NAME. The file is run, as a script would be.
        flag: that names it, for messages.

    Raises:
        UserError: there is no such file or no such function, or the file cannot be run.
    """
    file, _, wanted = name.rpartition(":")
    functions = {key: value for key, value in load_file(file, f"{flag}{name}").items() if callable(value)}
    if wanted not in functions:
        raise unknown_name(f"function in {file}", wanted, functions)
    found: Callable[..., Any] = functions[wanted]
    return found


def load_file(file: str, asked: str) -> dict[str, Any]:
    """Return the names that a file defines or imports; it is run, as a script would be.

    Args:
        file: a Python file.
        asked: how it was asked for, for messages.

    Raises:
        UserError: there is no such file, or it cannot be run.
    """
    path = Path(file).expanduser()
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"{asked}: there is no file {file}.", "Name it as FILE.py:NAME.")
    own = (
        f"tokenq_judge_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"  # hides no module of that name
    )
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None  # it ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses of the file look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise UserError(f"{path} cannot be run: {problem!r}.", "Try it alone: python " + str(path)) from problem
    return vars(module)


def called(function: Function, name: str, prompts: Sequence[Text], responses: Sequence[str]) -> Sequence[float]:
    """Return what a function says of responses.

    Raises:
        UserError: it raises.
    """
    plain = [one if isinstance(one, str) else [turn.to_dict() for turn in one] for one in prompts]
    try:
        return [float(value) for value in function(plain, list(responses))]
    except Exception as problem:
        raise UserError(
            f"--judge {name} failed on {len(responses)} responses: {problem!r}.",
            "What was judged before is kept: mend the function, and go on with --resume.",
        ) from problem
