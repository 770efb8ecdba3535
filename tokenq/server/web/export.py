"""Sessions as files: traces as `tokenq score` writes them, and pairs as `tokenq train` reads them."""

from collections.abc import Iterable, Iterator
from typing import Any

from tokenq.files import json_line
from tokenq.server.web.records import Branch, Session


def trace_lines(branches: Iterable[Branch]) -> Iterator[bytes]:
    """Yield the trace of every branch as a line of JSON."""
    for branch in branches:
        yield branch.trace.encode("utf-8", "backslashreplace") + b"\n"


def pair_lines(sessions: Iterable[Session], *, chat: bool) -> Iterator[bytes]:
    """Yield every pair of branches of which one was found better, as a row to train from.

    Pairs of the same text are left out: they prefer nothing.

    Args:
        sessions: what is kept.
        chat: whether the models read turns; rows have turns then, as the pair was read.
    """
    for session in sessions:
        by_id = {branch.id: branch for branch in session.branches}
        for better, worse in session.pairs:
            chosen, rejected = by_id[better].text, by_id[worse].text
            if chosen != rejected:
                yield json_line(_row(session.prompt, chosen, rejected, chat))


def _row(prompt: str, chosen: str, rejected: str, chat: bool) -> dict[str, Any]:
    if not chat:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
