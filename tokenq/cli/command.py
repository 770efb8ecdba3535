"""A command as the tables of commands hold it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Checked(Protocol):
    """A configuration that can say what is wrong with it."""

    def check(self) -> None:
        """Raise a `UserError` for values that cannot be meant."""


def own_check(config: Any) -> None:
    """Refuse what a configuration itself refuses, where it does.

    Raises:
        UserError: values that cannot be meant.
    """
    if isinstance(config, Checked):
        config.check()


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        config: what it is asked for.
        run: does it and returns the exit code; imports what is heavy.
        again: what to type after an interruption.
        summary: one line for `tokenq --help`.
        sections: headings of its help page, by first field.
        spelt_elsewhere: foreign names of its fields.
        bare: the field that words before the first flag stand for; "" where it stands for none.
        check: refuses a configuration without running it, for `--print-config`.
    """

    config: type[Any]
    run: Callable[[Any], int]
    again: Callable[[Any], str]
    summary: str
    sections: Mapping[str, str]
    spelt_elsewhere: Mapping[str, str]
    bare: str = ""
    check: Callable[[Any], None] = own_check
