"""Answers as Math-Verify of Hugging Face finds and compares them: sets, intervals, equations, algebra.

It is an extra package, imported when it is asked for.
"""

import threading
from typing import Any

from tokenq.errors import UserError
from tokenq.judge.formulas import plain_formula

SECONDS = 3
"""How long a formula may be read, and two may be compared; it is kept by a signal, which the main thread alone gets."""


def math_verify() -> Any:
    """Return the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import math_verify
    except ImportError as problem:
        raise UserError("--answer math needs Math-Verify.", "pip install 'tokenq[math]'") from problem
    return math_verify


def math_answer(text: str) -> str | None:
    """Return the answer of a text, None where no formula and no number is found."""
    found = _read(text)
    return plain_formula(str(found[-1])) or None if found else None


def equal_in_math(truth: str, answer: str) -> bool:
    """Return whether an answer is the true one, as far as algebra can tell."""
    if truth == answer:
        return True
    both = _read(f"${truth}$"), _read(f"${answer}$")
    return all(both) and bool(math_verify().verify(*both, timeout_seconds=_seconds()))


def _read(text: str) -> list[Any]:
    found: list[Any] = math_verify().parse(text.replace("−", "-"), parsing_timeout=_seconds())
    return found


def _seconds() -> int | None:
    return SECONDS if threading.current_thread() is threading.main_thread() else None
