"""Checks claims in worlds of many seeds, side by side where processes can be forked."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tokenq.errors import unknown_name
from tokenq.threads import one_thread
from tokenq.verify import table
from tokenq.verify.claim import Claim, ClaimResult, find


def claims_of(topics: Sequence[str]) -> list[Claim]:
    """Return the claims of some topics, or all of them, those of one topic together.

    Raises:
        UserError: an unknown topic.
    """
    known = dict.fromkeys(claim.topic for claim in table.CLAIMS)
    for topic in topics:
        if topic not in known:
            raise unknown_name("topic", topic, known)
    return [claim for topic in known if topic in (topics or known) for claim in table.CLAIMS if claim.topic == topic]


def check(claims: Sequence[Claim], seeds: range) -> Iterator[ClaimResult]:
    """Yield what each claim comes to in the worlds of some seeds, in order."""
    with one_thread():  # the worlds are so small that handing work over takes longer than doing it
        yield from _findings([partial(find, claim, seeds) for claim in claims])


def _findings(checks: Sequence[Callable[[], ClaimResult]]) -> Iterator[ClaimResult]:
    """Yield what each check finds, in their order, from one process per core where processes can be forked."""
    cores = min(os.cpu_count() or 1, len(checks))
    if cores < 2 or "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        yield from (check() for check in checks)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the children start none
        pool = multiprocessing.get_context("fork").Pool(cores, _take, (checks,))
    with pool:
        yield from pool.imap(_check, range(len(checks)))


_CHECKS: list[Callable[[], ClaimResult]] = []
"""The checks of a forked process: taken over as they are, since functions made in place cannot be sent."""


def _take(checks: Sequence[Callable[[], ClaimResult]]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool ends its processes so; the command's own answer is words
    _CHECKS[:] = checks


def _check(number: int) -> ClaimResult:
    return _CHECKS[number]()
