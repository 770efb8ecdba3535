"""tokenq: train language models from preferences and read them token by token as Q-functions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenq.data.prompts import Given
    from tokenq.decoding import Judge
    from tokenq.results import SearchResult
    from tokenq.session import Session

__version__ = "0.1.0"


def load(policy: str, reference: str | None = None, **options: Any) -> "Session":
    """Return a policy with its reference, ready to be read: `load(p, r, beta=0.1).score(prompt, response)`.

    Args:
        policy: folder or hub id of the policy, or folder of an adapter.
        reference: folder or hub id of the reference; may be left out for an adapter, which is then switched off.
        options: fields of `tokenq.session.Options`: beta, dtype, device, top_k, levels, …
    """
    from tokenq import session  # torch is imported only now

    return session.load(policy, reference, session.Options(**options))


def decode(
    policy: str,
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

    return decoding.decode(policy, prompts, judge, **options)
