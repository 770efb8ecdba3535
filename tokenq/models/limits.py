"""The limits of a model (positions, context, vocabulary), and errors for rows that exceed them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tokenq.core.tensors import PackedBatch
from tokenq.errors import UserError
from tokenq.models.forward.packed_lm import bare
from tokenq.records.examples import TokenGroup

FAR = 8
"""How many times its context a model may read with a warning: rotary positions bear some of that, none bear more."""


class BeyondContext(UserError):
    """A row longer than a model can read."""


@dataclass(frozen=True)
class ModelLimits:
    """The limits on what a model can read.

    Attributes:
        context: tokens of the longest row that it was made for; None where the configuration names none.
        learned: whether there are no more positions than that: the layers hold a table of them.
        tokens: rows of its embedding.
    """

    context: int | None
    learned: bool
    tokens: int

    @classmethod
    def of(cls, model: nn.Module) -> "ModelLimits":
        """Return the limits of a causal LM or a classifier, bare or wrapped by peft."""
        lm = bare(model)
        config, embedding = lm.config.get_text_config(), lm.get_input_embeddings()
        named = config.to_dict()
        name = "max_position_embeddings"
        stated: Any = named.get(name) or named.get(config.attribute_map.get(name, name))  # GPT-2: n_positions
        context = int(stated) if isinstance(stated, int) and stated > 0 else None
        learned = context is not None and any(_holds_positions(lm, context, embedding))
        return cls(context, learned, int(embedding.weight.shape[0]))


def least_context(models: Iterable[nn.Module]) -> int | None:
    """Return the smallest context of some models, None if none of them states one."""
    return min((one for model in models if (one := ModelLimits.of(model).context) is not None), default=None)


def named_limits(model: nn.Module) -> tuple[ModelLimits, str]:
    """Return the limits of a model, and its name."""
    lm = bare(model)
    return ModelLimits.of(model), str(lm.config._name_or_path) or type(lm).__name__


def refuse_beyond(limits: ModelLimits, groups: Sequence[TokenGroup], name: str) -> str | None:
    """Refuse rows that a model cannot read, before anything is computed, and return a warning or None.

    Args:
        limits: of the model.
        groups: what it is to read.
        name: what the model is called.

    Raises:
        BeyondContext: a row is longer than the table of positions, or than the context many times over.
        UserError: a row has a token that the embedding does not.
    """
    longest, where, highest, at = 0, "", -1, ""
    for group in groups:
        length = len(group.prompt_ids) + max(len(response.ids) for response in group.responses)
        if length > longest:
            longest, where = length, group.where
        token = max(int(ids.max()) for ids in (group.prompt_ids, *(r.ids for r in group.responses)) if len(ids))
        if token > highest:
            highest, at = token, group.where
    refuse_tokens((limits, name), [highest], at)
    if limits.context is None or longest <= limits.context:
        return None
    if limits.learned or longest > FAR * limits.context:
        named = f"has {limits.context} positions" if limits.learned else f"was made for {limits.context}"
        raise BeyondContext(
            f"{where} has {longest} tokens, and {name} {named}.",
            f"Give --max-length {limits.context}; what is longer is then cut or left out.",
        )
    return f"{where} has {longest} tokens, and {name} was made for {limits.context}: beyond them it may be far off."


def refuse_tokens(limits: tuple[ModelLimits, str], tokens: Sequence[int], where: str) -> None:
    """Refuse a text with a token outside a model's vocabulary.

    Raises:
        UserError: says which, and both sizes.
    """
    token = max(tokens, default=-1)
    if token >= limits[0].tokens:
        raise UserError(
            f"{where} has token {token}, and the embedding of {limits[1]} has {limits[0].tokens} rows.",
            "The tokenizer has grown: resize the model (resize_token_embeddings), or take its own tokenizer.",
        )


def refuse_positions(limits: tuple[ModelLimits, str], batch: PackedBatch) -> None:
    """Refuse a batch of which a row is longer than a model's table of positions.

    Raises:
        BeyondContext: says both.
    """
    longest = int(batch.position_ids.max()) + 1
    if limits[0].learned and limits[0].context is not None and longest > limits[0].context:
        raise BeyondContext(
            f"A prompt with its response has {longest} tokens, and {limits[1]} has {limits[0].context} positions.",
            f"Give --max-length {limits[0].context}, or another model.",
        )


def _holds_positions(model: nn.Module, context: int, embedding: nn.Module) -> "list[bool]":
    """Return for each table that could hold learned positions whether it has `context` rows."""
    tables = [
        module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module is not embedding
    ]
    tables += [buffer for name, buffer in model.named_buffers() if "position" in name.rpartition(".")[2]]
    # OPT's table begins two rows late.
    return [context <= table.shape[0] <= context + _OFFSET for table in tables if table.ndim == 2]


_OFFSET = 8
"""Rows by which a table of positions may be longer."""
