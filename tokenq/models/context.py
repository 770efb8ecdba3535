"""The context of a model: how many tokens it reads at most."""

from collections.abc import Iterable
from typing import Any


def context_of(model: Any) -> int | None:
    """Return the most positions that a model was made for; None without such a number (state-space models, ALiBi).

    Learned positions end there; rotary ones go on, but nobody has trained what lies behind.

    Args:
        model: a model of `transformers`.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def least_context(models: Iterable[Any]) -> int | None:
    """Return the most tokens that all of some models can hold, None where none of them has such a number."""
    return min((one for model in models if (one := context_of(model)) is not None), default=None)
