"""A digest of a data set that is the same if and only if what is learnt from it is the same.

It sees every number and every mask that stands beside the tokens, and neither where a row comes from nor how it was
written. Whether two rows have the same tokens, whatever is learnt of them, is another question: `group_key`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tokenq.records.examples import TokenGroup, TokenResponse


def data_digest(groups: Iterable[TokenGroup]) -> str:
    """Return the digest of groups in their order, 64 hexadecimal digits."""
    return hashlib.sha256("".join(group_digest(group) for group in groups).encode()).hexdigest()


def group_digest(group: TokenGroup) -> str:
    """Return the digest of one group, 32 hexadecimal digits: its tokens and everything learnt from them."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _said(group):
        kind, content = _bytes(value)
        digest.update(f"{name}:{kind}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def group_key(group: TokenGroup) -> str:
    """Return a key of the content of a group, 32 hexadecimal digits: its ids, and neither its origin nor its masks."""
    digest = hashlib.blake2b(digest_size=16)
    for ids in (group.prompt_ids, *(response.ids for response in group.responses)):
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()


def _said(group: TokenGroup) -> Iterator[tuple[str, Any]]:
    """Yield everything that is learnt from a group, by name."""
    yield "prompt", group.prompt_ids.astype("<i4")
    yield "pair", group.is_pair
    if group.margin is not None:
        yield "margin", float(group.margin)
    for response in group.responses:
        yield "response", response.ids.astype("<i4")
        yield from ((name, value) for name, value in _of_response(response) if value is not None)


def _of_response(response: TokenResponse) -> Iterator[tuple[str, Any]]:
    yield "mask", response.mask
    yield "terminal", response.terminal
    given = response.given
    yield "label", None if given is None else given.label
    for name, column in sorted(response.token_columns.items()):
        yield name, np.asarray(column, "<f4" if column.dtype.kind == "f" else "<i4")
    for name, numbers in sorted(response.response_columns.items()):
        yield name, np.asarray(numbers, "<f4")
    if given is not None:
        yield "score", None if given.score is None else float(given.score)
        yield "rated", repr(sorted((name, float(rating)) for name, rating in given.ratings.items())) or None
        yield "scale", None if given.scale is None else repr(tuple(map(float, given.scale)))
        yield "labels of steps", repr([*map(bool, given.step_labels)]) if given.step_labels else None
        yield "token numbers", repr(sorted(given.token_numbers.items())) if given.token_numbers else None
        yield "texts of steps", repr(list(given.steps)) if given.steps else None


def _bytes(value: Any) -> tuple[str, bytes]:
    """Return (kind, bytes) of a value: two values of one kind have the same bytes only when they are the same."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}", np.ascontiguousarray(value).tobytes()
    return type(value).__name__, repr(value).encode("utf-8", "backslashreplace")
