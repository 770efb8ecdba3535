"""tokenq: train language models from preferences and read them token by token as Q-functions."""

from importlib import import_module
from os import fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenq.data.prompts import Given
    from tokenq.decoding import Judge
    from tokenq.jobs.compare import compare as compare
    from tokenq.jobs.inputs import Name
    from tokenq.jobs.train import train as train
    from tokenq.results import SearchResult
    from tokenq.session import Session

__version__ = "0.1.0"


def load(policy: "Name", reference: "Name | None" = None, **options: Any) -> "Session":
    """Return a policy with its reference, ready to be read: `load(p, r, beta=0.1).score(prompt, response)`.

    Args:
        policy: folder or hub id of the policy, or folder of an adapter.
        reference: folder or hub id of the reference; may be left out for an adapter, which is then switched off.
        options: fields of `tokenq.session.Options`: beta, dtype, device, top_k, levels, …
    """
    from tokenq import session  # torch is imported only now

    other = None if reference is None else fspath(reference)
    return session.load(fspath(policy), other, session.Options(**options))


def decode(
    policy: "Name",
    prompts: "Given",
    *,
    judge: "Judge | None" = None,
    **options: Any,
) -> "list[SearchResult]":
    """Return what a search finds for every prompt: `decode(p, "What is 2 + 2?", method="beam", width=5)`.

    Args:
        policy: folder or hub id of the policy, or folder of an adapter.
        prompts: a text (a user's turn, for a tokenizer with a chat template), a conversation as a list of turns, or a
            list of either.
        judge: (prompts, responses) → what each is worth, instead of a reward model.
        options: fields of `tokenq.search.config.SearchConfig`: reference, method, width, n, objective, seed, …
    """
    from tokenq import decoding  # torch is imported only now

    return decoding.decode(fspath(policy), prompts, judge, **options)


_JOBS = {"compare": "tokenq.jobs.compare", "train": "tokenq.jobs.train"}
"""Functions that are imported when they are asked for, with torch, and where they stand."""


def __getattr__(name: str) -> Any:
    """Return a function of `_JOBS`."""
    if name not in _JOBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_JOBS[name]), name)


def __dir__() -> list[str]:
    """Return what there is, imported or not."""
    return sorted({*globals(), *_JOBS})
