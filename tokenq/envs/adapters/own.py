"""Environments of the user's own: FILE.py:CLASS, whose keyword arguments are the options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tokenq.envs.environment import Environment
from tokenq.envs.options import read_options
from tokenq.errors import UserError
from tokenq.judge.function import load_callable


def load_class(name: str) -> Callable[..., Environment]:
    """Return the class, with a `close` that does nothing where it has none.

    Args:
        name: FILE.py:CLASS.

    Raises:
        UserError: there is none, or it lacks a method.
    """
    found = load_callable(name, "--environment ")
    if not inspect.isclass(found):
        raise UserError(f"--environment {name} is no class.", "Give a class with reset and step.")
    for method, form in (("reset", "reset(self, seed)"), ("step", "step(self, action)")):
        if not callable(getattr(found, method, None)):
            raise UserError(f"--environment {name} has no {method}.", f"Give it a method {form}.")
    more = {} if callable(getattr(found, "close", None)) else {"close": lambda self: None}
    return type(found.__name__, (found,), more)


def defaults_of(name: str, found: Callable[..., Environment]) -> dict[str, Any]:
    """Return the defaults of the options of a class.

    Raises:
        UserError: an argument has none.
    """
    defaults = {}
    for argument in inspect.signature(found).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.default is argument.empty:
            raise UserError(f"The argument {argument.name} of --environment {name} has no default.", "Give it one.")
        defaults[argument.name] = argument.default
    return defaults


def maker(name: str, found: Callable[..., Environment]) -> Callable[[Mapping[str, str]], Callable[[], Environment]]:
    """Return the function that makes factories of a class."""
    defaults = defaults_of(name, found)

    def make(given: Mapping[str, str]) -> Callable[[], Environment]:
        options = read_options(name, given, defaults)
        return lambda: found(**options)

    return make
