"""Errors for rows that cannot be used, whatever stage finds them; the first in the file is named."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tokenq.data.turns import BadRow
from tokenq.errors import UserError

BAD_ROWS = ("error", "drop")
"""What to do with a row that cannot be used: stop and name it, or leave it out and count it."""

HINT = "Fix these rows, or leave them out with --bad-rows drop."


class UnusableRow(NamedTuple):
    """A row that cannot be used.

    Attributes:
        place: its number in the order of the data.
        where: origin for the message.
        problem: what is wrong.
    """

    place: int
    where: str
    problem: BadRow


class BadRowsError(UserError):
    """Some rows cannot be used, and dropping them was not asked for.

    Args:
        bad: the rows.
        rows: how many there are in all.
        before: what was read before the first of them; one of it may be found to be bad later.
        hint: what to do about it.
    """

    def __init__(self, bad: Sequence[UnusableRow], rows: int, before: Sequence[Any] = (), hint: str = "") -> None:
        first = min(bad, key=lambda one: one.place)
        reasons = Counter(one.problem.reason for one in bad)
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        more = f" In all, {len(bad)} of {rows} rows cannot be used: {counts}." if len(bad) > 1 else ""
        super().__init__(f"{first.where}: {first.problem.detail}.{more}", hint or first.problem.hint or HINT)
        self.before = before


@contextlib.contextmanager
def first_named(check: Callable[[Sequence[Any]], object]) -> Iterator[None]:
    """Read rows; if that stops at a bad row, name an earlier one that a later stage would refuse.

    Args:
        check: what comes later; it raises `BadRowsError` at the first row that is bad for it.
    """
    try:
        yield
    except BadRowsError as error:
        try:
            if error.before:
                check(error.before)
        except BadRowsError:
            raise
        except UserError:
            pass  # the rows before it are no data set of their own
        raise


def nothing_left(lost: Counter[str], bad: Sequence[UnusableRow]) -> UserError:
    """Return the error for data of which nothing is left.

    Args:
        lost: what was left out, by reason.
        bad: the rows that cannot be used.
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost.most_common())
    first = f" The first, {bad[0].where}: {bad[0].problem.detail}." if bad else ""
    hint = "Check the data[ and --max-length]."
    return UserError(
        f"No row is left: {reasons or 'there were none'}.{first}", bad[0].problem.hint or hint if bad else hint
    )
