"""Options of environments: name=value as text on the command line, values of the type of their defaults in code."""

from collections.abc import Mapping
from typing import Any

from tokenq.errors import unknown_name
from tokenq.parsing import convert

Options = Mapping[str, Any]
"""Options by name: defaults, or what was asked for on top of them."""


def read_options(environment: str, given: Mapping[str, Any], defaults: Options) -> dict[str, Any]:
    """Return all options of an environment, what was given in the types of the defaults.

    Args:
        environment: its name, for messages.
        given: what was asked for; texts are read.
        defaults: of every option that it has.

    Raises:
        UserError: an option that it has not (with the nearest that it has), or a value of another type.
    """
    read = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            raise unknown_name(f"option of the environment {environment}", name, defaults)
        where = f"--environment-options {name}"
        kind = type(defaults[name]) if type(defaults[name]) in (bool, int, float) else str
        read[name] = convert(value, kind, where) if isinstance(value, str) else value
    return read
